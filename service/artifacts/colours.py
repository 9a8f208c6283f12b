"""The colour that a mask has wherever it is drawn."""

# Hues that follow one another at the golden angle stay apart, however many there are.
GOLDEN_ANGLE = 137.508
FIRST_HUE = 210


def hsl_of(index: int) -> str:
    """As CSS and Pillow read it."""
    return f"hsl({round(FIRST_HUE + index * GOLDEN_ANGLE) % 360}, 90%, 55%)"
