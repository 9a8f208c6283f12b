"""Everyday names for colours."""

from colorsys import rgb_to_hsv

Rgb = tuple[int, int, int]

# The first name whose limit is above the hue, in degrees.
HUES = (
    (15, "red"),
    (42, "orange"),
    (70, "yellow"),
    (165, "green"),
    (195, "turquoise"),
    (258, "blue"),
    (290, "purple"),
    (345, "pink"),
    (360, "red"),
)
DARKER = {"orange": "brown", "yellow": "olive"}


def colour_name(colour: Rgb) -> str:
    red, green, blue = colour
    hue, saturation, value = rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.16:
        return "black"
    if saturation < 0.12:
        return "white" if value > 0.9 else "light grey" if value > 0.7 else "grey" if value > 0.35 else "dark grey"
    name = next(name for limit, name in HUES if hue * 360 <= limit)
    return DARKER.get(name, name) if value < 0.68 else name
