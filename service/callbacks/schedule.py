"""When a callback is tried again, and when no more."""

import random

# Seconds after each try that failed: twelve tries in about two days, the first of them close together.
PAUSES = (5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400)
MOST_TRIES = len(PAUSES) + 1
JITTER = 0.2

# A receiver that stays away is asked by one callback for all; those that never had their turn end after this long.
LONGEST_SECONDS = 5 * 86_400.0


def pause_after(tries: int, asked: float | None = None) -> float | None:
    """Seconds from the `tries`th try to the next, no fewer than were `asked` for. None: it was the last."""
    if tries > len(PAUSES):
        return None
    pause = PAUSES[tries - 1] * random.uniform(1 - JITTER, 1 + JITTER)
    return max(pause, asked or 0.0)
