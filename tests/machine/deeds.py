"""What can be done to several jobs, each as somebody really does it, and what is told of it enters the accounts."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar
from uuid import UUID

from uuid_utils.compat import uuid7

from service.context import Context
from service.db import Row
from service.errors import Conflict, IdempotencyMismatch
from service.jobs import due, endings, operations, store, watching
from service.jobs.due import ToStop
from service.jobs.facts import Answer, Claim, Due, Evidence, NewJob
from service.jobs.lifecycle import AttemptState, Duty, OnDoubt, Source, Verdict
from service.jobs.replaying import replay
from service.jobs.submitting import Submitter
from service.providers.fal import failure
from service.tenants import set_wishes
from tests import making
from tests.machine.account import Account
from tests.machine.rows import Seen
from tests.machine.world import BAD, ENDS, Work, World, name_of, said_of

Item = TypeVar("Item")


def blocked(claim: Claim, delay: float = 0.0) -> Answer:
    return Answer(claim.job_id, claim.attempt, AttemptState.BLOCKED, Duty.SUBMIT, delay, error="Who are you?")


MOST_JOBS = 4
MAKE: dict[str, Callable[..., Answer]] = {
    "accepted": making.accepted,
    "refused": making.refused,
    "lost": making.ambiguous,
    "blocked": blocked,
}


class Deeds:
    """The clients, workers and watchers of one example, with all that is on its way between them."""

    def __init__(self, world: World) -> None:
        super().__init__()  # The machine's.
        self.world, self.db, self.context = world, world.db, world.context
        self.accounts: dict[UUID, Account] = {}
        self.keys: dict[str, Account] = {}
        self.in_flight: list[tuple[int, Claim]] = []  # with the worker that has it
        self.held: list[tuple[int, Answer]] = []  # answers that have not been kept yet
        self.kept: list[Answer] = []
        self.looks: list[Due] = []
        self.stops: list[ToStop] = []
        self.seen: dict[UUID, Seen] = {}
        self.tenant = world.run(making.make_tenant(self.db, "ours"))
        self.doubtful = world.run(making.make_tenant(self.db, "doubtful"))
        world.run(set_wishes(self.db, "doubtful", OnDoubt.FAIL))
        self.checked = True

    def run(self, work: Coroutine[Any, Any, Item]) -> Item:
        self.checked = False
        return self.world.run(work)

    @property
    def jobs(self) -> list[Account]:
        return list(self.accounts.values())

    def answer(self, claim: Claim, word: str, delay: float = 0.0) -> Answer:
        word = "lost" if word == "taken and lost" else word
        if word == "accepted":
            return making.accepted(claim, name_of(claim.job_id, claim.attempt), delay=delay)
        return MAKE[word](claim, delay=delay)

    async def register(
        self,
        on: Context,
        deadline: float | None,
        key: str | None = None,
        prompt: str = "a",
        tenant: UUID | None = None,
    ) -> None:
        asked = f'{{"prompt": "{prompt}"}}'
        new = NewJob(uuid7(), tenant or self.tenant, making.MODEL, asked, deadline_seconds=deadline)
        known = self.keys.get(key or "")
        try:
            told = await operations.register(on, new, key)
        except IdempotencyMismatch:
            known = self.keys.get(key or "")
            assert known is not None, "a key was called used that never was"
            assert operations.fingerprint_of(known.job) != operations.fingerprint_of(new), "the same was called another"
            return
        if told.created_at is not None:
            assert known is None, "a key was taken twice"
            assert told.job_id == new.id
            self.accounts[new.id] = Account(new, fails_in_doubt=new.tenant_id == self.doubtful)
            if key:
                assert key not in self.keys, "two were told that they were the first with a key"
                self.keys[key] = self.accounts[new.id]
        elif known is not None:
            assert told.job_id == known.id, "a key led to another job"
            assert operations.fingerprint_of(known.job) == operations.fingerprint_of(new), "another was called the same"

    async def retry(self, on: Context, account: Account) -> None:
        status = await making.status(on.db, account.id)
        new = NewJob(uuid7(), account.job.tenant_id, making.MODEL, account.job.input, retry_of=account.id)
        try:
            told = await operations.retry(on, new, status)
        except Conflict:
            assert status not in {"failed", "cancelled"}, "it was not repeated"
            return
        assert status in {"failed", "cancelled"}, f"it was repeated though it was {status}"
        if told.created_at is not None:
            assert account.retried_as is None, "it was repeated twice"
            account.retried_as = new.id
            self.accounts[new.id] = Account(new, fails_in_doubt=account.fails_in_doubt)

    async def claim(self, on: Context, worker: int, limit: int = 8) -> None:
        for claim in await store.claim(on.db, limit, 20.0, "fal"):
            self.accounts[claim.job_id].asked[claim.attempt] += 1
            self.in_flight.append((worker, claim))

    async def keep(self, on: Context, answers: Sequence[Answer]) -> None:
        for answer in answers:
            self.accounts[answer.job_id].refused |= answer.state == "refused"
        if answers:
            await store.record_answers(on.db, answers)
            self.kept += answers

    async def reject(self, on: Context, claim: Claim) -> None:
        account = self.accounts[claim.job_id]
        account.said.add(said_of("bad", claim.attempt))
        news = Evidence(Source.SUBMIT, BAD, http_status=422)
        verdict = await operations.end(on, claim.job_id, claim.attempt, claim.model, failure(422, BAD), news)
        account.applied += verdict == "applied"

    async def webhook(self, on: Context, account: Account, attempt: int, request_id: str, end: str) -> str:
        known = self.names().get((account.id, attempt))
        if end in ENDS and (known == request_id or (known is None and not self.is_anothers(request_id))):
            account.said.add(said_of(end, attempt))
        verdict = await self.world.post(on, account.id, attempt, account.job.model, request_id, end)
        account.webhooks += 1
        account.applied += verdict == "applied"
        return verdict

    def names(self) -> dict[tuple[UUID, int], str | None]:
        """What the provider calls each attempt, as far as we know."""
        return {
            (job_id, row["number"]): row["provider_request_id"]
            for job_id, seen in self.seen.items()
            for row in seen.attempts
        }

    def is_anothers(self, request_id: str) -> bool:
        """Whether it is known as an attempt's, so that no attempt without a name can take it."""
        return request_id in self.names().values()

    async def cancel(self, on: Context, account: Account) -> bool:
        asked = await operations.cancel(on, account.id)
        account.cancels += asked
        return asked

    async def cancel_half(self, on: Context, account: Account) -> None:
        """The API dies between the two statements of a cancel."""
        asked = await endings.request_cancel(on.db, account.id) is not None
        account.cancels += asked

    async def force(self, on: Context, account: Account) -> bool:
        account.forced += 1
        return await operations.force_end(on.db, account.id)

    async def replay(self, on: Context, account: Account, report: Row) -> None:
        """An operator lets a report be read once more, and what it says be done."""
        said = {end for end, (_, _, body) in ENDS.items() if body in report["body"]}
        account.said |= {said_of(end, report["attempt"]) for end in said if report["verdict"] != Verdict.FOREIGN}
        again = await replay(on.db, on.catalog, report["id"], apply=True)
        if again.verdict is Verdict.APPLIED:
            account.applied += 1
            account.webhooks += report["source"] == Source.WEBHOOK

    async def submit(self, on: Context) -> None:
        await Submitter(on).drain()

    async def take(self, on: Context) -> None:
        self.looks += await due.take_due(on.db, 10, 30.0)

    def owed(self, account: Account) -> str:
        live = self.seen[account.id].live
        return live["duty"] if live else ""

    def posted(self, account: Account, number: int, request_id: str, end: str) -> Work:
        return lambda on: self.webhook(on, account, number, request_id, end)

    def answered(self, claim: Claim, word: str) -> Work:
        """A submission is answered once; its worker may say so twice when it lost the database meanwhile."""

        async def keep(on: Context) -> None:
            self.in_flight = [each for each in self.in_flight if each[1] != claim]
            if word == "rejected":
                await self.reject(on, claim)
            else:
                await self.keep(on, [self.answer(claim, word)])

        return keep

    def said_again(self, answer: Answer) -> Work:
        return lambda on: self.keep(on, [answer])

    def looked(self, job: Due) -> Work:
        return lambda on: watching.look(on, job)
