"""The clients: registrations at a steady rate whatever becomes of those before, and readers who compare what they see.

An answer that did not come says nothing: the operation is unknown, and the client tries again with the same key.
"""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Sequence
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

from faults.history import History, Json
from faults.orders import Order

ENDED = {"completed", "failed", "cancelled"}
CALL_SECONDS = 6.0
AGAIN_SECONDS = 0.4
# A client that got no answer for so long after the faults is a finding of its own.
REGISTER_SECONDS = 600.0
READ_AGAIN_SECONDS = 1.0
# What has ended is read now and then, to see that it does not change.
REREAD_SHARE = 0.3
AT_THE_END = 8


class Client:
    """One tenant's calls; each ends with an answer or with None, which is unknown."""

    def __init__(self, url: str, key: str, *, calls: int = 100) -> None:
        self._url = url
        self._http = ClientSession(
            connector=TCPConnector(limit=calls, keepalive_timeout=4.0),
            # Waiting for one of the connections does not count: with it, on a machine that is too slow for the load,
            # every call would get its connection when its time is nearly over, and none would be answered.
            timeout=ClientTimeout(total=None, sock_connect=CALL_SECONDS, sock_read=CALL_SECONDS),
            headers={"authorization": f"Key {key}"},
        )

    async def close(self) -> None:
        await self._http.close()

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, bytes] | None:
        try:
            async with self._http.request(method, self._url + path, **options) as response:
                return response.status, await response.read()
        except (ClientError, TimeoutError, OSError):
            return None


class Load:
    def __init__(self, client: Client, history: History, seed: int) -> None:
        self._client = client
        self._history = history
        self._chance = random.Random(f"readers {seed}")
        # By job ID, what was last read of it; the readers' work in hand.
        self.jobs: dict[str, str] = {}
        # The attempts whose request ID the service is known to have, for who forges news of them.
        self.known: dict[str, int] = {}

    async def register_all(self, orders: Sequence[Order], seconds: float) -> None:
        """All in so many seconds, and then until the last is accepted."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for order in orders:
                await asyncio.sleep(began + seconds * order.number / len(orders) - time.monotonic())
                for _ in range(2 if order.twice else 1):
                    group.create_task(self._order(order))

    async def _order(self, order: Order) -> None:
        job_id = await self._register(order)
        if job_id is not None and order.cancel_after is not None:
            await asyncio.sleep(order.cancel_after)
            answer = await self._client.call("POST", f"/v1/jobs/{job_id}/cancel")
            self._history.note("cancel", job=job_id, status=answer and answer[0])

    async def _register(self, order: Order) -> str | None:
        headers = {"idempotency-key": order.tag, "content-type": "application/json"}
        body = json.dumps(order.body)
        last = time.monotonic() + REGISTER_SECONDS
        while time.monotonic() < last:
            answer = await self._client.call("POST", "/v1/jobs", data=body, headers=headers)
            status = answer[0] if answer else None
            job_id = json.loads(answer[1])["request_id"] if answer and status in {200, 202} else None
            words = answer[1].decode(errors="replace")[:300] if answer and job_id is None else None
            self._history.note("register", number=order.number, status=status, job=job_id, words=words)
            if job_id is not None:
                self.jobs.setdefault(job_id, "queued")
                return str(job_id)
            if status is not None and status < 500:
                return None
            await asyncio.sleep(AGAIN_SECONDS)
        return None

    async def read_for_ever(self) -> None:
        """One reader: a live job in most turns, an ended one in the others."""
        while True:
            live = [job_id for job_id, status in self.jobs.items() if status not in ENDED]
            ended = [job_id for job_id, status in self.jobs.items() if status in ENDED]
            again = ended if not live or (ended and self._chance.random() < REREAD_SHARE) else live
            if not again:
                await asyncio.sleep(READ_AGAIN_SECONDS)
                continue
            await self.read(self._chance.choice(again))
            await asyncio.sleep(0.01)

    async def read_all(self) -> None:
        """Each once, as it is when all is over."""
        waiting = list(self.jobs)

        async def reader() -> None:
            while waiting:
                await self.read(waiting.pop())

        await asyncio.gather(*(reader() for _ in range(AT_THE_END)))

    async def read(self, job_id: str) -> str | None:
        """Look once. Returns the status; None when there was no answer."""
        began = time.monotonic()
        answer = await self._client.call("GET", f"/v1/jobs/{job_id}")
        if answer is None or answer[0] >= 500:
            return None
        if answer[0] != 200:
            self._history.note("read", job=job_id, began=began, status="gone", result=str(answer[0]))
            return None
        job = json.loads(answer[1])
        status = str(job["status"])
        result = result_of(job) if status in ENDED else None
        self._history.note("read", job=job_id, began=began, status=status, result=result)
        if self.jobs.get(job_id) not in ENDED:
            self.jobs[job_id] = status
        if job["provider_request_id"]:
            self.known[job_id] = job["attempt"]
        return status


def result_of(job: Json) -> str:
    """A hash of all that must stay once a job has ended. Where its files are changes when they are copied."""
    kept = [job["status"], job["error"], job["completed_at"], without_addresses(job["output"])]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def without_addresses(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: None if name == "url" else without_addresses(each) for name, each in value.items()}
    if isinstance(value, list):
        return [without_addresses(each) for each in value]
    return value
