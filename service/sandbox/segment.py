"""An imitation of Sa2VA: a sentence that names the largest colour regions, and a real mask for each."""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from pydantic import BaseModel

from service.sandbox.describe import MARK, Text
from service.sandbox.regions import Grid, Region, cut_masks, find_regions
from service.sandbox.work import Work


class Sa2vaInput(BaseModel):
    image_url: Text
    prompt: Text


def sa2va(input: Sa2vaInput, work: Work) -> dict[str, Any]:
    picture = work.picture(input.image_url, "image_url")
    grid = Grid.of(picture)
    regions = find_regions(grid, picture)
    labels = _labels(regions)
    images = []
    for label, mask in zip(labels, cut_masks(grid, picture, regions), strict=True):
        images.append(work.save(mask, uuid4().hex))
        work.log(f"cut a mask for {label}")
    masks = dict(zip(labels, images, strict=True)) if work.knobs.masks == "object" else images
    return {"output": _sentence(labels), "masks": masks}


def _labels(regions: Sequence[Region]) -> list[str]:
    """Regions that look alike are numbered, so that labels can be keys."""
    seen: Counter[str] = Counter()
    labels = []
    for label in (region.label for region in regions):
        seen[label] += 1
        labels.append(f"{label}, number {seen[label]}" if seen[label] > 1 else label)
    return labels


def _sentence(labels: Sequence[str]) -> str:
    """The spacing is the model's own."""
    parts = [f"<p>  {label}  </p>   [SEG] " for label in labels]
    return f"{MARK} The picture shows  {' and  '.join(parts)}.<|im_end|>"
