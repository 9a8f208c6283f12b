"""Callbacks on their way: taken when due, written down before they go out, and tried again until they arrive.

Receivers that are slow have a pump of their own, so that their answers are not what the others wait for.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from time import time
from uuid import UUID

import structlog
from nacl.signing import SigningKey

from service.artifacts.links import FileLinks
from service.callbacks import keys, records
from service.callbacks.envelopes import ENVELOPES, EndedJob
from service.callbacks.leases import LEASE_SECONDS, Leases
from service.callbacks.lifecycle import CallbackFormat
from service.callbacks.posting import post
from service.callbacks.records import DueCallback
from service.callbacks.signatures import fal_headers, standard_headers
from service.context import Context
from service.db import Row, patiently
from service.pump import Pump
from service.secrets import FILE_LINKS, SharedSecret

log = structlog.get_logger()

# Callbacks under way from one process at a time.
SLOTS = 64
SLOW_SLOTS = 16

# What came of a try is kept in memory this long while the database is away.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A callback with the bytes that are kept for it."""

    due: DueCallback
    format: CallbackFormat
    body: bytes


class Deliverer:
    """The callbacks of one worker process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._file_secret = SharedSecret(FILE_LINKS)
        self._leases = Leases(partial(records.renew, context.db, seconds=LEASE_SECONDS))
        self.pump = Pump("callback", partial(self._take, slow=False), self._deliver, slots=SLOTS)
        self.slow = Pump("slow callback", partial(self._take, slow=True), self._deliver, slots=SLOW_SLOTS)

    async def _take(self, limit: int, *, slow: bool) -> Sequence[Delivery]:
        found = await records.take(
            self._context.db, limit, LEASE_SECONDS, slow=slow, overlap_seconds=keys.OVERLAP_SECONDS
        )
        kept = await self._keep([due for due in found if due.body is None])
        ready = []
        for due in found:
            body, form = (due.body, due.format) if due.body is not None else kept.get(due.job_id, (None, None))
            if body is not None and form is not None:
                ready.append(Delivery(due, CallbackFormat(form), body))
        return ready

    async def _keep(self, new: Sequence[DueCallback]) -> dict[UUID, tuple[bytes, str]]:
        """Make what is told before the first try, and write it down: every try says the same."""
        if not new:
            return {}
        db = self._context.db
        links = FileLinks(self._context.settings.public_url, await self._file_secret.get(db))
        forms = {due.job_id: due.callback_format for due in new}
        told = []
        for row in await records.ended_jobs(db, list(forms)):
            form = forms[row["job_id"]]
            try:
                told.append((row["job_id"], ENVELOPES[CallbackFormat(form)](_ended(row, links)), form))
            except Exception:
                # One that cannot be made costs the others nothing, and is given up in the end.
                log.exception("a callback could not be made", job_id=str(row["job_id"]))
        return await records.keep_bodies(db, told) if told else {}

    async def _deliver(self, delivery: Delivery) -> None:
        due = delivery.due
        with self._leases.held(due.job_id):
            headers = await self._headers(delivery)
            tried = await post(self._context.callbacks, due.url, delivery.body, headers, due.tries)
            more = await patiently(partial(records.record, self._context.db, due, tried), PATIENCE_SECONDS)
        if more:
            (self.slow if tried.slow else self.pump).wake()

    async def _headers(self, delivery: Delivery) -> dict[str, str]:
        """Signed anew for each try, as receivers refuse what is older than some minutes."""
        due, at = delivery.due, int(time())
        key: SigningKey = await self._context.callback_keys.signer(self._context.db)
        if delivery.format is CallbackFormat.FAL:
            return fal_headers(key, str(due.job_id), str(due.tenant_id), at, delivery.body)
        installation = await self._context.callback_secret.get(self._context.db)
        generations = [due.callback_secret, due.callback_secret - 1][: 2 if due.was_rotated else 1]
        secrets = [keys.tenant_secret(installation, due.tenant_id, generation) for generation in generations]
        return standard_headers(key, secrets, str(due.job_id), at, delivery.body)


def _ended(row: Row, links: FileLinks) -> EndedJob:
    facts = dict(row)
    files = json.loads(facts.pop("files") or "[]")
    return EndedJob(**{**facts, "body": links.rewritten(facts["body"], files)})
