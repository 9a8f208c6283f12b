"""Whose word counts where: a GPU worker's key at GPU addresses, fal's key at fal's, and nobody's anywhere else."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from nacl.signing import SigningKey

from service.callbacks.signatures import fal_headers
from service.context import Context
from service.db import Database
from service.errors import SignatureRejected
from service.gpu import keys
from service.gpu.calls import WORKERS_PATH, Beat, Hello, Start
from service.gpu.identity import key_id
from service.gpu.line import envelope_of
from service.gpu.queues import request_id_of
from service.jobs import operations, store
from service.jobs.facts import Claim
from service.providers.signatures import read_headers
from tests import making
from tests.api.asking import is_problem
from tests.webhooks.posting import Poster, envelope, now

WORKER = "here-1"


@dataclass
class Target:
    """An attempt that GPU workers have, and one of them."""

    context: Context
    claim: Claim
    poster: Poster
    key: SigningKey

    @property
    def db(self) -> Database:
        return self.context.db

    @property
    def request_id(self) -> str:
        return request_id_of(self.claim.job_id, self.claim.attempt)

    @property
    def webhook(self) -> str:
        return self.poster.sealer.path(self.claim.job_id, self.claim.attempt, self.claim.model, "gpu")

    @property
    def runs(self) -> str:
        return self.poster.sealer.runs_path(self.claim.job_id, self.claim.attempt)

    def headers(self, body: bytes, key: SigningKey | None = None, shift: int = 0) -> dict[str, str]:
        key = key or self.key
        return fal_headers(key, self.request_id, key_id(bytes(key.verify_key)), int(now(shift)), body)

    async def say(self, path: str, word: Any, **signed: Any) -> httpx.Response:
        body = msgspec.json.encode(word)
        return await self.poster.send(path, body, self.headers(body, **signed))

    async def start(self, worker: str = WORKER, **signed: Any) -> dict[str, Any]:
        path = f"{self.runs}/start"
        return dict((await self.say(path, Start(path, worker), **signed)).json())

    async def beat(self, run: int, worker: str = WORKER, **said: Any) -> str | None:
        path = f"{self.runs}/beat"
        answer = await self.say(path, Beat(path, worker, run, **said))
        assert answer.status_code == 200, answer.text
        return answer.json()["stop"]  # type: ignore[no-any-return]


async def taken_by_gpu(db: Database, tenant: UUID) -> Claim:
    job = making.new_job(tenant, provider="gpu", input='{"prompt": "What?"}')
    await store.register(db, job)
    [claim] = await store.claim(db, 10, 20.0, "gpu")
    await store.record_answers(db, [making.accepted(claim, request_id_of(claim.job_id, claim.attempt))])
    return claim


@pytest.fixture
async def target(context: Context, tenant: UUID, poster: Poster) -> Target:
    key = SigningKey.generate()
    await keys.add_key(context.db, bytes(key.verify_key), "here")
    return Target(context, await taken_by_gpu(context.db, tenant), poster, key)


async def ends(target: Target, url: str, headers: Callable[[bytes], dict[str, str]]) -> int:
    body = envelope(target.request_id, making.CAT)
    return (await target.poster.send(url, body, headers(body))).status_code


def failure(request_id: str, status: int, payload: dict[str, Any]) -> bytes:
    return envelope_of(request_id, status, payload)


async def test_a_workers_key_ends_its_own_attempt(target: Target) -> None:
    assert await ends(target, target.webhook, target.headers) == 200
    outcome = await making.outcome(target.db, target.claim.job_id)
    assert outcome is not None
    assert (outcome["status"], outcome["provider"], outcome["body"]) == ("completed", "gpu", making.CAT)


async def test_fals_key_counts_for_nothing_at_a_workers_address(target: Target) -> None:
    def fals(body: bytes) -> dict[str, str]:
        return target.poster.signed(target.request_id, body)

    assert await ends(target, target.webhook, fals) == 401
    assert await making.status(target.db, target.claim.job_id) == "submitted"


async def test_a_workers_key_counts_for_nothing_at_fals_address(target: Target, tenant: UUID) -> None:
    other = await making.submitted(target.db, tenant, target.request_id + "-fal")
    url = target.poster.sealer.path(other.job_id, 1, other.model)
    assert await ends(target, url, target.headers) == 401
    assert await making.status(target.db, other.job_id) == "submitted"
    # Nor does the seal of one lend itself to the other.
    for address in (url.replace("/fal/", "/gpu/"), target.webhook.replace("/gpu/", "/fal/")):
        assert await ends(target, address, target.headers) == 401


async def test_a_key_that_nobody_registered_or_that_was_revoked_is_not_believed(target: Target) -> None:
    stranger = SigningKey.generate()
    assert await ends(target, target.webhook, lambda body: target.headers(body, stranger)) == 401
    assert await target.start() == {"run": 1, "input": {"prompt": "What?"}}
    assert await keys.revoke_key(target.db, key_id(bytes(target.key.verify_key)))
    assert not await keys.revoke_key(target.db, key_id(bytes(target.key.verify_key)))
    assert await keys.add_key(target.db, bytes(target.key.verify_key), "again")
    known = keys.WorkerKeys(target.db)
    signed = target.headers(b"")
    with pytest.raises(SignatureRejected):
        await known.verify(read_headers([(n.lower().encode(), v.encode()) for n, v in signed.items()]), "0" * 64)


async def test_what_is_said_to_one_address_cannot_be_sent_to_another(target: Target) -> None:
    said = Beat(f"{target.runs}/start", WORKER, 1)
    assert (await target.say(f"{target.runs}/beat", said)).status_code == 401
    word = Hello(WORKERS_PATH, WORKER, making.MODEL, "cpu", "idle")
    assert (await target.say(f"{target.runs}/start", word)).status_code == 400
    assert (await target.say(WORKERS_PATH, word)).status_code == 200


@pytest.mark.parametrize("shift", [-400, 400])
async def test_an_old_word_is_no_word(target: Target, shift: int) -> None:
    path = f"{target.runs}/start"
    assert (await target.say(path, Start(path, WORKER), shift=shift)).status_code == 401


@pytest.mark.parametrize("wrong", ["job", "attempt", "seal"])
async def test_an_address_that_was_not_sealed_is_refused(target: Target, wrong: str) -> None:
    parts = target.runs.split("/")
    parts[{"job": -3, "attempt": -2, "seal": -1}[wrong]] = {"job": str(UUID(int=1)), "attempt": "2", "seal": "0" * 32}[
        wrong
    ]
    path = f"{'/'.join(parts)}/start"
    assert (await target.say(path, Start(path, WORKER))).status_code == 401


async def test_a_second_worker_is_told_that_the_job_is_taken(target: Target) -> None:
    assert (await target.start())["run"] == 1
    assert await target.start("there-1") == {"no": "taken"}
    assert await target.beat(1, done=3, of=10, lines=["a", "b"]) is None
    rows = await target.db.fetch("SELECT line FROM run_logs ORDER BY id")
    assert [row["line"] for row in rows] == ["a", "b"]


async def test_a_worker_that_comes_again_has_crashed_before(target: Target) -> None:
    assert [(await target.start()).get("run") for _ in range(4)] == [1, 2, 3, None]
    rows = await target.db.fetch("SELECT how FROM runs ORDER BY number")
    assert [row["how"] for row in rows] == ["crashed"] * 3
    assert await target.beat(3) is None  # It lives after all; nothing has begun since.


async def test_a_worker_that_heard_no_answer_and_asks_again_has_not_crashed(target: Target) -> None:
    path = f"{target.runs}/start"
    begun = [(await target.say(path, Start(path, WORKER, again=again))).json() for again in (False, True, True, True)]
    assert [each.get("run") for each in begun] == [1, 1, 1, 1]
    assert (await target.say(path, Start(path, "there-1", again=True))).json() == {"no": "taken"}
    # The question itself was lost, too.
    assert (await target.start())["run"] == 2
    assert await target.beat(2) is None


async def test_a_run_that_was_overtaken_is_to_stop(target: Target) -> None:
    await target.start()
    await target.start()
    assert await target.beat(1) == "over"
    assert await target.beat(2) is None
    assert await target.beat(2, "there-1") == "over"


async def test_a_cancel_reaches_the_worker_with_its_next_heartbeat(target: Target) -> None:
    await target.start()
    assert await operations.cancel(target.context, target.claim.job_id)
    assert await target.beat(1) == "cancelled"
    assert await target.start("there-1") == {"no": "cancelled"}


async def test_a_job_that_has_ended_is_not_begun(target: Target) -> None:
    assert await ends(target, target.webhook, target.headers) == 200
    assert await target.start() == {"no": "over"}
    assert await target.beat(1) == "over"


async def test_a_file_is_believed_by_its_signature_alone(target: Target) -> None:
    path = f"{target.runs}/files/a.png"
    body = b"\x89PNG no picture"
    refused = await target.poster.send(path, body, target.headers(b"other bytes"))
    assert refused.status_code == 401
    kept = await target.poster.send(path, body, target.headers(body))
    assert kept.status_code == 200
    assert (await target.poster.http.get(kept.json()["url"])).content == body


async def test_a_file_that_the_store_does_not_take_is_to_be_sent_again(target: Target) -> None:
    path = f"{target.runs}/files/a.png"
    stored = Path(target.context.settings.artifacts_location.removeprefix("file://"))
    (stored / "spool").rename(stored / "away")
    is_problem(await target.poster.send(path, b"x", target.headers(b"x")), 503)
    (stored / "away").rename(stored / "spool")
    assert (await target.poster.send(path, b"x", target.headers(b"x"))).status_code == 200


async def test_what_a_worker_cannot_run_goes_where_else_it_may(target: Target, tenant: UUID) -> None:
    await target.start()
    await target.db.execute("UPDATE live_jobs SET fallback = 'fal' WHERE job_id = $1", target.claim.job_id)
    body = failure(target.request_id, 503, {"detail": "No room.", "error_type": "out_of_memory"})
    assert (await target.poster.send(target.webhook, body, target.headers(body))).json() == {"verdict": "late"}
    row = await making.live(target.db, target.claim.job_id)
    assert row is not None
    assert (row["provider"], row["fallback"], row["duty"], row["run"]) == ("fal", None, "submit", None)
    assert await making.states(target.db, target.claim.job_id) == ["superseded"]
    assert await target.beat(1) == "over"


async def test_what_may_go_nowhere_else_fails(target: Target) -> None:
    await target.start()
    body = failure(target.request_id, 503, {"detail": "No room.", "error_type": "out_of_memory"})
    assert (await target.poster.send(target.webhook, body, target.headers(body))).json() == {"verdict": "applied"}
    assert await making.status(target.db, target.claim.job_id) == "failed"


async def test_a_models_own_answer_goes_nowhere_else(target: Target) -> None:
    await target.start()
    await target.db.execute("UPDATE live_jobs SET fallback = 'fal' WHERE job_id = $1", target.claim.job_id)
    body = failure(target.request_id, 422, {"detail": [{"loc": ["body", "prompt"], "msg": "Odd.", "type": "x"}]})
    assert (await target.poster.send(target.webhook, body, target.headers(body))).json() == {"verdict": "applied"}
    assert await making.status(target.db, target.claim.job_id) == "failed"


@pytest.mark.parametrize(("body", "verdict"), [(b"not JSON", "unreadable"), (b'{"status": "OK"}', "unreadable")])
async def test_news_that_cannot_be_read_leave_the_run_under_way(target: Target, body: bytes, verdict: str) -> None:
    """A worker that never says more than that is silent after it, which counts as a crash."""
    await target.start()
    answer = await target.poster.send(target.webhook, body, target.headers(body))
    assert answer.json() == {"verdict": verdict}
    assert [row["how"] for row in await target.db.fetch("SELECT how FROM runs")] == [None]
