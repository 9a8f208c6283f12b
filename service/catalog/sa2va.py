"""Sa2VA 8B: answers a prompt about an image, with a segmentation mask for each `[SEG]` of its answer."""

import re
from typing import Any

from pydantic import BaseModel, Field

from service.catalog.base import Lifted, Model, Problem, marks_in
from service.catalog.lifting import lift
from service.catalog.schemas import FileInput, Image, InputSchema

_MARK = re.compile(r"<p>|</p>|\[SEG\]")


class Sa2VAInput(InputSchema):
    prompt: str = Field(description="What to say about the image; asking for segmentation brings masks.")
    image_url: FileInput = Field(description="The image to look at.")


class Sa2VAOutput(BaseModel):
    output: str = Field(description="The answer; <p> and </p> enclose what the mask of the [SEG] after them shows.")
    masks: list[Image] | dict[str, Image] = Field(description="The masks, in the order of the answer or by label.")


def segment_labels(answer: str) -> list[str | None]:
    """For each `[SEG]`, the text of the nearest `<p> … </p>` before it."""
    labels: list[str | None] = []
    label = opened = None
    for mark in _MARK.finditer(answer):
        if mark[0] == "<p>":
            opened = mark.end()
        elif mark[0] == "[SEG]":
            labels.append(label)
        elif opened is not None:
            label, opened = answer[opened : mark.start()].strip(), None
    return labels


def lift_masks(output: Any) -> Lifted:
    answer = output.get("output") if isinstance(output, dict) else None
    return lift(output, mask_labels=segment_labels(answer) if isinstance(answer, str) else ())


def limits(input: Sa2VAInput) -> list[Problem]:
    return marks_in(input.prompt, "<image>")


MODEL = Model(
    id="fal-ai/sa2va/8b/image",
    title="Sa2VA 8B Image",
    lift=lift_masks,
    Input=Sa2VAInput,
    Output=Sa2VAOutput,
    limits=limits,
    example={
        "prompt": "Describe the image briefly, with segmentation masks for the parts you name.",
        "image_url": "https://raw.githubusercontent.com/facebookresearch/segment-anything-2/main/notebooks/images/truck.jpg",
    },
)
