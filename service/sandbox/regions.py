"""Finds the large areas of one colour in a picture and cuts full-size masks for them, with Pillow alone."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from PIL import Image, ImageChops, ImageFilter, ImageStat

from service.sandbox.colours import Rgb, colour_name

GRID = 96  # cells along the longer side, where it has as many pixels
COLOURS = 8
SAME_COLOUR = 26  # palette colours nearer than this in RGB are one
SMALLEST = 0.015  # share of the picture below which a region is not worth a mask
MOST = 5


@dataclass(frozen=True, slots=True)
class Region:
    colour: Rgb
    share: float
    cells: frozenset[int]
    place: str

    @property
    def label(self) -> str:
        return f"a {colour_name(self.colour)} region {self.place}"


@dataclass(frozen=True, slots=True)
class Grid:
    """The picture as a few cells, each the number of a colour class."""

    width: int
    height: int
    classes: bytes
    palette: Image.Image  # of the quantized colours
    class_of: Sequence[int]  # of each colour in that palette

    @classmethod
    def of(cls, picture: Image.Image) -> "Grid":
        scale = min(1, GRID / max(picture.size))
        width, height = (max(1, round(side * scale)) for side in picture.size)
        finer = picture.resize((width * 2, height * 2), Image.Resampling.BOX).filter(ImageFilter.MedianFilter(3))
        small = finer.resize((width, height), Image.Resampling.NEAREST)
        quantized = small.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)
        class_of = _merge(_palette(quantized))
        classes = Image.frombytes("L", (width, height), quantized.tobytes().translate(_table(class_of)))
        return cls(width, height, classes.filter(ImageFilter.ModeFilter(3)).tobytes(), quantized, class_of)

    def colour_shares(self) -> list[tuple[str, float]]:
        """The colours by name, each with the share of the picture it covers, the commonest first."""
        palette = _palette(self.palette)
        names: Counter[str] = Counter()
        for number, cells in Counter(self.classes).items():
            names[colour_name(palette[number])] += cells
        return [(name, count / len(self.classes)) for name, count in names.most_common()]


def find_regions(grid: Grid, picture: Image.Image) -> list[Region]:
    """The largest regions first; always at least one, at most MOST."""
    small = picture.resize((grid.width, grid.height), Image.Resampling.BOX)
    groups = sorted(_components(grid), key=len, reverse=True)[:MOST]
    smallest = SMALLEST * len(grid.classes)
    return [_region(grid, small, cells) for cells in groups if len(cells) >= smallest] or [
        _region(grid, small, groups[0])
    ]


def cut_masks(grid: Grid, picture: Image.Image, regions: Iterable[Region]) -> Iterable[Image.Image]:
    """One mask of the picture's size a region: its cells, with edges where the pixels change colour."""
    pixels = picture.quantize(palette=grid.palette, dither=Image.Dither.NONE).point(list(_table(grid.class_of)), "L")
    for region in regions:
        wanted = grid.classes[next(iter(region.cells))]
        cells = Image.new("L", (grid.width, grid.height))
        cells.putdata([255 if cell in region.cells else 0 for cell in range(grid.width * grid.height)])
        core = cells.filter(ImageFilter.MinFilter(3)).resize(picture.size, Image.Resampling.NEAREST)
        zone = cells.filter(ImageFilter.MaxFilter(3)).resize(picture.size, Image.Resampling.NEAREST)
        same = pixels.point([255 if value == wanted else 0 for value in range(256)])
        mask = ImageChops.lighter(core, ImageChops.darker(zone, same))
        yield mask.filter(ImageFilter.BoxBlur(1)).point([0] * 128 + [255] * 128)


def _palette(quantized: Image.Image) -> list[Rgb]:
    flat = quantized.getpalette() or []
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]


def _merge(palette: Sequence[Rgb]) -> list[int]:
    """The class of each colour: those that look alike share one."""
    classes = list(range(len(palette)))
    for one, other in combinations(range(len(palette)), 2):
        if sum((a - b) ** 2 for a, b in zip(palette[one], palette[other], strict=True)) < SAME_COLOUR**2:
            old, new = classes[other], classes[one]
            classes = [new if value == old else value for value in classes]
    return classes


def _table(class_of: Sequence[int]) -> bytes:
    return bytes(class_of).ljust(256, b"\0")


def _components(grid: Grid) -> list[frozenset[int]]:
    """Cells of one class that touch by a side."""
    width, classes = grid.width, grid.classes
    unseen = set(range(len(classes)))
    found = []
    while unseen:
        start = unseen.pop()
        component, frontier = {start}, [start]
        while frontier:
            cell = frontier.pop()
            column = cell % width
            beside = (cell - 1 if column else -1, cell + 1 if column + 1 < width else -1, cell - width, cell + width)
            for neighbour in beside:
                if neighbour in unseen and classes[neighbour] == classes[start]:
                    unseen.remove(neighbour)
                    component.add(neighbour)
                    frontier.append(neighbour)
        found.append(frozenset(component))
    return found


def _region(grid: Grid, small: Image.Image, cells: frozenset[int]) -> Region:
    mask = Image.new("L", small.size)
    mask.putdata([255 if cell in cells else 0 for cell in range(grid.width * grid.height)])
    red, green, blue = (round(value) for value in ImageStat.Stat(small, mask).median)
    x = sum(cell % grid.width + 0.5 for cell in cells) / len(cells) / grid.width
    y = sum(cell // grid.width + 0.5 for cell in cells) / len(cells) / grid.height
    return Region((red, green, blue), len(cells) / len(grid.classes), cells, _place(x, y))


def _place(x: float, y: float) -> str:
    across = "left" if x < 0.4 else "right" if x > 0.6 else ""
    down = "top" if y < 0.4 else "bottom" if y > 0.6 else ""
    return f"at the {' '.join(filter(None, (down, across)))}" if across or down else "in the middle"
