"""Pictures drawn for the tests, whose areas and colours are known."""

import base64
import struct
import zlib
from io import BytesIO

from PIL import Image, ImageDraw

SIZE = (600, 400)
WHITE_BOX = (60, 50, 210, 350)  # half open
RED_DISC = (330, 100, 530, 300)
BLUE = (60, 120, 200)


def shapes() -> Image.Image:
    """A white rectangle at the left and a red disc at the right, on blue."""
    picture = Image.new("RGB", SIZE, BLUE)
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = WHITE_BOX
    draw.rectangle((left, top, right - 1, bottom - 1), fill="white")
    draw.ellipse(RED_DISC, fill=(200, 20, 30))
    return picture


def encoded(picture: Image.Image, form: str = "PNG") -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def data_uri(data: bytes, content_type: str = "image/png") -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be very large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
