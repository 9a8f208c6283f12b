"""From claim to answer: many jobs are taken at once, submitted at once, and their answers kept together."""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic

import structlog

from service.artifacts import inputs
from service.batching import Batcher
from service.catalog.text import storable
from service.context import Context
from service.db import DatabaseAway, patiently
from service.errors import Unavailable
from service.jobs import filing, guards, hints, operations, pauses, store
from service.jobs.facts import Answer, Claim
from service.jobs.lifecycle import AttemptState, Duty, Event, Verdict
from service.jobs.routing import OTHER
from service.providers.base import Accepted, Blocked, Offer, Provider, Refused, Rejected, SubmitAnswer, Unknown
from service.pump import Pump
from service.queue import TaskName, submission

log = structlog.get_logger()

# Submissions on their way from one process at a time: as many may be left in doubt when it is killed.
SLOTS = 64

# A worker that has not recorded an answer this long after its own time limit is dead.
LEASE_MARGIN_SECONDS = 5.0

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0

# An answer that the provider gave is kept in memory this long while the database is away.
PATIENCE_SECONDS = 120.0


class Submitter:
    """The submissions of one worker process to one provider."""

    def __init__(self, context: Context, provider: Provider | None = None) -> None:
        self._context = context
        self._provider = provider or context.fal
        self._answers = Batcher(self._keep, whole=(DatabaseAway,))
        self._accepted_at = 0.0
        self.pump = Pump("submission", self._claim, self._submit, slots=SLOTS)

    async def drain(self) -> None:
        """Submit until nothing is due and all answers are kept."""
        await self.pump.drain()

    async def _claim(self, limit: int) -> Sequence[Claim]:
        await self._context.sealer()  # Before a claim, so that no claimed job waits for it.
        lease = self._context.settings.submit_timeout_seconds + LEASE_MARGIN_SECONDS
        return await store.claim(self._context.db, limit, lease, self._provider.name)

    async def _submit(self, claim: Claim) -> None:
        begun, headers = monotonic(), hints.left_of(claim.hints, claim.waited)
        late = operations.TOO_LATE_TO_START
        said = Refused(late.error or "") if headers is None else await self._offer(claim, headers)
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
                words = storable(f"No provider took the job in time. {said.reason}") or ""
                given_up = operations.ending(Event.FAILED, 503, "submission_refused", words)
                given_up = late if headers is None else given_up
                await patiently(partial(operations.close, self._context, claim.job_id, given_up), PATIENCE_SECONDS)
            case _:
                turn = await patiently(partial(self._turn, claim, said), PATIENCE_SECONDS) if claim.fallback else None
                await self._answers.put(self._answer(claim, said, turn))
                if isinstance(said, Unknown) and said.evidence is not None:
                    kept = partial(filing.file_report, self._context.db, claim.job_id, claim.attempt, said.evidence)
                    await patiently(partial(kept, None, Verdict.INCONCLUSIVE), PATIENCE_SECONDS)
        if isinstance(said, Accepted | Rejected):
            self._context.progress.add("submitted")
            self._accepted_at = monotonic()
            if claim.probe:
                await patiently(self._resume, PATIENCE_SECONDS)

    async def _offer(self, claim: Claim, headers: Mapping[str, str]) -> SubmitAnswer:
        sealer = await self._context.sealer()
        path = sealer.path(claim.job_id, claim.attempt, claim.model, self._provider.name)
        text = claim.input
        try:
            if self._provider.reads_inputs:
                text = await inputs.whole(self._context.storage, claim.input)
        except Unavailable as error:
            return Refused(error.message)
        url = self._context.settings.public_url + path
        return await self._provider.submit(
            Offer(claim.job_id, claim.attempt, claim.model, text, url, claim.priority, headers)
        )

    async def _turn(self, claim: Claim, said: SubmitAnswer) -> str | None:
        """Why the other provider is to get the job now, if it is."""
        if claim.fallback is None or not isinstance(said, Refused | Blocked):
            return None
        if not await self._context.routes.can_take(self._context.db, claim.fallback, claim.model):
            return None
        words = said.reason if isinstance(said, Refused) else f"HTTP {said.http_status}"
        return f"{self._provider.name} did not take it: {words}"

    async def _turned_away(self, said: Blocked, begun: float) -> Blocked | Refused:
        """Pause the provider, before the answer is kept: the job is due again at once.

        If another job was accepted meanwhile, the account is not what is wrong, and only this one was refused.
        """
        if self._accepted_at > begun:
            return Refused(f"HTTP {said.http_status}", said.http_status)  # Its words are about the account.
        if await pauses.pause(self._context.db, self._provider.name, said.reason, said.http_status):
            log.error("the provider takes nothing from this account; it is paused", reason=said.reason)
        return said

    async def _resume(self) -> None:
        if await pauses.resume(self._context.db, self._provider.name, by_probe=True):
            log.warning("the provider takes jobs again; its pause is over", provider=self._provider.name)
            self._context.nudger.nudge(submission(self._provider.name))

    def _answer(self, claim: Claim, said: Accepted | Refused | Blocked | Unknown, turn: str | None = None) -> Answer:
        """What a provider's answer means for the attempt, and what is owed next."""
        settings = self._context.settings
        match said:
            case Accepted():
                return Answer(
                    claim.job_id,
                    claim.attempt,
                    AttemptState.SUBMITTED,
                    Duty.REPORT,
                    self._first_look(claim),
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
        if turn is not None:
            delay = 0.0 if claim.attempt == 1 else backoff(claim.attempt)
        words, turn = storable(said.reason), storable(turn, guards.TEXT_EXCERPT)
        status = said.http_status
        return Answer(claim.job_id, claim.attempt, state, duty, delay, http_status=status, error=words, turn=turn)

    def _first_look(self, claim: Claim) -> float:
        first = self._context.settings.first_poll_seconds
        return first if claim.spill_seconds is None else min(first, claim.spill_seconds)

    async def _keep(self, answers: Sequence[Answer]) -> list[None]:
        stopped = await patiently(partial(store.record_answers, self._context.db, answers), PATIENCE_SECONDS)
        own = submission(self._provider.name)
        for delay in {answer.delay for answer in answers if answer.state is AttemptState.REFUSED and not answer.turn}:
            self._context.nudger.nudge(own, after=delay)
        for delay in {answer.delay for answer in answers if answer.turn}:
            self._context.nudger.nudge(submission(OTHER[self._provider.name]), after=delay)
        if stopped:
            # Somebody asked for a cancel while the submission was on its way.
            self._context.nudger.nudge(TaskName.WATCH)
        return [None] * len(answers)


def backoff(attempt: int) -> float:
    """Seconds before the next try: doubling, with jitter over its upper half."""
    longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 10))
    return longest * random.uniform(0.5, 1.0)
