"""The demo's picture: a white pickup truck on a road before a red building, the same at every run."""

import io
import sys

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 960, 640
HORIZON, KERB = 400, 470
SCALE = 2  # drawn larger and made smaller, for smooth edges

ZENITH, HAZE = (74, 132, 196), (214, 230, 242)
GRASS, ASPHALT, LINE = (96, 138, 74), (78, 80, 84), (236, 222, 160)
BRICK, ROOF, WINDOW, DOOR = (176, 48, 42), (104, 34, 32), (196, 220, 232), (84, 54, 40)
PAINT, SHADE, GLASS, TYRE, HUB = (246, 246, 244), (206, 208, 210), (58, 74, 90), (26, 26, 28), (168, 170, 174)

Colour = tuple[int, int, int]


class Scene:
    """A canvas in the finished picture's pixels."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE))
        self._draw = ImageDraw.Draw(self.image)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, radius: float = 0) -> None:
        corners = [value * SCALE for value in (left, top, right, bottom)]
        self._draw.rounded_rectangle(corners, radius * SCALE, fill=colour)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        corners = [value * SCALE for value in (x - radius, y - radius, x + radius, y + radius)]
        self._draw.ellipse(corners, fill=colour)

    def sky(self) -> None:
        for line in range(HORIZON * SCALE):
            share = line / (HORIZON * SCALE)
            colour = tuple(round(a + (b - a) * share) for a, b in zip(ZENITH, HAZE, strict=True))
            self._draw.line([(0, line), (WIDTH * SCALE, line)], fill=colour)


def draw() -> bytes:
    """The picture as JPEG."""
    scene = Scene()
    scene.sky()
    scene.disc(810, 90, 42, (255, 244, 206))
    scene.box(0, HORIZON, WIDTH, KERB, GRASS)
    building(scene, left=90, right=470, top=130)
    road(scene)
    truck(scene, left=400, ground=578)
    finished = scene.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    with io.BytesIO() as file:
        finished.save(file, "JPEG", quality=88)
        return file.getvalue()


def building(scene: Scene, left: float, right: float, top: float) -> None:
    scene.polygon([(left - 18, top), ((left + right) / 2, top - 70), (right + 18, top)], ROOF)
    scene.box(left, top, right, KERB - 20, BRICK)
    for floor in range(2):
        for column in range(4):
            x, y = left + 34 + column * 88, top + 36 + floor * 110
            scene.box(x, y, x + 48, y + 62, WINDOW)
    scene.box((left + right) / 2 - 26, KERB - 92, (left + right) / 2 + 26, KERB - 20, DOOR)


def road(scene: Scene) -> None:
    scene.box(0, KERB, WIDTH, HEIGHT, ASPHALT)
    for x in range(-40, WIDTH, 150):
        scene.box(x, 604, x + 84, 612, LINE)


def truck(scene: Scene, left: float, ground: float) -> None:
    scene.box(left + 10, ground - 12, left + 420, ground + 8, (52, 54, 58), radius=10)
    scene.box(left, ground - 104, left + 430, ground - 34, PAINT, radius=12)
    scene.box(left + 14, ground - 102, left + 196, ground - 88, SHADE, radius=4)
    top, waist = ground - 180, ground - 98
    scene.polygon([(left + 190, waist), (left + 196, top), (left + 316, top), (left + 362, waist)], PAINT)
    scene.polygon([(left + 206, waist), (left + 210, top + 14), (left + 306, top + 14), (left + 340, waist)], GLASS)
    scene.box(left + 262, top + 8, left + 270, waist, PAINT)
    scene.box(left + 6, ground - 54, left + 424, ground - 36, SHADE, radius=6)
    scene.box(left + 414, ground - 92, left + 430, ground - 72, (250, 224, 150), radius=4)
    for wheel in (left + 92, left + 342):
        scene.disc(wheel, ground - 30, 40, TYRE)
        scene.disc(wheel, ground - 30, 18, HUB)


if __name__ == "__main__":
    sys.stdout.buffer.write(draw())
