"""FLUX vision upscaler: a caption, an enlargement, and tiles of it refined by image-to-image."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, Field

from service.catalog.flux_upscaler import FluxUpscalerInput
from service.gpu.runtimes.base import InputRefused, OutOfMemory, Product, Runtime, Watch
from service.gpu.runtimes.captions import Captioner, LocalCaptioner, ServedCaptioner
from service.gpu.runtimes.chat_server import ChatServer
from service.gpu.runtimes.devices import Stopwatch, release, shrinking, told_apart
from service.gpu.runtimes.files import png
from service.gpu.runtimes.flux_pipeline import FluxPipeline, steps_run, tile_seed
from service.gpu.runtimes.options import Options, Server
from service.gpu.runtimes.safety import SafetyChecker
from service.gpu.runtimes.tiles import TilePlan

SMALLEST_TILE = 256


class FluxOptions(Options, Server):
    """Folders are beside each other in the runtime's own: flux, controlnet, captioner, safety; or where these say."""

    flux: Path | None = Field(default=None, description="The pipeline; a snapshot of FLUX.1-dev.")
    controlnet: Path | None = Field(default=None, description="A ControlNet for upscaling; without a folder none.")
    captioner: Path | None = Field(default=None, description="A vision model; or name a server by server_url.")
    safety: Path | None = Field(default=None, description="An image classifier with a label nsfw.")
    unchecked: bool = Field(default=False, description="Serve also those who want a check, without any classifier.")
    unsafe_from: float = Field(default=0.5, gt=0, le=1, description="The score from which a picture is made black.")
    tile: int = Field(default=1024, ge=16, multiple_of=16, description="Side of a tile in pixels.")
    overlap: int = Field(default=128, ge=0, description="What neighbouring tiles share at least, in pixels.")
    batch: int = Field(default=4, ge=1, description="The most tiles that are refined together.")
    control_weight: float = Field(default=0.6, ge=0, le=2, description="How much the ControlNet holds on.")
    max_pixels: int = Field(default=2**26, ge=1, description="The largest result.")
    offload: bool = Field(default=False, description="Keep parts that do not work in main memory.")


def open_runtime(folder: Path, device: str, options: Mapping[str, str]) -> Runtime:
    return FluxUpscaler(folder, device, FluxOptions.model_validate(options))


class FluxUpscaler:
    def __init__(self, folder: Path, device: str, options: FluxOptions) -> None:
        self._device = device
        self._options = options
        controlnet = options.controlnet or folder / "controlnet"
        self._pipeline = FluxPipeline(
            options.flux or folder / "flux",
            controlnet if options.controlnet or controlnet.is_dir() else None,
            device,
            options.dtype,
            options.offload,
        )
        self._captioner: Captioner = (
            ServedCaptioner(ChatServer(options))
            if options.server_url
            else LocalCaptioner(options.captioner or folder / "captioner", device, options.dtype)
        )
        self._safety = None if options.unchecked else SafetyChecker(options.safety or folder / "safety", device)

    def load(self) -> None:
        self._pipeline.load(self._options.revision)
        self._captioner.load()
        if self._safety is not None:
            self._safety.load()

    def run(
        self, input: BaseModel, pictures: Sequence[Image.Image], watch: Watch, *, loaded_seconds: float = 0.0
    ) -> Product:
        assert isinstance(input, FluxUpscalerInput)
        picture = pictures[0]
        size = enlarged_size(picture.size, input.upscale_factor)
        if size[0] * size[1] > self._options.max_pixels:
            raise InputRefused(
                "upscale_factor",
                f"The result would have {size[0]} x {size[1]} pixels; at most {self._options.max_pixels} are made",
            )
        seed = secrets.randbelow(2**32) if input.seed is None else input.seed
        stopwatch = Stopwatch(self._device, loaded_seconds)
        with stopwatch.part("caption"):
            caption = self._captioned(picture, watch)
        with stopwatch.part("resize"):
            large = picture.resize(size, Image.Resampling.LANCZOS)
        with stopwatch.part("inference"):
            # Without any noise there is nothing to take away, and the pipelines raise.
            if steps_run(input.steps, input.creativity) > 0:
                large = self._refined(large, caption, seed, input, watch)
        notes: dict[str, Any] = {}
        if input.enable_safety_checker:
            with stopwatch.part("safety"):
                large, notes = self._checked(large)
        with stopwatch.part("encode"):
            image = png(large)
        notes["timings"] = {"total_time": stopwatch.total(), **stopwatch.seconds}
        output = {
            "image": image,
            "seed": seed,
            "timings": {"inference": stopwatch.seconds["inference"]},
            "caption": caption,
        }
        return Product(output, notes)

    def _captioned(self, picture: Image.Image, watch: Watch) -> str:
        asks = _Asking(watch)
        return shrinking(
            lambda side: self._captioner.describe(_at_most(picture, side), asks),
            (2048, 672, 336),
            self._device,
            watch.log,
        )

    def _refined(
        self, large: Image.Image, caption: str, seed: int, input: FluxUpscalerInput, watch: Watch
    ) -> Image.Image:
        with told_apart():
            encoded = self._pipeline.encode(caption)
        side, batch = self._options.tile, self._options.batch
        while True:
            plan = TilePlan(*large.size, side, min(self._options.overlap, side // 2))
            try:
                with told_apart():
                    return self._refined_by(plan, batch, large, encoded, seed, input, watch)
            except OutOfMemory as error:
                words = str(error)
            # Only out here is the error gone, whose frames hold the tensors.
            release(self._device)
            watch.log(f"out of memory with {batch} tiles of {plan.size[0]} x {plan.size[1]} together: {words}")
            batch = min(batch, len(plan.boxes))
            if batch > 1:
                batch //= 2
            elif side // 2 >= SMALLEST_TILE:
                side = side // 32 * 16
            else:
                raise OutOfMemory(words)

    def _refined_by(
        self,
        plan: TilePlan,
        batch: int,
        large: Image.Image,
        encoded: dict[str, Any],
        seed: int,
        input: FluxUpscalerInput,
        watch: Watch,
    ) -> Image.Image:
        tiles = list(plan.cut(large))
        each = steps_run(input.steps, input.creativity)
        most = each * len(tiles)
        done = 0
        refined: list[Image.Image] = []
        for start in range(0, len(tiles), batch):
            part = tiles[start : start + batch]

            def told(count: int = len(part)) -> None:
                nonlocal done
                done += count
                watch.step(done, most)

            watch.step(done, most)
            refined += self._pipeline.refine(
                part,
                [tile_seed(seed, start + offset) for offset in range(len(part))],
                encoded,
                strength=input.creativity,
                steps=input.steps,
                guidance=input.guidance,
                weight=self._options.control_weight,
                told=told,
            )
        return plan.join(refined)

    def _checked(self, large: Image.Image) -> tuple[Image.Image, dict[str, Any]]:
        if self._safety is None:
            return large, {"safety": {"checked": False}}
        with told_apart():
            score = self._safety.score(large)
        unsafe = score >= self._options.unsafe_from
        verdict = {"safety": {"checked": True, "unsafe": unsafe, "score": score}}
        # Black in its place, as the model's host does; the output has no word for it.
        return (Image.new("RGB", large.size) if unsafe else large), verdict


class _Asking:
    """While the caption is written no step is done; it can be cancelled."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def step(self, done: int, of: int | None) -> None:
        self._watch.step(0, None)

    def log(self, line: str) -> None:
        self._watch.log(line)


def enlarged_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(round(size[0] * factor), 1), max(round(size[1] * factor), 1)


def _at_most(picture: Image.Image, side: int) -> Image.Image:
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small
