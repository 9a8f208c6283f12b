"""What goes wrong and when: made from the seed before the run, so that the same seed gives the same schedule."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TypeVar

from faults.proxy import Trouble

Item = TypeVar("Item")

KILLED = ("worker-1", "api-1", "postgres", "worker-2", "api-2", "beat", "valkey")
STOPPED = ("worker-1", "api-1", "postgres", "worker-2", "api-2", "beat")
FAKED = ("api-2", "worker-2")

EDGES = (
    "api-database",
    "worker-database",
    "api-broker",
    "worker-broker",
    "worker-provider",
    "provider-webhooks",
    "client-api",
)
TROUBLES = {
    "slow": Trouble(latency=0.15, jitter=0.35),
    "cut": Trouble(cut_after=3_000),
    "blackhole": Trouble(blackhole=True),
    "refused": Trouble(refuse=True),
    "corrupt": Trouble(corruption=0.2),
}
# Beside those, `reset` ends what is connected at that moment and nothing more.
ANYWHERE = ("slow", "cut", "blackhole", "refused", "reset")
VERIFIED = {"provider-webhooks", "api-broker", "worker-broker"}

# Within and beyond the 300 seconds that a webhook may be old.
OFFSETS = (200.0, -200.0, 400.0, -400.0)

# Longer than a submission's lease, so that the stopped worker's work is somebody else's when it goes on.
LONG_STOP_SECONDS = 14.0


@dataclass(frozen=True, order=True)
class Fault:
    """`at` is seconds after the load began; `seconds` is how long it lasts, 0 for what happens at once."""

    at: float
    kind: str
    target: str
    detail: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:6.1f} s  {self.kind:<5} {self.target} {self.detail}".rstrip() + lasting


def make_schedule(seed: int, seconds: float, kills: int, *, disk: bool = True, clocks: bool = True) -> list[Fault]:
    """All faults of a run whose faults last so long, in order."""
    chance = random.Random(seed)
    found = [*_kills(chance, seconds, kills), *_stops(chance, seconds), *_wires(chance, seconds)]
    for at in _spread(chance, 0.1 * seconds, 0.9 * seconds, max(1, round(seconds / 60))):
        found.append(Fault(at, "flush", "valkey"))
    # These two draw in any case, so that leaving them out changes nothing else.
    disks, faked = list(_disks(chance, seconds)), list(_clocks(chance, seconds))
    return sorted([*found, *(disks if disk else ()), *(faked if clocks else ())])


def _kills(chance: random.Random, seconds: float, kills: int) -> Iterator[Fault]:
    """Evenly, each process in its turn; one in four dies together with the one before it."""
    targets = islice(cycle(_shuffled(chance, KILLED)), kills)
    at = 0.0
    for moment, target in zip(_spread(chance, 0.04 * seconds, 0.97 * seconds, kills), targets, strict=True):
        at = at if at and chance.random() < 0.25 else moment
        yield Fault(at, "kill", target)


def _stops(chance: random.Random, seconds: float) -> Iterator[Fault]:
    count = max(3, round(seconds / 16))
    longest = min(7.0, seconds / 6)
    targets = cycle(_shuffled(chance, STOPPED))
    for at, target in zip(_spread(chance, 0.1 * seconds, 0.8 * seconds, count), targets, strict=False):
        yield _within(seconds, at, "stop", target, "", chance.uniform(1, longest))
    if seconds > 6 * LONG_STOP_SECONDS:
        yield _within(seconds, 0.45 * seconds, "stop", "worker-1", "", LONG_STOP_SECONDS)


def _wires(chance: random.Random, seconds: float) -> Iterator[Fault]:
    """Every edge meets every trouble that is fair there, in as many rounds as there is time for."""
    pairs = [(edge, trouble) for edge in EDGES for trouble in ANYWHERE]
    pairs += [(edge, "corrupt") for edge in sorted(VERIFIED)]
    count = max(len(EDGES), round(seconds / 2.5))
    chosen = islice(cycle(_shuffled(chance, pairs)), count)
    for at, (edge, trouble) in zip(_spread(chance, 0.02 * seconds, 0.9 * seconds, count), chosen, strict=True):
        lasting = 0.0 if trouble == "reset" else chance.uniform(1.0, min(6.0, seconds / 6))
        yield _within(seconds, at, "wire", edge, trouble, lasting)


def _disks(chance: random.Random, seconds: float) -> Iterator[Fault]:
    count = max(1, round(seconds / 60))
    for at in _spread(chance, 0.2 * seconds, 0.75 * seconds, count):
        yield _within(seconds, at, "disk", "artifacts", "full", chance.uniform(0.1, 0.2) * min(seconds, 60))


def _clocks(chance: random.Random, seconds: float) -> Iterator[Fault]:
    """The two processes whose clock can be set have it off one after the other, by each of the offsets."""
    turns = [(target, offset) for offset in _shuffled(chance, OFFSETS) for target in FAKED]
    count = len(turns) if seconds > 60 else 2
    lasting = 0.8 * seconds / count
    for turn, (target, offset) in enumerate(turns[:count]):
        yield _within(seconds, (0.08 + 0.9 * turn / count) * seconds, "clock", target, f"{offset:+.0f}", lasting)


def _within(seconds: float, at: float, kind: str, target: str, detail: str, lasting: float) -> Fault:
    return Fault(at, kind, target, detail, min(lasting, seconds - at))


def _spread(chance: random.Random, first: float, last: float, count: int) -> list[float]:
    """So many moments, one in each of as many equal parts of the time."""
    part = (last - first) / count
    return [round(first + part * (index + chance.random()), 3) for index in range(count)]


def _shuffled(chance: random.Random, items: Sequence[Item]) -> list[Item]:
    return chance.sample(list(items), len(items))
