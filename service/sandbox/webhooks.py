"""Sends each finished request's webhook, signed, with retries, and first whatever its knobs say should go wrong."""

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.sandbox.config import SandboxConfig
from service.sandbox.journal import Journal
from service.sandbox.keys import SigningKeys, signature_headers
from service.sandbox.pages import BAD_GATEWAY
from service.sandbox.queue import Delivery, Entry, Outcome, utc_now

logger = logging.getLogger(__name__)

STALE_SECONDS = 301  # one more than a receiver may accept
PAYLOAD_ERROR = "The response could not be serialised as JSON; fetch it from the queue."


@dataclass(frozen=True, slots=True)
class Letter:
    """A webhook to send. Without a key of its own it is signed with the newest one at every try."""

    url: str
    body: bytes
    kind: str = "good"
    key: Ed25519PrivateKey | None = None
    age_seconds: int = 0
    content_type: str = "application/json"


def webhook_body(entry: Entry, outcome: Outcome, **changes: Any) -> bytes:
    body = {
        "request_id": entry.id,
        "gateway_request_id": entry.gateway_id,
        "status": "ERROR" if outcome.error else "OK",
        "payload": outcome.body,
    }
    if outcome.error:
        body["error"] = outcome.error
    return json.dumps(body | changes, separators=(",", ":")).encode()


def plan_letters(entry: Entry, outcome: Outcome, url: str, other_url: str | None) -> list[list[Letter]]:
    """What to send, in batches: one after another, each batch all at once."""
    good = Letter(url, webhook_body(entry, outcome))
    knobs = entry.knobs
    match knobs.webhook:
        case "none":
            plan = []
        case "normal" | "early" | "late":
            plan = [good]
        case "duplicate":
            return [[good] * knobs.webhook_times]
        case "null_payload":
            plan = [replace(good, body=webhook_body(entry, outcome, payload=None, payload_error=PAYLOAD_ERROR))]
        case "out_of_order":
            older = webhook_body(entry, outcome, status="IN_PROGRESS", payload=None)
            plan = [replace(good, kind="out_of_order", body=older), good]
        case "forged":
            plan = [replace(good, kind="forged", key=Ed25519PrivateKey.generate()), good]
        case "stale":
            plan = [replace(good, kind="stale", age_seconds=STALE_SECONDS), good]
        case "crossed":
            plan = [replace(good, kind="crossed", url=other_url)] if other_url else []
            plan.append(good)
        case "html":
            plan = [replace(good, kind="html", body=BAD_GATEWAY.encode(), content_type="text/html"), good]
        case "conflicting":
            other = webhook_body(entry, outcome, payload={"output": "[sandbox] This contradicts the first webhook."})
            plan = [good, replace(good, kind="conflicting", body=other)]
    return [[letter] for letter in plan if not (knobs.only_bad and letter.kind == "good")]


class Courier:
    def __init__(
        self,
        config: SandboxConfig,
        keys: SigningKeys,
        client: httpx.AsyncClient,
        entries: Mapping[str, Entry],
        journal: Journal,
    ) -> None:
        self._config = config
        self._keys = keys
        self._client = client
        self._entries = entries
        self._journal = journal
        self._at_once = asyncio.Semaphore(config.webhooks_at_once)
        self._tasks: set[asyncio.Task[None]] = set()

    def deliver(self, entry: Entry) -> None:
        task = asyncio.create_task(self._deliver(entry), name=f"sandbox webhook {entry.id}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("%s broke", task.get_name(), exc_info=error)

    async def _deliver(self, entry: Entry) -> None:
        try:
            if entry.webhook_url is None or entry.outcome is None:
                return
            if entry.knobs.webhook == "late":
                await asyncio.sleep(entry.knobs.webhook_delay_seconds)
            if entry.knobs.rotate_key:
                self._keys.rotate()
            other_url = self._url_of_another(entry) if entry.knobs.webhook == "crossed" else None
            for batch in plan_letters(entry, entry.outcome, entry.webhook_url, other_url):
                async with asyncio.TaskGroup() as group:
                    for letter in batch:
                        group.create_task(self._send(entry, letter))
        finally:
            entry.first_try.set()

    def _url_of_another(self, entry: Entry) -> str | None:
        """The webhook address of another request, an unfinished one if there is one."""
        others = [other for other in self._entries.values() if other.webhook_url not in (None, entry.webhook_url)]
        others.sort(key=lambda other: other.state == "COMPLETED")
        return others[0].webhook_url if others else None

    async def _send(self, entry: Entry, letter: Letter) -> None:
        """A wrong letter is tried once; the good one until somebody takes it or the tries are used up."""
        pause = self._config.webhook_backoff_seconds
        for tried in range(1, self._config.webhook_tries + 1):
            async with self._at_once:
                delivery = await self._post(entry, letter)
            entry.deliveries.append(delivery)
            self._journal.tried(entry, delivery)
            if letter.kind != "good":
                return
            entry.first_try.set()
            if delivery.status is not None and 200 <= delivery.status < 400:
                if delivery.status >= 300:
                    logger.warning("webhook of %s met a redirect and is given up", entry.id)
                return
            if tried < self._config.webhook_tries:
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._config.webhook_backoff_cap_seconds)
        logger.warning("webhook of %s is given up after %d tries", entry.id, self._config.webhook_tries)

    async def _post(self, entry: Entry, letter: Letter) -> Delivery:
        headers = signature_headers(
            letter.key or self._keys.current,
            request_id=entry.id,
            user_id=self._config.user_id,
            timestamp=int(time.time()) - letter.age_seconds,
            body=letter.body,
        )
        headers["content-type"] = letter.content_type
        status = error = None
        try:
            async with asyncio.timeout(self._config.webhook_seconds):
                status = (await self._client.post(letter.url, content=letter.body, headers=headers)).status_code
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as problem:
            error = f"{type(problem).__name__}: {problem}"
        return Delivery(letter.kind, letter.url, utc_now(), status, error)
