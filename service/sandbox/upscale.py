"""An imitation of the FLUX upscaler: a real enlargement by resampling and sharpening."""

import secrets
from time import perf_counter
from typing import Any

from PIL import Image, ImageFilter
from pydantic import BaseModel, Field

from service.sandbox.describe import MARK, Text
from service.sandbox.measures import measure, shrink
from service.sandbox.work import Work


class UpscalerInput(BaseModel):
    image_url: Text
    upscale_factor: float = Field(default=2, ge=1, le=4)
    seed: int | None = None
    creativity: float = Field(default=0.3, ge=0, le=1)
    guidance: float = Field(default=1, ge=0, le=20)
    steps: int = Field(default=20, ge=4, le=50)
    enable_safety_checker: bool = True


def upscaler(input: UpscalerInput, work: Work) -> dict[str, Any]:
    picture = work.picture(input.image_url, "image_url")
    size = work.enlarged_size(picture, input.upscale_factor)
    started = perf_counter()
    larger = picture.resize(size, Image.Resampling.LANCZOS)
    work.log(f"enlarged to {larger.width} x {larger.height} pixels")
    larger = larger.filter(ImageFilter.UnsharpMask(radius=2, percent=round(50 + 100 * input.creativity)))
    inference = perf_counter() - started
    words = " ".join(measure(larger, shrink(larger)).sentences())
    return {
        "image": work.save(larger, f"{secrets.token_urlsafe(15)}_sandbox_upscaled"),
        "seed": secrets.randbelow(2**32) if input.seed is None else input.seed,
        "timings": {"inference": inference},
        "caption": f"{MARK} {words}",
    }
