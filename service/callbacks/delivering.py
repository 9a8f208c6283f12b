"""Callbacks on their way: taken when due, written down before they go out, and tried again until they arrive.

Receivers that are slow have a pump of their own, so that their answers are not what the others wait for.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic, time
from uuid import UUID

import structlog

from service.artifacts.links import FileLinks
from service.artifacts.results import SMALL_BODY, made_of
from service.batching import Batcher
from service.callbacks import keys, records
from service.callbacks.envelopes import ENVELOPES, EndedJob
from service.callbacks.leases import LEASE_SECONDS, Leases
from service.callbacks.lifecycle import CallbackFormat, CallbackState
from service.callbacks.posting import failed, post
from service.callbacks.records import DueCallback, Hand, Tried
from service.callbacks.schedule import MOST_TRIES
from service.callbacks.signatures import fal_headers, standard_headers
from service.context import Context
from service.db import DatabaseAway, Row, patiently
from service.pump import Pump
from service.secrets import FILE_LINKS, SharedSecret

log = structlog.get_logger()

# Callbacks under way from one process at a time.
SLOTS = 64
SLOW_SLOTS = 16

# Large bodies in hand, those of slow receivers apart.
LARGEST_BYTES = 32 * 2**20

# What came of a try is kept in memory this long while the database is away.
PATIENCE_SECONDS = 60.0


@dataclass(slots=True)
class Telling:
    """A callback and the bytes that are kept for it, once they are made."""

    due: DueCallback
    body: bytes = b""
    format: CallbackFormat = CallbackFormat.FAL


class Deliverer:
    """The callbacks of one worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._file_secret = SharedSecret(FILE_LINKS)
        self._leases = Leases(partial(records.renew, context.db, seconds=LEASE_SECONDS))
        self._bodies = Batcher(self._find_bodies, whole=(DatabaseAway,))
        self.pump = self._pump("callback", slow=False, slots=SLOTS)
        self.slow = self._pump("slow callback", slow=True, slots=SLOW_SLOTS)

    def _pump(self, name: str, *, slow: bool, slots: int) -> Pump[DueCallback]:
        line = Line(slow=slow, share=slots * 3 // 4)
        return Pump(name, partial(self._take, line=line), partial(self._deliver, line=line), slots=slots)

    async def _take(self, limit: int, *, line: "Line") -> Sequence[DueCallback]:
        hand = line.hand()
        found = await records.take(
            self._context.db,
            limit,
            LEASE_SECONDS,
            slow=line.slow,
            overlap_seconds=keys.OVERLAP_SECONDS,
            most_tries=MOST_TRIES,
            share=line.share,
            largest_bytes=LARGEST_BYTES,
            hand=hand,
        )
        if line.add(hand, found):
            self._wake(slow=line.slow)
        return found

    async def _deliver(self, due: DueCallback, *, line: "Line") -> None:
        try:
            with self._leases.held(due.job_id, due.taken):
                tried = await self._try(due)
                more = await patiently(partial(records.record, self._context.db, due, tried), PATIENCE_SECONDS)
            if tried.state is CallbackState.DELIVERED:
                self._context.progress.add("delivered")
        finally:
            if line.remove(due):
                self._wake(slow=line.slow)
        if more:
            self._wake(slow=tried.slow)

    def _wake(self, *, slow: bool) -> None:
        (self.slow if slow else self.pump).wake()

    async def _try(self, due: DueCallback) -> Tried:
        """Whatever happens, it was a try: a callback that always fails comes to its end, too."""
        begun = monotonic()
        telling = Telling(due)
        try:
            await patiently(partial(self._bodies.put, telling), PATIENCE_SECONDS)
        except DatabaseAway:
            raise
        except Exception as error:
            log.exception("a callback could not be made", job_id=str(due.job_id))
            words = f"The callback could not be made ({type(error).__name__})."
            return Tried(CallbackState.GIVEN_UP, monotonic() - begun, error=words)
        try:
            headers = await patiently(partial(self._headers, telling), PATIENCE_SECONDS)
            return await post(self._context.callbacks, due.url, telling.body, headers, due.tries)
        except DatabaseAway:
            raise
        except Exception as error:
            log.exception("a callback could not be sent", job_id=str(due.job_id))
            return failed(monotonic() - begun, due.tries + 1, f"It could not be sent ({type(error).__name__}).")

    async def _find_bodies(self, tellings: Sequence[Telling]) -> list[None]:
        """What is told is made before the first try, and written down: every try says the same."""
        db = self._context.db
        new = {each.due.job_id: each.due.callback_format for each in tellings if each.due.format is None}
        kept = {}
        if new:
            links = FileLinks(self._context.settings.public_url, await self._file_secret.get(db))
            rows = await records.ended_jobs(db, list(new))
            made = [(row["job_id"], await _made(row, links, new[row["job_id"]]), new[row["job_id"]]) for row in rows]
            kept = await records.keep_bodies(db, made)
        if left := [each.due.job_id for each in tellings if each.due.format is not None and each.due.body is None]:
            kept |= await records.kept_bodies(db, left)
        for each in tellings:
            body, form = kept.get(each.due.job_id, (each.due.body, each.due.format))
            if body is None or form is None:
                raise LookupError("the job or its result is gone")
            each.body, each.format = body, CallbackFormat(form)
        return [None] * len(tellings)

    async def _headers(self, telling: Telling) -> dict[str, str]:
        """Signed anew for each try, as receivers refuse what is older than some minutes."""
        due, at = telling.due, int(time())
        if telling.format is CallbackFormat.FAL:
            key = await self._context.callback_keys.signer(self._context.db)
            return fal_headers(key, str(due.job_id), str(due.tenant_id), at, telling.body)
        installation = await self._context.callback_secret.get(self._context.db)
        generations = [due.callback_secret, due.callback_secret - 1][: 2 if due.was_rotated else 1]
        secrets = [keys.tenant_secret(installation, due.tenant_id, generation) for generation in generations]
        own_keys = [keys.tenant_key(installation, due.tenant_id, generation) for generation in generations]
        return standard_headers(own_keys, secrets, str(due.job_id), at, telling.body)


class Line:
    """What a pump has in hand. No tenant has more than its share, however many silent receivers it names."""

    def __init__(self, *, slow: bool, share: int) -> None:
        self.slow = slow
        self.share = share
        self._in_hand: dict[tuple[UUID, int], DueCallback] = {}
        self._full: set[UUID] = set()

    def hand(self) -> Hand:
        due = self._in_hand.values()
        return Hand([each.tenant_id for each in due], sum(each.size for each in due if each.size > SMALL_BODY))

    def add(self, hand: Hand, taken: Sequence[DueCallback]) -> bool:
        """What was taken with that in hand. Whether there is room meanwhile for what did not fit into a share."""
        self._in_hand.update((due.taken_as, due) for due in taken)
        with_these = Counter([*hand.tenants, *(due.tenant_id for due in taken)])
        self._full = {tenant for tenant, number in with_these.items() if number >= self.share}
        return bool([tenant for tenant in tuple(self._full) if self._has_room(tenant)])

    def remove(self, due: DueCallback) -> bool:
        """Whether something may have waited for the room that this one leaves."""
        del self._in_hand[due.taken_as]
        return self._has_room(due.tenant_id) or due.size > SMALL_BODY

    def _has_room(self, tenant_id: UUID) -> bool:
        """Said once of a tenant whose share was full, when it has room for a few: each take costs a statement."""
        if tenant_id not in self._full:
            return False
        has_room = sum(due.tenant_id == tenant_id for due in self._in_hand.values()) <= self.share * 2 // 3
        if has_room:
            self._full.discard(tenant_id)
        return has_room


async def _made(row: Row, links: FileLinks, form: str) -> bytes:
    return await made_of(row, partial(_envelope, row, links, CallbackFormat(form)))


def _envelope(row: Row, links: FileLinks, form: CallbackFormat) -> bytes:
    facts = dict(row)
    files = json.loads(facts.pop("files") or "[]")
    return ENVELOPES[form](EndedJob(**{**facts, "body": links.rewritten(facts["body"], files)}))
