"""What a GPU worker says to the service before an end. `about` is the path that it is posted to, and signed with it."""

from typing import Annotated, Literal

import msgspec

WORKERS_PATH = "/webhooks/gpu-workers"
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
MOST_AHEAD = 31
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Start(msgspec.Struct, tag="start"):
    """`again`: this process asked before and was not answered. `fresh`: only if nobody began it before.

    `ahead`: of how many that wait it wants to know.
    """

    about: str
    worker: Word
    again: bool = False
    fresh: bool = False
    ahead: Annotated[int, msgspec.Meta(ge=0, le=MOST_AHEAD)] = 0


class Beat(msgspec.Struct, tag="beat"):
    about: str
    worker: Word
    run: Count
    done: Count | None = None
    of: Count | None = None
    lines: list[str] = []


class Hello(msgspec.Struct, tag="hello"):
    about: str
    worker: Word
    model: Word
    device: Word
    state: Literal["loading", "idle", "busy"]
