"""What an imitation of a model may do while it works: see pictures, save files, write logs, heed a cancellation."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

from PIL import Image

from service.sandbox.failures import ModelFailure
from service.sandbox.files import Files
from service.sandbox.pictures import Pictures
from service.sandbox.queue import Entry, cancelled


class Work:
    """Used in a worker thread; `notify` wakes the event loop."""

    def __init__(
        self, entry: Entry, pictures: Pictures, files: Files, notify: Callable[[], None], max_pixels: int
    ) -> None:
        self.knobs = entry.knobs
        self.request_id = entry.id
        self._entry = entry
        self._pictures = pictures
        self._files = files
        self._notify = notify
        self._max_pixels = max_pixels

    def log(self, message: str) -> None:
        """Also the place where a cancelled request stops."""
        if self._entry.cancel_asked.is_set() and self.knobs.cancel == "honoured":
            raise cancelled()
        self._entry.log(message)
        self._notify()

    def picture(self, url: str, *field: str | int) -> Image.Image:
        self.log(f"reading {'.'.join(map(str, field))}")
        picture = self._pictures.open(url, ["body", *field])
        self.log(f"got {picture.width} x {picture.height} pixels")
        return picture

    def enlarged_size(self, picture: Image.Image, factor: float) -> tuple[int, int]:
        width, height = round(picture.width * factor), round(picture.height * factor)
        if width * height > self._max_pixels:
            words = f"{width} x {height} pixels would be more than {self._max_pixels}."
            raise ModelFailure(["body", "image_url"], words, "image_too_large")
        return width, height

    def save(self, picture: Image.Image, name: str) -> dict[str, Any]:
        """Store as PNG and return fal's Image object."""
        buffer = BytesIO()
        picture.save(buffer, "PNG", compress_level=1 if picture.mode == "RGB" else 6)
        file = self._files.put(buffer.getvalue(), f"{name}.png", "image/png", self.knobs.file_seconds)
        return file | {"width": picture.width, "height": picture.height}
