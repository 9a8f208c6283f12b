"""From claim to answer: many jobs are taken at once, submitted at once, and their answers kept together."""

import asyncio
import random
from collections.abc import Sequence
from functools import partial

from service.batching import Batcher
from service.context import Context
from service.db import patiently
from service.jobs import due, operations, store
from service.jobs.facts import Answer, Claim
from service.jobs.lifecycle import AttemptState, Duty, Event
from service.providers.address import Sealer
from service.providers.base import Accepted, Refused, Rejected, Unknown
from service.queue import TaskName

# Submissions on their way from one process at a time: as many may be left in doubt when it is killed.
SLOTS = 64

# A worker that has not recorded an answer this long after its own time limit is dead.
LEASE_MARGIN_SECONDS = 5.0

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0

# An answer that the provider gave is kept in memory this long while the database is away.
PATIENCE_SECONDS = 120.0


class Submitter:
    """The submissions of one worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._free = SLOTS
        self._turned_away = False
        self._answers = Batcher(self._keep)

    async def drain(self) -> None:
        """Submit until nothing is due. When all slots are taken, those who hold them go on instead."""
        sealer = await self._context.sealer()
        while self._free:
            asked, self._free = self._free, 0
            claims: list[Claim] = []
            try:
                claims = await store.claim(self._context.db, asked, self._lease, self._context.fal.name)
            finally:
                self._free += asked - len(claims)
            await asyncio.gather(*(self._submit(claim, sealer) for claim in claims))
            if len(claims) < asked and not self._turned_away:
                return
            self._turned_away = False
        self._turned_away = True

    @property
    def _lease(self) -> float:
        return self._context.settings.submit_timeout_seconds + LEASE_MARGIN_SECONDS

    async def _submit(self, claim: Claim, sealer: Sealer) -> None:
        webhook_url = self._context.settings.public_url + sealer.path(claim.job_id, claim.attempt, claim.model)
        try:
            said = await self._context.fal.submit(claim.model, claim.input, webhook_url, claim.priority)
        finally:
            self._free += 1
        match said:
            case Rejected(ending=ending, evidence=evidence):
                await patiently(
                    partial(operations.end, self._context, claim.job_id, claim.attempt, claim.model, ending, evidence),
                    PATIENCE_SECONDS,
                )
            case Refused() if claim.age > self._context.settings.submit_retry_seconds:
                words = f"No provider took the job in time. {said.reason}"
                given_up = operations.ending(Event.FAILED, 503, "submission_refused", words)
                await store.close(self._context.db, claim.job_id, given_up, even_if_submitted=True)
            case _:
                await self._answers.put(self._answer(claim, said))

    def _answer(self, claim: Claim, said: Accepted | Refused | Unknown) -> Answer:
        """What a provider's answer means for the attempt, and what is owed next."""
        settings = self._context.settings
        match said:
            case Accepted():
                return Answer(
                    claim.job_id,
                    claim.attempt,
                    AttemptState.SUBMITTED,
                    Duty.REPORT,
                    settings.first_poll_seconds,
                    provider_request_id=said.request_id,
                    gateway_request_id=said.gateway_request_id,
                    response_url=said.response_url,
                    status_url=said.status_url,
                    cancel_url=said.cancel_url,
                    queue_position=said.queue_position,
                )
            case Refused():
                delay = backoff(claim.attempt) if said.retry_after is None else said.retry_after
                state, duty = AttemptState.REFUSED, Duty.SUBMIT
            case Unknown():
                delay = settings.ambiguous_seconds
                state, duty = AttemptState.AMBIGUOUS, Duty.SETTLE
        words = store.storable(said.reason)
        return Answer(claim.job_id, claim.attempt, state, duty, delay, http_status=said.http_status, error=words)

    async def _keep(self, answers: Sequence[Answer]) -> None:
        stopped = await patiently(partial(store.record_answers, self._context.db, answers), PATIENCE_SECONDS)
        for delay in {answer.delay for answer in answers if answer.duty is Duty.SUBMIT}:
            self._context.nudger.nudge(TaskName.SUBMIT, after=delay)
        for job_id, attempt in stopped:
            # Somebody asked for a cancel while the submission was on its way.
            if not await store.close(self._context.db, job_id, operations.CANCELLED):
                await due.look_now(self._context.db, job_id, attempt)
                self._context.nudger.nudge(TaskName.WATCH)


def backoff(attempt: int) -> float:
    """Seconds before the next try: doubling, with jitter over its upper half."""
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 10))
    return longest * random.uniform(0.5, 1.0)
