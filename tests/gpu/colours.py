"""A small real model: what colours a picture has, and a mask of its brighter half. Its prompt is its stage direction.

`wait N` takes N steps of 50 ms, `still N` as long without a step, and `until NAME` steps until there is a file NAME;
`deaf` never asks whether to stop; `spoils` fails those that run together with it, too; `plain` has no mask; `lost`,
`asserted`, `full`, `odd` fail as GPUs do; `large` answers more than a webhook may hold; `die NAME` kills its own
process unless the file NAME says that it did so often enough.
"""

import hashlib
import io
import os
import signal
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel

from service.gpu.runtimes.base import (
    Call,
    CannotLoad,
    DeviceLost,
    InputRefused,
    OutOfMemory,
    ProducedFile,
    Product,
    RuntimeFailure,
    ServerAway,
    Watch,
)

STEP_SECONDS = 0.05
MOST_STEPS = 2_000


class Colours:
    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        self._folder = folder
        self._options = options
        self._loaded = False

    def load(self) -> None:
        match self._options.get("weights"):
            case "none":
                raise CannotLoad(f"there are no weights in {self._folder}")
            case "large":
                raise OutOfMemory("65 GiB were asked for")
            case "odd":
                raise ZeroDivisionError("no heads")
            case "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(self._options.get("load_seconds", 0)))
        if "loads" in self._options:
            with Path(self._options["loads"]).open("a") as file:
                file.write(f"{os.getpid()}\n")
        self._loaded = True

    def run(
        self, input: BaseModel, pictures: Sequence[Image.Image], watch: Watch, *, loaded_seconds: float = 0.0
    ) -> Product:
        assert self._loaded
        asked: dict[str, Any] = input.model_dump()
        words = str(asked.get("prompt", "")).split()
        self._act(words, watch)
        [picture] = pictures
        grey = picture.convert("L").point([0] * 128 + [255] * 128)
        if words == ["plain"]:
            return Product({"output": f"{picture.width} by {picture.height}, {_mean(picture)}"})
        if words == ["large"]:
            return Product({"output": "x" * 17 * 2**20})
        output = f"{picture.width} by {picture.height}, {_mean(picture)}"
        watch.log(f"Looked at {picture.width * picture.height} pixels.")
        return Product({"output": output, "masks": [_png(grey)], "timings": {"loading": loaded_seconds}})

    def _act(self, words: Sequence[str], watch: Watch) -> None:
        match words:
            case ["wait", number]:
                for step in range(int(number)):
                    watch.step(step, int(number))
                    time.sleep(STEP_SECONDS)
            case ["until", name]:
                for step in range(MOST_STEPS):
                    if Path(name).exists():
                        break
                    watch.step(step, None)
                    time.sleep(STEP_SECONDS)
            case ["still", number]:
                time.sleep(int(number) * STEP_SECONDS)
            case ["spoils"]:
                raise ValueError("spoils")
            case ["deaf"]:
                time.sleep(600)
            case ["lost"]:
                raise DeviceLost("an illegal memory access was encountered")
            case ["asserted"]:
                raise RuntimeError("CUDA error: device-side assert triggered")
            case ["full"]:
                raise OutOfMemory("2 GiB were asked for")
            case ["odd"]:
                raise InputRefused("prompt", "Is odd.")
            case ["away"]:
                raise RuntimeFailure("its server does not answer")
            case ["away", name, times]:
                if _counted(Path(name), int(times)):
                    raise ServerAway("its server does not answer")
            case ["broken"]:
                raise ZeroDivisionError
            case ["die", name, times]:
                if _counted(Path(name), int(times)):
                    os.kill(os.getpid(), signal.SIGKILL)


class Together(Colours):
    """Runs `together` of them at a time, unless one says `apart`, and writes into the file `batches` how many."""

    @property
    def most(self) -> int:
        return int(self._options["together"])

    def batch_key(self, call: Call) -> object:
        return call.input.model_dump().get("prompt") == "apart"

    def run_many(self, calls: Sequence[Call]) -> list[Product | Exception]:
        with Path(self._options["batches"]).open("a") as file:
            file.write(f"{len(calls)}\n")
        if any(call.input.model_dump().get("prompt") == "spoils" for call in calls):
            raise ValueError("of one, nobody says which")

        def run(call: Call) -> Product | Exception:
            try:
                return self.run(call.input, call.pictures, call.watch, loaded_seconds=call.loaded_seconds)
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(calls)) as threads:
            return list(threads.map(run, calls))


def _counted(counter: Path, times: int) -> bool:
    """Whether it has not been so often yet."""
    before = len(counter.read_text()) if counter.exists() else 0
    if before < times:
        with counter.open("a") as file:
            file.write("x")
    return before < times


def _mean(picture: Image.Image) -> str:
    red, green, blue = picture.resize((1, 1), Image.Resampling.BOX).convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    return f"#{red:02x}{green:02x}{blue:02x}"


def _png(mask: Image.Image) -> ProducedFile:
    written = io.BytesIO()
    mask.save(written, "PNG")
    content = written.getvalue()
    name = f"{hashlib.sha256(content).hexdigest()[:32]}.png"
    return ProducedFile(content, "image/png", name, mask.width, mask.height)


def find(model: str, *, folder: Path, device: str, options: Mapping[str, str]) -> Colours:
    return (Together if "together" in options else Colours)(folder, options)
