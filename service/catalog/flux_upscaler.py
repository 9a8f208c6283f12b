"""FLUX Vision Upscaler: enlarges an image, guided by a caption that a vision model writes for it."""

from pydantic import BaseModel, Field

from service.catalog.base import Model
from service.catalog.lifting import lift
from service.catalog.schemas import FileInput, Image, InputSchema


class FluxUpscalerInput(InputSchema):
    image_url: FileInput = Field(description="The image to enlarge.")
    upscale_factor: float = Field(default=2, ge=1, le=4, description="How many times as wide and high to make it.")
    seed: int | None = Field(default=None, description="Makes the result repeatable; random when left out.")
    creativity: float = Field(default=0.3, ge=0, le=1, description="How far to depart from the original.")
    guidance: float = Field(default=1, ge=0, le=20, description="How closely to follow the caption (CFG scale).")
    steps: int = Field(default=20, ge=4, le=50, description="Inference steps.")
    enable_safety_checker: bool = Field(default=True, description="Whether to check the result for unsafe content.")


class FluxUpscalerTimings(BaseModel):
    inference: float | None = Field(default=None, description="Seconds spent in inference.")


class FluxUpscalerOutput(BaseModel):
    image: Image | None = Field(default=None, description="The enlarged image.")
    seed: int | None = Field(default=None, description="The seed that was used.")
    timings: FluxUpscalerTimings | None = Field(default=None, description="Where the time went.")
    caption: str | None = Field(default=None, description="The caption that guided it.")


MODEL = Model(
    id="fal-ai/flux-vision-upscaler",
    title="FLUX Vision Upscaler",
    lift=lift,
    Input=FluxUpscalerInput,
    Output=FluxUpscalerOutput,
    example={
        "image_url": "https://storage.googleapis.com/falserverless/gallery/NOCA_Mick-Thompson.resized.resized.jpg"
    },
)
