"""SIGTERM of the API, the worker and beat in turn, under load, as a rolling restart does it.

The clients keep their connections open and try nothing a second time: whatever goes wrong once is counted.
`ROUNDTRIP_RESTARTS=50` makes it a long one.
"""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from statistics import quantiles

import httpx
import pytest

from tests.faults.killing import is_api, is_beat, is_worker
from tests.journeys.driver import Json, listed_in, new_tag, sample_input
from tests.journeys.running import Process, Service, below, installation
from tests.stand_in import Script, StandIn
from tests.stand_in.outputs import LLAVA
from tests.stand_in.server import Submit, eventually, tally

RESTARTS = int(os.environ.get("ROUNDTRIP_RESTARTS", "15"))
PAUSES = (0.02, 0.1, 0.1, 0.3, 1.0, 3.0)
"""Seconds between two requests of each client; some are so long that a connection idles while its server ends."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(120 + 12 * RESTARTS)]


@dataclass
class Load:
    """Clients that register, read, wait and follow streams until they are told to stop."""

    service: Service
    tags: dict[str, str] = field(default_factory=dict)
    """The request ID of each tag that was registered."""
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    waits: int = 0
    streams: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self, held: str) -> list[threading.Thread]:
        calls: dict[str, Callable[[httpx.Client], object]] = {
            "wait": lambda http: self.wait(http, held),
            "stream": lambda http: self.follow(http, held),
        }
        for number, pause in enumerate(PAUSES):
            calls[f"client {number}"] = partial(self.register_and_read, pause=pause)
        threads = [threading.Thread(target=self.repeat, args=(call,), name=name) for name, call in calls.items()]
        for thread in threads:
            thread.start()
        return threads

    def repeat(self, call: Callable[[httpx.Client], object]) -> None:
        with self.service.client() as http:
            while not self.over.is_set():
                try:
                    call(http)
                except Exception as error:  # Nothing may go wrong in any way.
                    self.failures.append(f"{threading.current_thread().name}: {error!r}")

    def ask(self, http: httpx.Client, method: str, path: str, **more: object) -> Json:
        begun = time.monotonic()
        answer = http.request(method, path, **more)  # type: ignore[arg-type]
        self.seconds.append(time.monotonic() - begun)
        if answer.status_code not in (200, 202):
            self.failures.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        body: Json = answer.json()
        return body

    def register_and_read(self, http: httpx.Client, pause: float) -> None:
        tag = new_tag()
        made = self.ask(http, "POST", "/v1/jobs", json={"model": LLAVA, "input": sample_input(LLAVA, tag)})
        self.tags[tag] = made["request_id"]
        for _ in range(3):
            self.over.wait(pause * random.uniform(0.5, 1.5))
            self.ask(http, "GET", f"/v1/jobs/{made['request_id']}")

    def wait(self, http: httpx.Client, held: str) -> None:
        """For a job that does not end: answered early by each API that does. A new one may take its time to start."""
        answer = http.get(f"/v1/jobs/{held}?wait=10")
        assert answer.status_code == 200, answer.text
        self.waits += answer.json()["completed_at"] is None

    def follow(self, http: httpx.Client, held: str) -> None:
        with http.stream("GET", f"/v1/jobs/{held}/stream") as answer:
            assert answer.status_code == 200
            for _ in answer.iter_lines():
                if self.over.is_set():
                    return
        self.streams += 1


@dataclass
class History:
    load: Load
    submits: list[Submit]
    jobs: dict[str, Json]
    statuses: list[int]
    """What the webhooks were answered."""


def restarted(service: Service, which: Callable[[Process], bool]) -> None:
    """SIGTERM to the child alone, then wait until another one works in its place."""
    [old] = [process for process in service.processes() if which(process)]
    os.kill(old.pid, signal.SIGTERM)

    def replaced() -> Process | None:
        return next((process for process in service.processes() if which(process) and process.pid != old.pid), None)

    eventually(lambda: not old.alive, within=40)
    new = eventually(replaced, within=20)
    if which is is_api:
        service.wait_ready()
    else:
        # Its watchdog is started when it is ready.
        eventually(lambda: below(new.pid), within=30)


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    slow = Script(answer_seconds=(0.02, 0.3), seconds=0.1)
    # On a machine that is slow for two seconds nothing may look like a lost answer.
    patient = {"ROUNDTRIP_SUBMIT_TIMEOUT_SECONDS": "20", "ROUNDTRIP_AMBIGUOUS_SECONDS": "60"}
    with StandIn(webhook_tries=3, default=slow) as fal, installation(fal, **patient) as service:
        service.start()
        with service.client() as http:
            yield run(fal, service, http)


def run(fal: StandIn, service: Service, http: httpx.Client) -> History:
    holding = new_tag()
    fal.script(holding, Script(holds=True))
    body = {"model": LLAVA, "input": sample_input(LLAVA, holding)}
    held: str = http.post("/v1/jobs", json=body).json()["request_id"]
    load = Load(service)
    threads = load.run(held)
    begun = time.monotonic()
    for which in islice(cycle((is_api, is_worker, is_beat)), RESTARTS):
        restarted(service, which)
        time.sleep(0.3)
    took = time.monotonic() - begun
    load.over.set()
    fal.finish(fal.run(holding))
    for thread in threads:
        thread.join(60)
    jobs = eventually(lambda: all_ended(http), within=60, every=0.5)
    statuses = [delivery.status for delivery in fal.deliveries]
    slowest = quantiles(load.seconds, n=100)
    refused = sum(status // 100 != 2 for status in statuses)
    print(
        f"\nrestarts: {RESTARTS} in {took:.0f} s; requests: {len(load.seconds)}, failed: {len(load.failures)};"
        f" median {slowest[49] * 1000:.0f} ms, p99 {slowest[98] * 1000:.0f} ms, longest {max(load.seconds):.1f} s;"
        f" waits answered early: {load.waits}; streams closed in order: {load.streams}; jobs: {len(jobs)};"
        f" submits: {len(fal.submits)}; webhooks: {len(statuses)}, refused: {refused}",
        file=sys.stderr,
    )
    return History(load, list(fal.submits), jobs, statuses)


def all_ended(http: httpx.Client) -> dict[str, Json] | None:
    """Every job by its request ID, if none is live."""
    jobs: dict[str, Json] = {}
    page: Json = {"next_cursor": ""}
    while (cursor := page.get("next_cursor")) is not None:
        query = {"limit": 100} | ({"cursor": cursor} if cursor else {})
        page = http.get("/v1/jobs", params=query).json()
        jobs |= {job["request_id"]: job for job in listed_in(page)}
        if any(job["completed_at"] is None for job in listed_in(page)):
            return None
    return jobs


def test_no_request_failed(history: History) -> None:
    assert history.load.failures == []


def test_every_registered_job_was_completed(history: History) -> None:
    assert set(history.load.tags.values()) <= set(history.jobs)
    assert {job["status"] for job in history.jobs.values()} == {"completed"}


def test_every_job_was_submitted_once(history: History) -> None:
    assert set(tally(history.submits).values()) == {1}
    assert {(job["attempt"], job["resubmissions"]) for job in history.jobs.values()} == {(1, 0)}


def test_no_webhook_was_refused(history: History) -> None:
    assert {status // 100 for status in history.statuses} == {2}


def test_waits_and_streams_were_ended_in_order(history: History) -> None:
    assert history.load.waits > 0
    assert history.load.streams > 0
