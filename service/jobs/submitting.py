"""From claim to answer: many jobs are taken at once, submitted at once, and their answers kept together."""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic

import structlog

from service.artifacts import inputs
from service.batching import Batcher
from service.context import Context
from service.db import DatabaseAway, patiently
from service.errors import Unavailable
from service.jobs import endings, guards, hints, operations, pauses, store
from service.jobs.facts import Answer, Claim
from service.jobs.lifecycle import AttemptState, Duty, Event, Verdict
from service.providers.base import Accepted, Blocked, Refused, Rejected, SubmitAnswer, Unknown
from service.pump import Pump
from service.queue import TaskName

log = structlog.get_logger()

# Submissions on their way from one process at a time: as many may be left in doubt when it is killed.
SLOTS = 64

# A worker that has not recorded an answer this long after its own time limit is dead.
LEASE_MARGIN_SECONDS = 5.0

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0

# An answer that the provider gave is kept in memory this long while the database is away.
PATIENCE_SECONDS = 120.0


TOO_LATE_TO_START = operations.ending(
    Event.FAILED, 504, "request_timeout", "The job did not start within the time that its client gave it."
)


class Submitter:
    """The submissions of one worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._answers = Batcher(self._keep, whole=(DatabaseAway,))
        self._accepted_at = 0.0
        self.pump = Pump("submission", self._claim, self._submit, slots=SLOTS)

    async def drain(self) -> None:
        """Submit until nothing is due and all answers are kept."""
        await self.pump.drain()

    async def _claim(self, limit: int) -> Sequence[Claim]:
        await self._context.sealer()  # Before a claim, so that no claimed job waits for it.
        lease = self._context.settings.submit_timeout_seconds + LEASE_MARGIN_SECONDS
        return await store.claim(self._context.db, limit, lease, self._context.fal.name)

    async def _submit(self, claim: Claim) -> None:
        begun, headers = monotonic(), hints.left_of(claim.hints, claim.waited)
        said = Refused(TOO_LATE_TO_START.error or "") if headers is None else await self._offer(claim, headers)
        if isinstance(said, Blocked):
            said = await patiently(partial(self._turned_away, said, begun), PATIENCE_SECONDS)
        match said:
            case Rejected(ending=ending, evidence=evidence):
                await patiently(
                    partial(operations.end, self._context, claim.job_id, claim.attempt, claim.model, ending, evidence),
                    PATIENCE_SECONDS,
                )
            case Refused() if headers is None or claim.refused_seconds >= self._context.settings.submit_retry_seconds:
                await self._answers.put(self._answer(claim, said))
                words = guards.storable(f"No provider took the job in time. {said.reason}") or ""
                given_up = operations.ending(Event.FAILED, 503, "submission_refused", words)
                given_up = TOO_LATE_TO_START if headers is None else given_up
                await patiently(partial(operations.close, self._context, claim.job_id, given_up), PATIENCE_SECONDS)
            case _:
                await self._answers.put(self._answer(claim, said))
                if isinstance(said, Unknown) and said.evidence is not None:
                    kept = partial(endings.file_report, self._context.db, claim.job_id, claim.attempt, said.evidence)
                    await patiently(partial(kept, None, Verdict.INCONCLUSIVE), PATIENCE_SECONDS)
        if isinstance(said, Accepted | Rejected):
            self._accepted_at = monotonic()
            if claim.probe:
                await patiently(self._resume, PATIENCE_SECONDS)

    async def _offer(self, claim: Claim, headers: Mapping[str, str]) -> SubmitAnswer:
        sealer = await self._context.sealer()
        webhook_url = self._context.settings.public_url + sealer.path(claim.job_id, claim.attempt, claim.model)
        try:
            text = await inputs.whole(self._context.storage, claim.input)
        except Unavailable as error:
            return Refused(error.message)
        return await self._context.fal.submit(claim.model, text, webhook_url, claim.priority, headers)

    async def _turned_away(self, said: Blocked, begun: float) -> Blocked | Refused:
        """Pause the provider, before the answer is kept: the job is due again at once.

        If another job was accepted meanwhile, the account is not what is wrong, and only this one was refused.
        """
        if self._accepted_at > begun:
            return Refused(said.reason, said.http_status)
        if await pauses.pause(self._context.db, self._context.fal.name, said.reason, said.http_status):
            log.error("the provider takes nothing from this account; it is paused", reason=said.reason)
        return said

    async def _resume(self) -> None:
        if await pauses.resume(self._context.db, self._context.fal.name, by_probe=True):
            log.warning("the provider takes jobs again; its pause is over", provider=self._context.fal.name)
            self._context.nudger.nudge(TaskName.SUBMIT)

    def _answer(self, claim: Claim, said: Accepted | Refused | Blocked | Unknown) -> Answer:
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
                left = max(0.0, settings.submit_retry_seconds - claim.refused_seconds)
                # Spread out, or all that were refused together would come back together.
                asked = (said.retry_after or 0.0) * random.uniform(1.0, 1.25)
                delay = max(backoff(claim.attempt), min(asked, left))
                state, duty = AttemptState.REFUSED, Duty.SUBMIT
            case Blocked():
                delay, state, duty = 0.0, AttemptState.BLOCKED, Duty.SUBMIT
            case Unknown():
                delay = settings.ambiguous_seconds
                state, duty = AttemptState.AMBIGUOUS, Duty.SETTLE
        words = guards.storable(said.reason)
        return Answer(claim.job_id, claim.attempt, state, duty, delay, http_status=said.http_status, error=words)

    async def _keep(self, answers: Sequence[Answer]) -> None:
        stopped = await patiently(partial(store.record_answers, self._context.db, answers), PATIENCE_SECONDS)
        for delay in {answer.delay for answer in answers if answer.state is AttemptState.REFUSED}:
            self._context.nudger.nudge(TaskName.SUBMIT, after=delay)
        if stopped:
            # Somebody asked for a cancel while the submission was on its way.
            self._context.nudger.nudge(TaskName.WATCH)


def backoff(attempt: int) -> float:
    """Seconds before the next try: doubling, with jitter over its upper half."""
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 10))
    return longest * random.uniform(0.5, 1.0)
