"""MiniCPM-V 2.6: answers a prompt about one or several images."""

from pydantic import BaseModel, Field

from service.catalog.base import Model, Problem, marks_in
from service.catalog.lifting import lift
from service.catalog.schemas import FileInput, InputSchema

# At 640 tokens an image, they leave two thirds of the model's 32,768 for prompt and answer.
MOST_IMAGES = 16


class MiniCPMInput(InputSchema):
    image_urls: list[FileInput] = Field(min_length=1, description="The images to look at, in order.")
    prompt: str = Field(description="What to say about the images.")


class MiniCPMOutput(BaseModel):
    output: str = Field(description="The answer.")


def limits(input: MiniCPMInput) -> list[Problem]:
    problems = marks_in(input.prompt, "(<image>./</image>)")
    if (count := len(input.image_urls)) > MOST_IMAGES:
        message = f"List should have at most {MOST_IMAGES} items after validation, not {count}"
        problems.append(("image_urls", message, "too_long"))
    return problems


MODEL = Model(
    id="fal-ai/mini-cpm",
    title="MiniCPM-V 2.6",
    lift=lift,
    Input=MiniCPMInput,
    Output=MiniCPMOutput,
    limits=limits,
    example={
        "image_urls": ["https://llava-vl.github.io/static/images/monalisa.jpg"],
        "prompt": "Describe her expression.",
    },
)
