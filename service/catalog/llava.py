"""LLaVA v1.6 34B: answers a prompt about an image."""

from pydantic import BaseModel, Field

from service.catalog.base import Model, Problem, marks_in
from service.catalog.lifting import lift
from service.catalog.schemas import FileInput, InputSchema

# What the model can hold: the image's tokens, the prompt's and the answer's.
CONTEXT = 4096
# Of the whole image at 336 pixels; its parts at full size come on top.
LEAST_IMAGE_TOKENS = 576


class LlavaInput(InputSchema):
    image_url: FileInput = Field(description="The image to look at.")
    prompt: str = Field(description="What to say about the image.")
    max_tokens: int = Field(default=64, ge=1, description="The most tokens to generate.")
    temperature: float = Field(default=0.2, description="Sampling temperature.")
    top_p: float = Field(default=1, description="Share of the probability mass to sample from.")


class LlavaOutput(BaseModel):
    output: str = Field(description="The answer.")
    partial: bool = Field(default=False, description="Whether the answer is unfinished.")


def limits(input: LlavaInput) -> list[Problem]:
    problems = marks_in(input.prompt, "<image>")
    if input.max_tokens > (most := CONTEXT - LEAST_IMAGE_TOKENS):
        problems.append(("max_tokens", f"Input should be less than or equal to {most}", "less_than_equal"))
    if input.temperature < 0:
        problems.append(("temperature", "Input should be greater than or equal to 0", "greater_than_equal"))
    if not 0 < input.top_p <= 1:
        problems.append(("top_p", "Input should be greater than 0 and at most 1", "value_error"))
    return problems


MODEL = Model(
    id="fal-ai/llava-next",
    title="LLaVA v1.6 34B",
    lift=lift,
    Input=LlavaInput,
    Output=LlavaOutput,
    limits=limits,
    example={
        "image_url": "https://llava-vl.github.io/static/images/monalisa.jpg",
        "prompt": "Who painted this, and when?",
    },
)
