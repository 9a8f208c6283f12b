"""`kill -9` of the Celery worker, the API and PostgreSQL in the middle of 200 jobs.

One run of 200 jobs at a steady rate, with a kill of each in turn, is made once for the module; every test
then compares its history: what the clients were told, what the stand-in was sent, what the service says.
An errored registration is unknown to its client, who tries again with the same Idempotency-Key.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.faults.killing import is_api, is_postgres, is_worker, kill
from tests.journeys.driver import ENDED, Driver, Json, sample_input
from tests.journeys.running import Process, Service, installation
from tests.stand_in import Script, StandIn
from tests.stand_in.outputs import MODELS
from tests.stand_in.server import Submit, tally

JOBS = 200
PER_SECOND = 20
KILLS_AT = (0.2, 0.5, 0.75)
REGISTERED_WITHIN = 120
ENDED_WITHIN = 60
COPIED_WITHIN = 60

pytestmark = pytest.mark.timeout(600)


@dataclass
class History:
    """`told[tag]` holds every request ID that a client was ever given for that tag."""

    told: dict[str, set[str]]
    jobs: dict[str, Json]
    attempts: dict[str, list[Json]]
    submits: list[Submit]
    listed: set[str]
    killed: list[Process]
    errors: int

    def submits_of(self, tag: str) -> list[Submit]:
        return [submit for submit in self.submits if submit.tag == tag]

    def doubtful(self, tag: str) -> int:
        """How often the service itself says that it submitted again without knowing what became of the last time."""
        return int(self.jobs[tag]["resubmissions"])


def register(client: Driver, tag: str, number: int, errors: list[str]) -> set[str]:
    """Register until it is accepted, and once more, as a client would whose answer was lost."""
    body = {"model": MODELS[number % len(MODELS)], "input": sample_input(MODELS[number % len(MODELS)], tag)}
    told: set[str] = set()
    deadline = time.monotonic() + REGISTERED_WITHIN
    while time.monotonic() < deadline:
        try:
            answer = client.http.post("/v1/jobs", json=body, headers={"idempotency-key": tag}, timeout=10)
        except httpx.HTTPError as error:
            errors.append(repr(error))
        else:
            if answer.status_code in (200, 202):
                told.add(answer.json()["request_id"])
                return told
            assert answer.status_code >= 500, answer.text
            errors.append(str(answer.status_code))
        time.sleep(0.3)
    return told


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    slow = Script(answer_seconds=(0.02, 0.05), seconds=0.05)
    with StandIn(webhook_tries=3, default=slow) as fal, installation(fal) as service:
        service.start()
        with service.client() as http:
            yield run(fal, service, Driver(http))


def run(fal: StandIn, service: Service, client: Driver) -> History:
    tags = [f"job-{number}" for number in range(JOBS)]
    errors: list[str] = []
    killed: list[Process] = []
    begun = time.monotonic()

    def at_its_time(number: int) -> set[str]:
        time.sleep(max(0.0, begun + number / PER_SECOND - time.monotonic()))
        return register(client, tags[number], number, errors)

    def kill_in_turn() -> None:
        for share, which in zip(KILLS_AT, (is_worker, is_api, is_postgres), strict=True):
            time.sleep(max(0.0, begun + share * JOBS / PER_SECOND - time.monotonic()))
            killed.append(kill(service, which))

    killer = threading.Thread(target=kill_in_turn)
    killer.start()
    with ThreadPoolExecutor(32) as pool:
        told = dict(zip(tags, pool.map(at_its_time, range(JOBS)), strict=True))
    killer.join()
    service.wait_ready()
    return gather(fal, client, told, killed, len(errors))


def gather(fal: StandIn, client: Driver, told: dict[str, set[str]], killed: list[Process], errors: int) -> History:
    jobs = {tag: client.job(request_id) for tag, ids in told.items() for request_id in ids}
    ending = follow(client, jobs, lambda job: job["status"] in ENDED, ENDED_WITHIN)
    copying = follow(client, jobs, copied, COPIED_WITHIN)
    attempts = {tag: client.attempts(job["request_id"]) for tag, job in jobs.items()}
    made = History(told, jobs, attempts, list(fal.submits), set(client.ids(limit=100)), killed, errors)
    report(made, ending, copying)
    return made


def follow(client: Driver, jobs: dict[str, Json], done: Callable[[Json], bool], within: float) -> float:
    """Read the jobs again until all are done, or the time is over. Returns the seconds that it took."""
    begun = time.monotonic()
    while (live := [tag for tag, job in jobs.items() if not done(job)]) and time.monotonic() < begun + within:
        time.sleep(0.5)
        jobs |= {tag: client.job(jobs[tag]["request_id"]) for tag in live}
    return time.monotonic() - begun


def copied(job: Json) -> bool:
    return all(file["sha256"] for file in (*job["masks"], *job["images"]))


def report(history: History, ending: float, copying: float) -> None:
    counts = tally(history.submits)
    print(
        f"\nkills: {len(history.killed)}; registrations that errored: {history.errors};"
        f" jobs: {len(history.listed)}; ended: {sum(job['status'] == 'completed' for job in history.jobs.values())}"
        f" completed of {len(history.jobs)}; submits: {len(history.submits)};"
        f" jobs submitted twice or more: {sum(count > 1 for count in counts.values())};"
        f" attempts that the service counts as doubtful: {sum(map(history.doubtful, history.attempts))};"
        f" after the last kill all had ended within {ending:.1f} s, and all files were copied {copying:.1f} s later",
        file=sys.stderr,
    )


def test_every_kill_hit_and_was_noticed(history: History) -> None:
    assert len(history.killed) == 3
    assert not any(process.alive for process in history.killed)


def test_every_registration_was_accepted_in_the_end_as_one_job(history: History) -> None:
    assert {tag for tag, ids in history.told.items() if len(ids) != 1} == set()


def test_no_accepted_job_is_missing_and_none_was_made_up(history: History) -> None:
    assert history.listed == {job["request_id"] for job in history.jobs.values()}
    assert len(history.listed) == JOBS


def test_every_accepted_job_ended_and_completed(history: History) -> None:
    assert {tag: job["status"] for tag, job in history.jobs.items() if job["status"] != "completed"} == {}


def test_no_attempt_was_submitted_twice(history: History) -> None:
    urls = [submit.webhook_url for submit in history.submits]
    assert len(urls) == len(set(urls))


def test_a_job_was_submitted_again_only_where_the_service_counts_a_doubt(history: History) -> None:
    extra = {tag: len(history.submits_of(tag)) - 1 for tag in history.jobs}
    uncounted = {tag: more for tag, more in extra.items() if more > history.doubtful(tag)}
    assert uncounted == {}
    assert {tag: more for tag, more in extra.items() if more < 0} == {}


def test_every_submit_is_one_of_the_attempts_that_the_service_lists(history: History) -> None:
    for tag, attempts in history.attempts.items():
        submits = history.submits_of(tag)
        taken = {submit.run.request_id for submit in submits if submit.run is not None}
        named = {attempt["provider_request_id"] for attempt in attempts} - {None}
        assert named <= taken, tag
        assert len(submits) <= len(attempts), tag


def test_every_outcome_is_that_of_one_of_its_runs(history: History) -> None:
    for tag, job in history.jobs.items():
        outputs = [submit.run.output for submit in history.submits_of(tag) if submit.run and submit.run.chosen]
        assert any(same_but_for_addresses(job["output"], output) for output in outputs), tag


def same_but_for_addresses(ours: object, theirs: object) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(
            name == "url" or same_but_for_addresses(ours[name], theirs[name]) for name in ours
        )
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same_but_for_addresses, ours, theirs))
    return ours == theirs


def test_every_file_has_its_copy(history: History) -> None:
    assert {tag for tag, job in history.jobs.items() if not copied(job)} == set()
