"""What the jobs of a run ask for: five models, and every way in which the provider can misbehave, by the seed."""

import base64
import io
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from typing import Any

from PIL import Image

Json = dict[str, Any]

NEMOTRON, LLAVA, MINICPM = "fal-ai/nemotron-diffusion-vlm", "fal-ai/llava-next", "fal-ai/mini-cpm"
SA2VA, UPSCALER = "fal-ai/sa2va/8b/image", "fal-ai/flux-vision-upscaler"
# Texts cost little and files more, so there are fewer of those.
MODELS = (LLAVA, SA2VA, NEMOTRON, LLAVA, MINICPM, UPSCALER, NEMOTRON)
TEXTS = (LLAVA, NEMOTRON, MINICPM)

NORMAL: Json = {}
KNOBS: tuple[Json, ...] = (
    {"webhook": "none"},
    {"webhook": "duplicate", "webhook_times": 3},
    {"webhook": "early"},
    {"webhook": "late", "webhook_delay_seconds": 2},
    {"webhook": "out_of_order"},
    {"webhook": "forged"},
    {"webhook": "stale"},
    {"webhook": "crossed"},
    {"webhook": "conflicting"},
    {"webhook": "null_payload"},
    {"webhook": "html"},
    {"webhook": "forged", "only_bad": True},
    {"webhook": "stale", "only_bad": True},
    {"webhook": "html", "only_bad": True},
    {"webhook": "null_payload", "only_bad": True},
    {"rotate_key": True},
    {"submit": "429", "submit_times": 2, "retry_after": 1},
    {"submit": "503", "submit_times": 3},
    {"submit": "html", "submit_times": 1},
    {"submit": "never_answered"},
    {"submit": "never_answered", "webhook": "none"},
    {"submit": "cut"},
    {"submit": "cut", "webhook": "none"},
    {"webhook": "none", "status": "5xx", "status_times": 2},
    {"webhook": "none", "status": "html", "status_times": 1},
    {"result_status": 422},
    {"result_status": 500},
    {"result_status": 422, "webhook": "none"},
    {"nul": True},
    {"text_bytes": 100_000},
    {"work_seconds": 3},
    {"work_seconds": 4, "cancel": "ignored"},
    {"file_seconds": 0},
    {"masks": "object"},
)


@dataclass(frozen=True)
class Order:
    """One job as its client wants it. `cancel_after` is seconds after it was accepted."""

    number: int
    model: str
    input: Json
    knobs: Json
    deadline_seconds: float | None = None
    cancel_after: float | None = None
    # Whether two requests with the same key go out at the same time.
    twice: bool = False

    @property
    def tag(self) -> str:
        return f"n{self.number}"

    @property
    def body(self) -> Json:
        sent = {"sandbox": {**self.knobs, "key": self.tag}}
        job: Json = {"model": self.model, "input": {**self.input, **sent}, "tags": [self.tag]}
        return job if self.deadline_seconds is None else {**job, "deadline_seconds": self.deadline_seconds}

    @property
    def allowed(self) -> set[str]:
        """The statuses in which it may end."""
        ends = {"failed" if "result_status" in self.knobs else "completed"}
        if self.deadline_seconds is not None:
            # Past its deadline the provider is asked to stop, and what it says to that may be the end.
            ends |= {"failed", "cancelled"}
        if self.cancel_after is not None:
            ends.add("cancelled")
        return ends


def make_orders(seed: int, jobs: int, needed: Sequence[Json] = ()) -> list[Order]:
    """Every second job meets no misbehaviour but what the schedule brings; half of the others meet what is needed."""
    chance = random.Random(f"orders {seed}")
    misbehaviour = _in_turns(chance, needed)
    orders = []
    for number in range(jobs):
        knobs = next(misbehaviour) if number % 2 else NORMAL
        model = _model_for(knobs, chance)
        deadline = cancel = None
        if chance.random() < 0.03:
            deadline, knobs = chance.choice((1.0, 4.0, 9.0)), {**knobs, "work_seconds": 6}
        elif chance.random() < 0.04:
            cancel = chance.uniform(0, 3)
        orders.append(
            Order(number, model, _input(model, chance), knobs, deadline, cancel, twice=chance.random() < 0.06)
        )
    return orders


def _in_turns(chance: random.Random, needed: Sequence[Json]) -> Iterator[Json]:
    every = cycle(chance.sample(KNOBS, len(KNOBS)))
    return chain.from_iterable(zip(cycle(needed), every)) if needed else every


def _model_for(knobs: Json, chance: random.Random) -> str:
    if "masks" in knobs:
        return SA2VA
    if "file_seconds" in knobs:
        return chance.choice((SA2VA, UPSCALER))
    return chance.choice(TEXTS if {"nul", "text_bytes"} & knobs.keys() else MODELS)


def _input(model: str, chance: random.Random) -> Json:
    picture = _picture(chance)
    if model == MINICPM:
        return {"image_urls": [picture], "prompt": "What is here?"}
    if model == UPSCALER:
        return {"image_url": picture, "upscale_factor": 2}
    return {"image_url": picture, "prompt": "Segment what is here."}


def _picture(chance: random.Random) -> str:
    """A few fields of colour, another one at every call, so that most files of a run differ."""
    image = Image.new("RGB", (32, 24), _colour(chance))
    for _ in range(2):
        left, top = chance.randrange(0, 20), chance.randrange(0, 14)
        image.paste(_colour(chance), (left, top, left + chance.randint(6, 12), top + chance.randint(6, 10)))
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _colour(chance: random.Random) -> tuple[int, int, int]:
    return chance.randrange(256), chance.randrange(256), chance.randrange(256)
