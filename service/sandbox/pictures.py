"""Fetches and decodes the picture that a request names, trusting neither its address nor its bytes."""

import binascii
import re
from base64 import b64decode
from collections.abc import Sequence
from io import BytesIO
from time import monotonic
from urllib.parse import unquote_to_bytes

import httpx
from PIL import Image, ImageOps

from service.sandbox.failures import ModelFailure

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
DATA_URI = re.compile(r"data:[^,;]*(?:;[^,;]*)*?;base64,", re.IGNORECASE)

Loc = Sequence[str | int]


class Pictures:
    def __init__(self, client: httpx.Client, *, max_bytes: int, max_pixels: int, seconds: float) -> None:
        self._client = client
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._seconds = seconds

    def open(self, url: str, loc: Loc) -> Image.Image:
        """The picture as upright RGB. Raises ModelFailure."""
        return self._decode(self._read(url, loc), loc)

    def _read(self, url: str, loc: Loc) -> bytes:
        if header := DATA_URI.match(url):
            try:
                data = b64decode(unquote_to_bytes(url[header.end() :]), validate=True)
            except binascii.Error as error:
                raise ModelFailure(loc, f"The data URI is not base64: {error}.", "file_download_error") from None
            if len(data) > self._max_bytes:
                raise self._too_large(loc)
            return data
        if not url.lower().startswith(("http://", "https://")):
            raise ModelFailure(loc, "Give an http(s) address or a base64 data URI.", "file_download_error")
        try:
            return self._download(url, loc)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            words = f"The file could not be downloaded: {error or type(error).__name__}."
            raise ModelFailure(loc, words, "file_download_error") from error

    def _download(self, url: str, loc: Loc) -> bytes:
        data = bytearray()
        deadline = monotonic() + self._seconds
        with self._client.stream("GET", url) as response:
            response.raise_for_status()
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) > self._max_bytes:
                    raise self._too_large(loc)
                if monotonic() > deadline:
                    raise ModelFailure(loc, "The file could not be downloaded in time.", "file_download_error")
        return bytes(data)

    def _decode(self, data: bytes, loc: Loc) -> Image.Image:
        try:
            with Image.open(BytesIO(data), formats=FORMATS) as picture:
                if picture.width * picture.height > self._max_pixels:
                    words = f"{picture.width} x {picture.height} pixels are more than {self._max_pixels}."
                    raise ModelFailure(loc, words, "image_load_error")
                return _flat(ImageOps.exif_transpose(picture))
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise ModelFailure(loc, f"The image could not be read: {error}.", "image_load_error") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ModelFailure(loc, f"The image is too large: {error}", "image_load_error") from error

    def _too_large(self, loc: Loc) -> ModelFailure:
        return ModelFailure(loc, f"The file is larger than {self._max_bytes} bytes.", "file_too_large")


def _flat(picture: Image.Image) -> Image.Image:
    """Whatever was transparent becomes white."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")
