"""Callbacks to receivers of which some fail, some are slow and one is dead, while workers are killed.

Two crowds of jobs, for healthy receivers alone and for all receivers. In both a healthy receiver has as many callbacks
a second, and the two workers are killed in turn at the same pace: what differs is what the bad receivers cost. In the
end the dead one is revived, and everything is asked for once more that did not arrive. CALLBACKS=5000 makes the long
run, which begins with a crowd for healthy receivers while nobody is killed; the figures are printed.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from statistics import median, quantiles

import httpx
import pytest

from tests.faults.killing import is_worker, kill
from tests.faults.town import Receiver, Town, town
from tests.journeys.driver import Driver, Json, listed_in, new_tag, sample_input
from tests.journeys.running import ROOT, Process, Service, below, inspect, installation
from tests.stand_in import StandIn
from tests.stand_in.outputs import LLAVA
from tests.stand_in.server import eventually

# To all receivers while workers are killed.
CALLBACKS = int(os.environ.get("CALLBACKS", "120"))
LONG = CALLBACKS > 1_000
# So few that a 99th percentile of each is not its worst or second worst.
RECEIVERS = 10
PER_SECOND = 20
KILLED_EVERY_SECONDS = 12.5 if LONG else 2.5
ARRIVED_WITHIN = 900 if LONG else 90

# It is callbacks that are looked at: a machine under load is not to make doubts of its own.
SETTINGS = {
    "ROUNDTRIP_ALLOW_PRIVATE_NETWORKS": "true",
    "ROUNDTRIP_SUBMIT_TIMEOUT_SECONDS": "15",
    "ROUNDTRIP_FIRST_POLL_SECONDS": "15",
    "ROUNDTRIP_POLL_SECONDS": "15",
    "ROUNDTRIP_AMBIGUOUS_SECONDS": "15",
}

pytestmark = [pytest.mark.long, pytest.mark.timeout(3_600 if LONG else 300)]


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
        ExitStack() as stack,
    ):
        service.start()
        second = stack.enter_context(second_worker(service))
        there.key_set = httpx.get(f"{service.url}/.well-known/jwks.json", trust_env=False).json()
        with service.client() as http:
            yield run(there, service, second, Driver(http))


def run(there: Town, service: Service, second: "SecondWorker", client: Driver) -> History:
    begun = datetime.now(UTC)
    client.ended(client.post(new_tag())["request_id"])
    healthy = there.of("healthy")
    share = CALLBACKS * len(healthy) // RECEIVERS
    crowds, killed = [], list[Process]()
    if LONG:
        crowds.append(crowd(client, CALM, healthy, share))
    for name, receivers, number in ((ALONE, healthy, share), (AMONG, there.receivers, CALLBACKS)):
        with killing_in_turn(service, second, killed):
            crowds.append(crowd(client, name, receivers, number))
        # Else what one crowd left would be among what the next one costs.
        # Seldom, because the provider and the receivers have their threads in this process, too.
        eventually(lambda: all(arrived(crowds, receiver) for receiver in healthy), within=ARRIVED_WITHIN, every=0.5)
    asked = ask_until(client, begun, lambda: all(arrived(crowds, receiver) for receiver in there.of(*ALIVE)))
    there.open(*there.of("dead"))
    asked += ask_until(client, begun, lambda: all(arrived(crowds, receiver) for receiver in there.receivers))
    for each in crowds:
        note_ends(client, each)
    callbacks = {request_id: callback_of(client, request_id) for each in crowds for request_id in each.receivers}
    made = History(there, crowds, killed, asked, callbacks)
    report(made)
    return made


def callback_of(client: Driver, request_id: str) -> Json:
    """Once it is no longer pending: it arrives before that is recorded, which a killed worker leaves to another."""

    def settled() -> Json | None:
        shown: Json = client.get(f"/v1/jobs/{request_id}/callback").json()
        return shown if shown["state"] != "pending" else None

    return eventually(settled, within=60, every=0.2)


ALIVE = ("healthy", "failing", "slow")
CALM = "healthy receivers alone, nobody killed"
ALONE = "healthy receivers alone, workers killed"
AMONG = "all receivers, workers killed"


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


class SecondWorker:
    """Beside that of `up`, and started again by us when it was killed."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.start()

    def start(self) -> None:
        running = json.loads((self._service.data / "running.json").read_text())
        addresses = {f"ROUNDTRIP_{name.upper()}": running[name] for name in ("database_url", "broker_url")}
        self._running = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "worker"],
            cwd=ROOT,
            env=self._service.environment()
            | addresses
            | {"ROUNDTRIP_PUBLIC_URL": self._service.url, "ROUNDTRIP_DATA": str(self._service.data)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self) -> Process:
        victim = inspect(self._running.pid)
        assert victim is not None
        for each in [victim, *below(victim.pid)]:
            with suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
        self._running.wait()
        return victim

    def stop(self) -> None:
        self._running.send_signal(signal.SIGTERM)
        self._running.wait(60)


@contextmanager
def second_worker(service: Service) -> Iterator[SecondWorker]:
    worker = SecondWorker(service)
    try:
        yield worker
    finally:
        worker.stop()


@contextmanager
def killing_in_turn(service: Service, second: SecondWorker, killed: list[Process]) -> Iterator[None]:
    """Kill now this worker, now that, and let all be as before in the end."""
    over = threading.Event()

    def kill_them() -> None:
        for number in count():
            if number % 2:
                killed.append(second.kill())
                second.start()
            else:
                eventually(lambda: any(is_worker(process) for process in service.processes()), within=60, every=0.1)
                killed.append(kill(service, is_worker))
            if over.wait(KILLED_EVERY_SECONDS):
                return

    killer = threading.Thread(target=kill_them)
    killer.start()
    try:
        yield
    finally:
        over.set()
        killer.join()


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
    healthy = history.town.of("healthy")
    spreads = {each.name: [spread(each.seconds_to(receiver)) for receiver in healthy] for each in history.crowds}
    for each in history.crowds:
        halves, lates = zip(*spreads[each.name], strict=True)
        lines.append(
            f"  {each.name}: {len(each.receivers)} jobs; from the end to a healthy receiver, ms:"
            f" p50 {median(halves) * 1000:.0f}, p99 of each {min(lates) * 1000:.0f} to {max(lates) * 1000:.0f}"
        )
    ratios = [among / alone for (_, among), (_, alone) in zip(spreads[AMONG], spreads[ALONE], strict=True)]
    lines.append(f"  p99 among all to that alone, of each healthy receiver: {min(ratios):.2f} to {max(ratios):.2f}")
    print("\n" + "\n".join(lines), file=sys.stderr)


def spread(seconds: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    cuts = quantiles(seconds, n=100, method="inclusive")
    return cuts[49], cuts[98]


def test_workers_were_killed(history: History) -> None:
    assert len(history.killed) >= 4
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
