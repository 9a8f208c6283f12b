"""The load: registrations by so many clients, or at so many a second, until the last webhook is taken."""

import asyncio
import json
import time
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout

MODEL = "fal-ai/llava-next"
INPUT = {"image_url": "https://llava-vl.github.io/static/images/monalisa.jpg"}
PROMPT = "Do you know who drew this painting?"

# However it goes, a phase ends this long after the time that a slow service would need.
PATIENCE_SECONDS = 60.0
SLOW_JOBS_A_SECOND = 20.0


@dataclass(frozen=True)
class Registration:
    started: float
    ended: float


@dataclass
class Load:
    """One phase as its clients saw it; times are of the monotonic clock."""

    phase: str
    jobs: int
    started: float = 0.0
    ended: float = 0.0
    registrations: dict[str, Registration] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    acknowledged: dict[str, float] = field(default_factory=dict)
    turned_away: int = 0
    duplicate_submits: int = 0
    # Ended well in the service's own record.
    completed: int = 0

    @property
    def registration_seconds(self) -> list[float]:
        return [each.ended - each.started for each in self.registrations.values()]

    @property
    def end_to_end_seconds(self) -> list[float]:
        """From the start of the registration to the 2xx that the provider's webhook got."""
        return [at - self.registrations[tag].started for tag, at in self.acknowledged.items()]

    @property
    def incomplete(self) -> int:
        """Jobs whose webhook was not taken, or whose end is not in the record."""
        return self.jobs - min(len(self.acknowledged), self.completed)


class Driver:
    """Clients of the service, and the one who asks the stand-in what it saw."""

    def __init__(self, http: ClientSession, service_url: str, key: str, provider_url: str) -> None:
        self._http = http
        self._jobs_url = f"{service_url}/v1/jobs"
        self._headers = {"authorization": f"Key {key}", "content-type": "application/json"}
        self._provider_url = provider_url

    async def closed_loop(self, phase: str, jobs: int, clients: int) -> Load:
        """Each client registers its next job when the last is registered; all clients share the jobs."""
        load = Load(phase, jobs)
        tags = self._tags(phase, jobs)

        async def client() -> None:
            for tag in tags:
                await self._register(load, tag)

        async def everything() -> None:
            await asyncio.gather(*(client() for _ in range(clients)))

        await self._carry_out(load, everything(), jobs / SLOW_JOBS_A_SECOND)
        return load

    async def open_loop(self, phase: str, rate: float, seconds: float) -> Load:
        """A registration begins every 1/rate seconds, whatever became of those before."""
        load = Load(phase, max(1, round(rate * seconds)))

        async def everything() -> None:
            begun = []
            for index, tag in enumerate(self._tags(phase, load.jobs)):
                await asyncio.sleep(load.started + index / rate - time.monotonic())
                begun.append(asyncio.create_task(self._register(load, tag)))
            await asyncio.gather(*begun)

        await self._carry_out(load, everything(), seconds)
        return load

    async def _carry_out(self, load: Load, registering: Awaitable[None], seconds: float) -> None:
        load.started = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds + PATIENCE_SECONDS):
                await registering
                await self._ask(load.phase, acknowledged=len(load.registrations))
        record = await self._ask(load.phase)
        load.acknowledged = {tag: at for tag, at in record["acknowledged"].items() if tag in load.registrations}
        load.ended = max(load.acknowledged.values(), default=time.monotonic())
        load.turned_away = record["turned_away"]
        load.duplicate_submits = sum(times - 1 for times in record["submits"].values())

    async def _register(self, load: Load, tag: str) -> None:
        body = json.dumps({"model": MODEL, "input": {**INPUT, "prompt": f"{PROMPT} tag:{tag}"}})
        started = time.monotonic()
        try:
            async with self._http.post(self._jobs_url, data=body, headers=self._headers) as response:
                answer = await response.text()
                if response.status != 202:
                    load.refusals.append(f"{response.status} {answer[:200]}")
                    return
        except (ClientError, TimeoutError) as error:
            load.refusals.append(repr(error))
            return
        load.registrations[tag] = Registration(started, time.monotonic())

    async def _ask(self, phase: str, **parameters: int) -> Any:
        """What the stand-in saw; patient, because the caller has a time limit of its own."""
        url = f"{self._provider_url}/record/{phase}"
        async with self._http.get(url, params=parameters, timeout=ClientTimeout(total=None)) as response:
            return await response.json()

    @staticmethod
    def _tags(phase: str, jobs: int) -> Iterator[str]:
        return (f"{phase}-{index}" for index in range(jobs))
