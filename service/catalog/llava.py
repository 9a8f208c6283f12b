"""LLaVA v1.6 34B: answers a prompt about an image."""

from pydantic import BaseModel, Field

from service.catalog.base import Model
from service.catalog.lifting import lift
from service.catalog.schemas import FileInput, InputSchema


class LlavaInput(InputSchema):
    image_url: FileInput = Field(description="The image to look at.")
    prompt: str = Field(description="What to say about the image.")
    max_tokens: int = Field(default=64, ge=1, description="The most tokens to generate.")
    temperature: float = Field(default=0.2, description="Sampling temperature.")
    top_p: float = Field(default=1, description="Share of the probability mass to sample from.")


class LlavaOutput(BaseModel):
    output: str = Field(description="The answer.")
    partial: bool = Field(default=False, description="Whether the answer is unfinished.")


MODEL = Model(
    id="fal-ai/llava-next",
    title="LLaVA v1.6 34B",
    lift=lift,
    Input=LlavaInput,
    Output=LlavaOutput,
    example={
        "image_url": "https://llava-vl.github.io/static/images/monalisa.jpg",
        "prompt": "Who painted this, and when?",
    },
)
