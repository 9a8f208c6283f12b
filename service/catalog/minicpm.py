"""MiniCPM-V 2.6: answers a prompt about one or several images."""

from pydantic import BaseModel, Field

from service.catalog.base import Model
from service.catalog.lifting import lift
from service.catalog.schemas import FileInput, InputSchema


class MiniCPMInput(InputSchema):
    image_urls: list[FileInput] = Field(min_length=1, description="The images to look at, in order.")
    prompt: str = Field(description="What to say about the images.")


class MiniCPMOutput(BaseModel):
    output: str = Field(description="The answer.")


MODEL = Model(
    id="fal-ai/mini-cpm",
    title="MiniCPM-V 2.6",
    lift=lift,
    Input=MiniCPMInput,
    Output=MiniCPMOutput,
    example={
        "image_urls": ["https://llava-vl.github.io/static/images/monalisa.jpg"],
        "prompt": "Describe her expression.",
    },
)
