"""What the five models answer, in the shapes that fal's pages show."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tests.stand_in.pictures import BUILDING, LANTERN, TRUCK, Mask, photograph
from tests.stand_in.script import Outcome

if TYPE_CHECKING:
    from tests.stand_in.server import Run, StandIn

NEMOTRON = "fal-ai/nemotron-diffusion-vlm"
LLAVA = "fal-ai/llava-next"
MINICPM = "fal-ai/mini-cpm"
SA2VA = "fal-ai/sa2va/8b/image"
UPSCALER = "fal-ai/flux-vision-upscaler"
MODELS = (NEMOTRON, LLAVA, MINICPM, SA2VA, UPSCALER)

NEMOTRON_USAGE = {"prompt_tokens": 312, "completion_tokens": 12, "num_function_evals": 48}
NEMOTRON_TIMINGS = {
    "total_time": 1.825,
    "image_validation_time": 0.0625,
    "preprocessing_time": 0.125,
    "gpu_transfer_time": 0.0078125,
    "generation_time": 1.5,
    "decode_time": 0.001,
}
UPSCALED = (64, 48)
SEED = 9007199254740993  # 2**53 + 1: a float would lose it
MASKS = (TRUCK, BUILDING, LANTERN)
SEGMENTED = (
    "<p>  A white pickup truck  </p>   [SEG]  is parked on the side of  <p>  the red building  </p>   [SEG] ,"
    " creating a unique and eye-catching contrast below <p> a lantern </p> [SEG].<|im_end|>"
)


def as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def default_outcome(fal: "StandIn", run: "Run") -> Outcome:
    """The good answer of the run's model."""
    if run.model == NEMOTRON:
        text = "The image shows a dog sitting outdoors."
        return Outcome(as_json({"output": text, "usage": NEMOTRON_USAGE, "timings": NEMOTRON_TIMINGS}))
    if run.model == LLAVA:
        return Outcome(as_json({"output": "Leonardo da Vinci", "partial": False}))
    if run.model == SA2VA:
        return Outcome(as_json({"output": SEGMENTED, "masks": mask_files(fal, MASKS, seconds=run.script.file_seconds)}))
    if run.model == UPSCALER:
        return Outcome(as_json(upscaled(fal, seconds=run.script.file_seconds)))
    return Outcome(as_json({"output": "She is Mona Lisa — Leonardo drew this. 🎨"}))


def upscaled(fal: "StandIn", *, seconds: float | None = None) -> dict[str, Any]:
    image = image_file(fal, photograph(*UPSCALED), *UPSCALED, seconds=seconds)
    caption = "A highly detailed upscaled photograph featuring sharp edges."
    return {"image": image, "seed": SEED, "timings": {"inference": 52.8}, "caption": caption}


def mask_files(fal: "StandIn", masks: tuple[Mask, ...], *, seconds: float | None = None) -> list[dict[str, Any]]:
    return [image_file(fal, mask.png(), *mask.size, seconds=seconds) for mask in masks]


def image_file(fal: "StandIn", data: bytes, width: int, height: int, *, seconds: float | None = None) -> dict[str, Any]:
    name = f"{hashlib.sha256(data).hexdigest()[:24]}.png"
    return {
        "file_size": len(data),
        "height": height,
        "file_name": name,
        "content_type": "image/png",
        "url": fal.serve_file(data, name, seconds=seconds),
        "width": width,
    }
