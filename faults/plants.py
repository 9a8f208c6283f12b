"""Bugs to be planted, so that the checks are seen to turn red: each patches a module before a process begins."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from faults.checks import files, jobs, news, requests
from faults.evidence import Evidence
from faults.findings import Finding
from faults.history import Json

if TYPE_CHECKING:
    from service.artifacts.records import Measured
    from service.artifacts.storage import Spooled, Storage, Stored


@dataclass(frozen=True)
class Plant:
    """`apply` patches the process that it is called in; `check` is the one that has to see it.

    `needed` is how the provider has to misbehave for the bug to show.
    """

    apply: Callable[[], None]
    check: Callable[[Evidence], Finding]
    needed: tuple[Json, ...] = ()


def answer_before_commit() -> None:
    """A registration in five is answered and not written."""
    from service.jobs import store

    register_once, count = store.register_once, itertools.count()

    async def answer_first(db: Any, job: Any, key: str, fingerprint: bytes, lasts_seconds: float | None = None) -> Any:
        if next(count) % 5:
            return await register_once(db, job, key, fingerprint, lasts_seconds)
        return datetime.now(UTC)

    store.register_once = answer_first


def ignore_key() -> None:
    """Every request with an idempotency key is a job of its own."""
    from service.jobs import store

    async def register_always(
        db: Any, job: Any, key: str, fingerprint: bytes, lasts_seconds: float | None = None
    ) -> Any:
        return await store.register(db, job)

    store.register_once = register_always


def overwrite_outcome() -> None:
    """A second webhook takes the place of the first; the trigger that forbids it is gone, too."""
    from service.jobs import endings

    settle = endings.settle

    async def overwrite(db: Any, job_id: UUID, attempt: int, ending: Any, *others: Any) -> Any:
        row = await settle(db, job_id, attempt, ending, *others)
        if row is None:
            await db.execute("ALTER TABLE results DISABLE TRIGGER USER")
            await db.execute("UPDATE results SET body = $2 WHERE job_id = $1", job_id, ending.body)
        return row

    endings.settle = overwrite  # type: ignore[assignment]


def keep_duty() -> None:
    """A claim leaves the job to be claimed: it is submitted again while it is being submitted."""
    from service.jobs import store

    moved = "SET duty = 'answer', attempt = live_jobs.attempt + 1, due_at = now() + make_interval(secs => $2)"
    stays = "SET attempt = live_jobs.attempt + 1, due_at = now() + make_interval(secs => $2 * 0.1)"
    assert moved in store._CLAIM, "the statement reads otherwise now"
    store._CLAIM = store._CLAIM.replace(moved, stays)


def doubt_is_refusal() -> None:
    """A submission without an answer is taken for refused, and made again at once, uncounted."""
    from service.jobs.submitting import Submitter
    from service.providers.base import Refused, Unknown

    answer = Submitter._answer

    def refused(self: Any, claim: Any, said: Any, turn: str | None = None) -> Any:
        return answer(self, claim, Refused(said.reason, said.http_status) if isinstance(said, Unknown) else said, turn)

    Submitter._answer = refused  # type: ignore[method-assign]


def skip_signature() -> None:
    """Whoever knows an address is believed."""
    from service.providers.signatures import KeySet

    async def believe(self: Any, signed: Any, body: bytes) -> None:
        return None

    KeySet.verify = believe  # type: ignore[method-assign]


def no_sweep() -> None:
    """Work whose nudge was lost is looked for by nobody."""
    from service.jobs import due

    async def nothing(db: Any) -> Any:
        return {"submit": False, "watch": False, "copy": False, "deliver": False}

    due.anything_due = nothing


def half_copies() -> None:
    """Half the bytes of an output's file are stored under the hash of all of them; what clients send stays whole."""
    from service.artifacts import copying, filing

    whole = filing.file

    async def half(db: Any, storage: "Storage", received: "Spooled", measured: "Measured") -> "Stored":
        with received.path.open("r+b") as opened:
            opened.truncate(received.size // 2)
        return await whole(db, storage, received, measured)

    copying.file = half  # type: ignore[attr-defined]  # A name that it imports is what is spoilt.


def adopt_any() -> None:
    """News of any request is taken for the attempt's own."""
    from service.jobs import endings

    settle = endings.settle

    async def believe(db: Any, job_id: UUID, attempt: int, ending: Any, evidence: Any, *others: Any) -> Any:
        unnamed = evidence if evidence is None else replace(evidence, request_id=None)
        return await settle(db, job_id, attempt, ending, unnamed, *others)

    endings.settle = believe  # type: ignore[assignment]


PLANTS = {
    "answer-before-commit": Plant(answer_before_commit, jobs.accepted_jobs_lost),
    "key-ignored": Plant(ignore_key, jobs.several_jobs_for_a_key),
    "outcome-overwritten": Plant(overwrite_outcome, news.outcomes_overwritten, ({"webhook": "conflicting"},)),
    "claim-keeps-duty": Plant(keep_duty, requests.requests_unexplained),
    "doubt-is-refusal": Plant(doubt_is_refusal, requests.requests_unexplained, ({"submit": "cut", "webhook": "none"},)),
    "signature-skipped": Plant(skip_signature, news.forgeries_applied),
    "no-sweep": Plant(no_sweep, jobs.without_an_end),
    "half-copies": Plant(half_copies, files.artifacts_not_whole),
    "any-request-adopted": Plant(adopt_any, news.forgeries_applied, ({"webhook": "crossed"},)),
}
