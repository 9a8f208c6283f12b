"""The FLUX image-to-image pipeline: its parts from a local folder, a caption encoded once, tiles refined in batches."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL.Image import Image

from service.gpu.runtimes.checkpoints import dtype_argument, load_weights, loading
from service.gpu.runtimes.devices import precision, release
from service.gpu.runtimes.snapshots import check_snapshot

# The longest caption, in T5's tokens, that FLUX.1-dev was made for.
CAPTION_TOKENS = 512


class FluxPipeline:
    """With a ControlNet that holds on to the tile's structure, if there is a folder of one."""

    def __init__(self, folder: Path, controlnet: Path | None, device: str, dtype: str, offload: bool) -> None:
        self._folder = folder
        self._controlnet = controlnet
        self._device = device
        self._dtype = dtype
        self._offload = offload
        self._pipeline: Any = None

    def load(self, revision: str | None) -> None:
        check_snapshot(self._folder, revision)
        with loading(self._folder):
            from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
            from diffusers.utils import logging
            from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

            logging.set_verbosity_error()
            logging.disable_progress_bar()
            dtype = precision(self._dtype, self._device)

            def part(kind: Any, name: str, **arguments: Any) -> Any:
                return load_weights(kind.from_pretrained, self._folder, subfolder=name, **arguments)

            def tokenizer(kind: Any, name: str) -> Any:
                return kind.from_pretrained(self._folder, subfolder=name, local_files_only=True)

            parts = {
                "scheduler": FlowMatchEulerDiscreteScheduler.from_pretrained(
                    self._folder, subfolder="scheduler", local_files_only=True
                ),
                "vae": part(AutoencoderKL, "vae", torch_dtype=dtype),
                "text_encoder": part(CLIPTextModel, "text_encoder", **dtype_argument(dtype)),
                "tokenizer": tokenizer(CLIPTokenizer, "tokenizer"),
                "text_encoder_2": part(T5EncoderModel, "text_encoder_2", **dtype_argument(dtype)),
                "tokenizer_2": tokenizer(T5TokenizerFast, "tokenizer_2"),
                "transformer": part(FluxTransformer2DModel, "transformer", torch_dtype=dtype),
            }
        self._pipeline = self._with_controlnet(parts, dtype) if self._controlnet else self._plain(parts)
        self._pipeline.set_progress_bar_config(disable=True)
        with loading(self._folder):
            if self._offload:
                # Each part is on the device only while it works.
                self._pipeline.enable_model_cpu_offload(device=self._device)
            else:
                self._pipeline.to(self._device)

    def _plain(self, parts: dict[str, Any]) -> Any:
        from diffusers import FluxImg2ImgPipeline

        return FluxImg2ImgPipeline(**parts)

    def _with_controlnet(self, parts: dict[str, Any], dtype: Any) -> Any:
        from diffusers import FluxControlNetImg2ImgPipeline, FluxControlNetModel

        assert self._controlnet is not None
        check_snapshot(self._controlnet, None)
        with loading(self._controlnet):
            controlnet = load_weights(FluxControlNetModel.from_pretrained, self._controlnet, torch_dtype=dtype)
        return FluxControlNetImg2ImgPipeline(controlnet=controlnet, **parts)

    def encode(self, caption: str) -> dict[str, Any]:
        """The caption as embeddings, one row of each."""
        import torch

        most = min(CAPTION_TOKENS, self._pipeline.tokenizer_2.model_max_length)
        with torch.inference_mode():
            embeddings, pooled, _ = self._pipeline.encode_prompt(
                prompt=caption, prompt_2=None, max_sequence_length=most
            )
        release(self._device)
        return {"prompt_embeds": embeddings, "pooled_prompt_embeds": pooled}

    def refine(
        self,
        tiles: Sequence[Image],
        seeds: Sequence[int],
        encoded: dict[str, Any],
        *,
        strength: float,
        steps: int,
        guidance: float,
        weight: float,
        told: Callable[[], None],
    ) -> list[Image]:
        """Tiles of one size, as one batch; `told` is called after each denoising step and may raise."""
        import torch

        width, height = tiles[0].size
        count = len(tiles)
        control = {}
        if self._controlnet:
            control = {"control_image": list(tiles), "controlnet_conditioning_scale": weight}

        # A pipeline's own `_interrupt` would give back what is half done; raising leaves the pipeline as it was.
        def after_step(_pipeline: Any, _step: int, _time: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
            told()
            return {}

        with torch.inference_mode():
            images: list[Image] = self._pipeline(
                image=list(tiles),
                width=width,
                height=height,
                strength=strength,
                num_inference_steps=steps,
                guidance_scale=guidance,
                # On the CPU, so that a seed means the same on every device.
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                callback_on_step_end=after_step,
                prompt_embeds=encoded["prompt_embeds"].expand(count, -1, -1),
                pooled_prompt_embeds=encoded["pooled_prompt_embeds"].expand(count, -1),
                **control,
            ).images
        return images


def steps_run(steps: int, strength: float) -> int:
    """How many of the steps an image-to-image pipeline runs: the noise that strength leaves out is not removed."""
    return steps - int(max(steps - steps * strength, 0))


def tile_seed(seed: int, index: int) -> int:
    """Neighbouring tiles, and neighbouring seeds, get unrelated noise."""
    return int.from_bytes(blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()) >> 1
