"""Pictures as the files of an output."""

import io
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from service.gpu.runtimes.base import ProducedFile


def png(picture: Image.Image) -> ProducedFile:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return ProducedFile(content.getvalue(), "image/png", f"{uuid4().hex}.png", *picture.size)


def mask_png(mask: Any, size: tuple[int, int]) -> ProducedFile:
    """Of a mask of truth values, (height, width) or (1, height, width): 8-bit grey, 255 where it is true."""
    shape = np.asarray(mask)
    if shape.ndim == 3 and shape.shape[0] == 1:
        shape = shape[0]
    if shape.shape != (size[1], size[0]):
        raise ValueError(f"the model made a mask of shape {shape.shape} for a picture of {size[0]} x {size[1]}")
    return png(Image.fromarray(shape.astype(bool).astype(np.uint8) * 255, mode=None))
