"""Callbacks to receivers of which some fail, some are slow and one is dead, while workers are killed.

Three crowds of jobs, each at the same steady rate: for healthy receivers alone, for all receivers, and for all while
the worker is killed again and again. In the end the dead one is revived, and everything is asked for once more that
did not arrive. CALLBACKS=5000 makes the long run; the figures are printed.
"""

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import quantiles

import httpx
import pytest

from tests.faults.killing import is_worker, kill
from tests.faults.town import Receiver, Town, town
from tests.journeys.driver import Driver, Json, listed_in, new_tag, sample_input
from tests.journeys.running import Process, Service, installation
from tests.stand_in import StandIn
from tests.stand_in.outputs import LLAVA
from tests.stand_in.server import eventually

CALLBACKS = int(os.environ.get("CALLBACKS", "240"))
LONG = CALLBACKS > 1_000
RECEIVERS = 20
PER_SECOND = 20
KILLS = 10 if LONG else 3
ARRIVED_WITHIN = 900 if LONG else 90

# It is callbacks that are looked at: a machine under load is not to make doubts of its own.
SETTINGS = {
    "ROUNDTRIP_ALLOW_PRIVATE_NETWORKS": "true",
    "ROUNDTRIP_SUBMIT_TIMEOUT_SECONDS": "15",
    "ROUNDTRIP_FIRST_POLL_SECONDS": "15",
    "ROUNDTRIP_POLL_SECONDS": "15",
    "ROUNDTRIP_AMBIGUOUS_SECONDS": "15",
}

pytestmark = pytest.mark.timeout(3_600 if LONG else 300)


@dataclass
class Crowd:
    """Jobs that were registered, and the receiver of each."""

    name: str
    receivers: dict[str, Receiver] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def seconds_to(self, receiver: Receiver) -> list[float]:
        """Of each job, from its end to the first arrival."""
        first: dict[str, float] = {}
        for arrival in receiver.arrivals:
            first.setdefault(arrival.request_id, arrival.at)
        return [
            first[request_id] - self.ended[request_id]
            for request_id, there in self.receivers.items()
            if there is receiver and request_id in first
        ]


@dataclass
class History:
    town: Town
    crowds: list[Crowd]
    killed: list[Process]
    asked_again: int
    callbacks: dict[str, Json]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with (
        StandIn(webhook_tries=3) as fal,
        town(RECEIVERS) as there,
        installation(fal, **SETTINGS) as service,
    ):
        service.start()
        there.key_set = httpx.get(f"{service.url}/.well-known/jwks.json", trust_env=False).json()
        with service.client() as http:
            yield run(there, service, Driver(http))


def run(there: Town, service: Service, client: Driver) -> History:
    begun = datetime.now(UTC)
    client.ended(client.post(new_tag())["request_id"])
    healthy = there.of("healthy")
    alone = crowd(client, "healthy receivers alone", healthy, CALLBACKS // 2 * len(healthy) // RECEIVERS)
    mixed = crowd(client, "among the others", there.receivers, CALLBACKS // 2)
    # Else the first kill would count among what the others cost.
    eventually(lambda: all(arrived([alone, mixed], receiver) for receiver in healthy), within=ARRIVED_WITHIN)
    killed: list[Process] = []
    over = threading.Event()
    killer = threading.Thread(target=kill_in_turn, args=(service, killed, CALLBACKS / 2 / PER_SECOND / KILLS, over))
    killer.start()
    shaken = crowd(client, "while workers are killed", there.receivers, CALLBACKS // 2)
    over.set()
    killer.join()
    crowds = [alone, mixed, shaken]
    asked = ask_until(client, begun, lambda: all(arrived(crowds, receiver) for receiver in there.of(*ALIVE)))
    there.open(*there.of("dead"))
    asked += ask_until(client, begun, lambda: all(arrived(crowds, receiver) for receiver in there.receivers))
    for each in crowds:
        note_ends(client, each)
    callbacks = {
        request_id: client.get(f"/v1/jobs/{request_id}/callback").json()
        for each in crowds
        for request_id in each.receivers
    }
    made = History(there, crowds, killed, asked, callbacks)
    report(made)
    return made


ALIVE = ("healthy", "failing", "slow")


def crowd(client: Driver, name: str, receivers: Sequence[Receiver], number: int) -> Crowd:
    """Register a crowd, a handful at a time; healthy receivers get the same share of a second in each."""
    made, begun, share = Crowd(name), time.monotonic(), len(receivers) / RECEIVERS
    size = 4
    for first in range(0, number, size):
        time.sleep(max(0.0, begun + first / (PER_SECOND * share) - time.monotonic()))
        places = [receivers[place % len(receivers)] for place in range(first, min(first + size, number))]
        jobs = [
            {"model": LLAVA, "input": sample_input(LLAVA, new_tag()), "webhook_url": receiver.url}
            for receiver in places
        ]
        answered = listed_in(client.http.post("/v1/jobs/batch", json={"jobs": jobs}).json())
        assert {place["status"] for place in answered} == {202}, answered
        made.receivers |= {
            place["job"]["request_id"]: receiver for place, receiver in zip(answered, places, strict=True)
        }
    return made


def kill_in_turn(service: Service, killed: list[Process], pause: float, over: threading.Event) -> None:
    for _ in range(KILLS):
        eventually(lambda: any(is_worker(process) for process in service.processes()), within=60, every=0.1)
        killed.append(kill(service, is_worker))
        if over.wait(pause):
            return


def arrived(crowds: Sequence[Crowd], receiver: Receiver) -> bool:
    owed = {request_id for each in crowds for request_id, there in each.receivers.items() if there is receiver}
    return owed <= receiver.taken


def ask_until(client: Driver, since: datetime, done: Callable[[], bool]) -> int:
    """Ask for what did not arrive, as an operator would who does not want to wait. Returns how often."""
    asked, deadline = 0, time.monotonic() + ARRIVED_WITHIN
    while not done() and time.monotonic() < deadline:
        body = {"since": since.isoformat(), "state": "pending"}
        assert client.http.post("/v1/callbacks/redeliver", json=body).status_code == 202
        asked += 1
        time.sleep(1)
    return asked


def note_ends(client: Driver, made: Crowd) -> None:
    for job in (job for page in client.pages(limit=200) for job in page):
        if job["request_id"] in made.receivers:
            made.ended[job["request_id"]] = datetime.fromisoformat(job["completed_at"]).timestamp()


def report(history: History) -> None:
    arrivals = history.town.arrivals
    repeated = sum(count - 1 for count in Counter(arrival.request_id for arrival in arrivals).values())
    lines = [
        f"callbacks: {len(history.callbacks)} to {RECEIVERS} receivers; tries that arrived: {len(arrivals)},"
        f" {repeated} of them again; workers killed: {len(history.killed)}; asked again: {history.asked_again} times"
    ]
    for each in history.crowds:
        worst = [spread(each.seconds_to(receiver)) for receiver in history.town.of("healthy")]
        middle, late = sorted(half for half, _ in worst)[len(worst) // 2], max(late for _, late in worst)
        lines.append(
            f"  {each.name}: {len(each.receivers)} jobs; from the end to a healthy receiver, ms:"
            f" p50 {middle * 1000:.0f}, p99 of the worst of them {late * 1000:.0f}"
        )
    alone, mixed = history.crowds[:2]
    ratios = [
        spread(mixed.seconds_to(receiver))[1] / spread(alone.seconds_to(receiver))[1]
        for receiver in history.town.of("healthy")
    ]
    lines.append(
        f"  p99 among the others, to that alone, of each healthy receiver: {min(ratios):.2f} to {max(ratios):.2f}"
    )
    print("\n" + "\n".join(lines), file=sys.stderr)


def spread(seconds: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    cuts = quantiles(seconds, n=100, method="inclusive")
    return cuts[49], cuts[98]


def test_workers_were_killed(history: History) -> None:
    assert len(history.killed) == KILLS
    assert not any(process.alive for process in history.killed)


def test_every_callback_arrived_at_its_receiver(history: History) -> None:
    for crowd in history.crowds:
        missing = [request_id for request_id, there in crowd.receivers.items() if request_id not in there.taken]
        assert missing == [], crowd.name


def test_nothing_arrived_that_nobody_was_owed(history: History) -> None:
    owed = {(request_id, there.url) for crowd in history.crowds for request_id, there in crowd.receivers.items()}
    came = {(arrival.request_id, each.url) for each in history.town.receivers for arrival in each.arrivals}
    assert came == owed


def test_every_try_bore_the_same_body_under_the_same_id(history: History) -> None:
    bodies: dict[str, set[str]] = {}
    for arrival in history.town.arrivals:
        bodies.setdefault(arrival.request_id, set()).add(arrival.body)
    assert {request_id: len(each) for request_id, each in bodies.items() if len(each) > 1} == {}


def test_every_try_was_signed(history: History) -> None:
    assert [arrival for arrival in history.town.arrivals if not arrival.signed] == []


def test_every_callback_is_shown_as_delivered_with_every_try_that_was_heard_of(history: History) -> None:
    assert {callback["state"] for callback in history.callbacks.values()} == {"delivered"}
    for crowd in history.crowds:
        for request_id, receiver in crowd.receivers.items():
            shown = history.callbacks[request_id]["tries"]
            came = [arrival for arrival in receiver.arrivals if arrival.request_id == request_id]
            assert len(shown) >= len(came), request_id
            assert shown[-1]["http_status"] == 200 or any(each["http_status"] == 200 for each in shown)


def test_the_dead_receiver_was_not_asked_for_every_callback(history: History) -> None:
    """It had its share of the callbacks, and while it was dead a handful of them tried for all."""
    [dead] = history.town.of("dead")
    owed = [request_id for crowd in history.crowds for request_id, there in crowd.receivers.items() if there is dead]
    refused = [
        each
        for request_id in owed
        for each in history.callbacks[request_id]["tries"]
        if each["http_status"] is None and each["seconds"] is not None
    ]
    assert len(refused) <= 13 + history.asked_again + 10
