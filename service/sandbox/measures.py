"""What can be said of a picture by measuring it: its size, light, colours, sharpness and largest areas."""

from dataclasses import dataclass

from PIL import Image, ImageFilter, ImageStat

from service.sandbox.regions import Grid, find_regions

WORKING_SIZE = (512, 512)
SHARP = 20  # mean edge strength, of 255, from which a picture counts as finely detailed
SOFT = 6


@dataclass(frozen=True, slots=True)
class Measures:
    width: int
    height: int
    brightness: float  # 0 to 1
    contrast: float  # standard deviation of the brightness, 0 to 1
    edges: float  # mean edge strength, 0 to 255
    colours: tuple[tuple[str, float], ...]
    regions: tuple[tuple[str, float], ...]

    def sentences(self) -> list[str]:
        shape = "square" if self.width == self.height else "landscape" if self.width > self.height else "portrait"
        light = "bright" if self.brightness > 0.66 else "dark" if self.brightness < 0.33 else "of medium brightness"
        detail = "finely detailed" if self.edges > SHARP else "soft" if self.edges < SOFT else "moderately detailed"
        return [
            f"A {shape} picture of {self.width} by {self.height} pixels.",
            f"Its main colours are {_listed(self.colours[:3])}.",
            f"It is {light} (mean {self.brightness:.2f}, spread {self.contrast:.2f})"
            f" and {detail} (edge strength {self.edges:.1f} of 255).",
            f"Its largest areas are {_listed(self.regions)}.",
        ]


def shrink(picture: Image.Image) -> Image.Image:
    if max(picture.size) <= max(WORKING_SIZE):
        return picture.copy()
    return picture.resize(_fit(picture), reducing_gap=2)


def measure(picture: Image.Image, small: Image.Image) -> Measures:
    grey = small.convert("L")
    light = ImageStat.Stat(grey)
    grid = Grid.of(small)
    return Measures(
        width=picture.width,
        height=picture.height,
        brightness=light.mean[0] / 255,
        contrast=light.stddev[0] / 255,
        edges=_edge_strength(grey),
        colours=tuple(grid.colour_shares()),
        regions=tuple((region.label, region.share) for region in find_regions(grid, small)),
    )


def _edge_strength(grey: Image.Image) -> float:
    width, height = grey.size
    if min(width, height) < 3:
        return 0.0
    inner = (1, 1, width - 1, height - 1)  # Pillow leaves the outermost pixels as they were
    return ImageStat.Stat(grey.filter(ImageFilter.FIND_EDGES).crop(inner)).mean[0]


def _fit(picture: Image.Image) -> tuple[int, int]:
    scale = min(most / side for most, side in zip(WORKING_SIZE, picture.size, strict=True))
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def _listed(shares: tuple[tuple[str, float], ...]) -> str:
    words = [f"{name} ({share:.0%})" for name, share in shares]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
