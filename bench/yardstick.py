"""All clients of a stack and the queue that it submits to, in one process: every time is read off one clock.

A job is registered over HTTP, which has to be durable before the 2xx; the stack submits it here with a webhook
address; the webhook is posted at once, signed, and again until it gets a 2xx, which again has to mean that the result
is durable. From the start of the registration to that 2xx is a job from end to end.
"""

import asyncio
import base64
import hashlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from nacl.signing import SigningKey

from bench.wire import Answering, Caller, Lost

MODEL = "fal-ai/llava-next"
IMAGE = "https://llava-vl.github.io/static/images/monalisa.jpg"
PROMPT = "Do you know who drew this painting? tag:"
TAG = re.compile(rb"tag:([a-z]+-\d+)")
OUTPUT = {"output": "Leonardo da Vinci painted it, in Florence.", "partial": False, "timings": {"inference": 0.5}}
# What makes a job about as large as those of `bench.load`.
MORE_ASKED = {"metadata": {"customer": "c-18734", "order": 81273, "rating": 4.5}, "tags": ["nightly", "mobile"]}
MORE_TOLD = {"usage": {"prompt_tokens": 812, "completion_tokens": 143}}
USER = "bench"

# As many webhooks on their way at once as connections are usual.
MOST_WEBHOOKS = 256
TRIES = 20

# However it goes, a phase ends this long after the time that a slow stack would need.
PATIENCE_SECONDS = 60.0
SLOW_JOBS_A_SECOND = 20.0


@dataclass(slots=True)
class Times:
    """Of one job, by the monotonic clock; 0.0: not yet."""

    begun: float = 0.0
    registered: float = 0.0
    submitted: float = 0.0
    heard: float = 0.0
    # Of the last post of its webhook, and of its answer if that was a 2xx.
    posted: float = 0.0


@dataclass
class Run:
    """What became of the jobs of one phase."""

    jobs: dict[str, Times] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    turned_away: int = 0
    submitted_again: int = 0
    begun: float = 0.0
    registered: int = 0
    heard: int = 0
    # CPU of this process meanwhile.
    own_cpu_seconds: float = 0.0
    rich: bool = False

    @property
    def jobs_a_second(self) -> float:
        """Until the last webhook was taken."""
        ends = [job.heard for job in self.jobs.values() if job.heard]
        return len(ends) / (max(ends) - self.begun) if ends else 0.0

    @property
    def registrations(self) -> list[float]:
        return [job.registered - job.begun for job in self.jobs.values() if job.registered]

    @property
    def ends(self) -> list[float]:
        return [job.heard - job.begun for job in self.jobs.values() if job.heard]

    @property
    def webhooks(self) -> list[float]:
        return [job.heard - job.posted for job in self.jobs.values() if job.heard]


@dataclass(frozen=True)
class Target:
    """Where jobs are registered, and how."""

    url: str
    path: str
    headers: str = ""


class Yardstick:
    """Serves the queue on a socket that stays open; each stack is measured in a `session` of its own."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._key = SigningKey.generate()
        self.url = "http://{}:{}".format(*listener.getsockname()[:2])
        self._tasks: set[asyncio.Future[None]] = set()
        self._runs: dict[str, Run] = {}
        # Webhooks that are held back, while they are.
        self._held: list[tuple[str, str, str]] | None = None

    @asynccontextmanager
    async def session(self, target: Target) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        self._runs, self._news, self._held = {}, asyncio.Event(), None
        self._target = target
        self._clients = Caller(target.url, most=10_000)
        self._callers: dict[str, Caller] = {}
        server = await loop.create_server(lambda: Answering(self._answer, self._begin), sock=self._listener.dup())
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for caller in (self._clients, *self._callers.values()):
                caller.close()

    async def closed_loop(self, phase: str, jobs: int, clients: int, size: int = 0, *, rich: bool = False) -> Run:
        """Each client registers its next job when the last is registered; all clients share the jobs.

        `rich`: they have metadata, tags and usage.
        """
        self._runs.setdefault(phase, Run()).rich = rich
        tags = _tags(phase, jobs)

        async def client() -> None:
            for tag in tags:
                await self._register(tag, size)

        async def put() -> None:
            await asyncio.gather(*(client() for _ in range(clients)))

        return await self._carry_out(phase, put, jobs / SLOW_JOBS_A_SECOND)

    async def open_loop(self, phase: str, rate: float, seconds: float) -> Run:
        """A registration begins every 1/rate seconds, whatever became of those before."""
        jobs = max(1, round(rate * seconds))

        async def put() -> None:
            await _at_rate(rate, [self._register(tag) for tag in _tags(phase, jobs)])

        return await self._carry_out(phase, put, seconds)

    async def one_by_one(self, phase: str, jobs: int) -> Run:
        """Nothing else is under way while one is registered."""

        async def put() -> None:
            for tag in _tags(phase, jobs):
                await self._register(tag)
                await self._all_heard(self._runs[phase])

        return await self._carry_out(phase, put, jobs / SLOW_JOBS_A_SECOND)

    async def webhooks_at(self, phase: str, jobs: int, rate: float) -> Run:
        """Webhooks of jobs that were all submitted before, so many a second, and nothing else."""
        self._held = held = []

        async def put() -> None:
            tags = _tags(phase, jobs)

            async def client() -> None:
                for tag in tags:
                    await self._register(tag)

            await asyncio.gather(*(client() for _ in range(16)))
            while len(held) < self._runs[phase].registered:
                self._news.clear()
                await self._news.wait()
            await asyncio.sleep(1.0)  # The answers to the last of them are written down.
            self._held = None
            await _at_rate(rate, [self._deliver(*each) for each in held])

        return await self._carry_out(phase, put, jobs / SLOW_JOBS_A_SECOND + jobs / rate)

    async def posts_at(self, phase: str, url: str, posts: int, rate: float) -> Run:
        """Signed webhooks to somebody who needs no jobs for them."""
        for tag in _tags(phase, posts):
            self._run_of(tag).jobs[tag] = Times(begun=time.monotonic())

        async def put() -> None:
            await _at_rate(rate, [self._deliver(tag, str(uuid4()), f"{url}/{tag}") for tag in _tags(phase, posts)])

        return await self._carry_out(phase, put, posts / rate)

    async def _carry_out(self, phase: str, put: Callable[[], Awaitable[None]], seconds: float) -> Run:
        run = self._runs.setdefault(phase, Run())
        run.begun, before = time.monotonic(), time.process_time()
        try:
            async with asyncio.timeout(seconds + PATIENCE_SECONDS):
                await put()
                await self._all_heard(run)
        except TimeoutError:
            run.refusals.append("time was over")
        run.own_cpu_seconds = time.process_time() - before
        return run

    async def _all_heard(self, run: Run) -> None:
        while run.heard < run.registered:
            self._news.clear()
            await self._news.wait()

    def _run_of(self, tag: str) -> Run:
        return self._runs.setdefault(tag.partition("-")[0], Run())

    async def _register(self, tag: str, size: int = 0) -> None:
        """`size`: about so many bytes, most of them in the prompt."""
        run = self._run_of(tag)
        run.jobs[tag] = times = Times()
        prompt = (PROMPT + tag).ljust(size, ".")
        asked = {"model": MODEL, "input": {"image_url": IMAGE, "prompt": prompt}, **(MORE_ASKED if run.rich else {})}
        body = json.dumps(asked).encode()
        headers = f"Content-Type: application/json\r\n{self._target.headers}"
        times.begun = time.monotonic()
        try:
            answer = await self._clients.post(self._target.path, body, headers)
        except Lost as lost:
            run.refusals.append(f"lost: {lost}")
            return
        if 200 <= answer.status < 300:
            times.registered = time.monotonic()
            run.registered += 1
        else:
            run.refusals.append(f"{answer.status} {answer.body[:200]!r}")

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answer(self, method: bytes, url: str, body: bytes) -> tuple[int, bytes, Callable[[], Awaitable[None]] | None]:
        parts = urlsplit(url)
        if parts.path == "/.well-known/jwks.json":
            return 200, self._published_keys(), None
        if method != b"POST":
            return 200, b'{"status": "IN_QUEUE", "queue_position": 0}', None
        found = TAG.search(body)
        if found is None:
            return 404, b"{}", None
        tag, request_id = found[1].decode(), str(uuid4())
        run = self._run_of(tag)
        times = run.jobs.setdefault(tag, Times())
        run.submitted_again += bool(times.submitted)
        times.submitted = times.submitted or time.monotonic()
        webhook = parse_qs(parts.query)["fal_webhook"][0]
        own = f"{self.url}{parts.path}/requests/{request_id}"
        accepted = {
            "status": "IN_QUEUE",
            "request_id": request_id,
            "gateway_request_id": request_id,
            "response_url": own,
            "status_url": f"{own}/status",
            "cancel_url": f"{own}/cancel",
            "queue_position": 0,
        }
        if self._held is None:
            return 200, json.dumps(accepted).encode(), lambda: self._deliver(tag, request_id, webhook)
        self._held.append((tag, request_id, webhook))
        self._news.set()
        return 200, json.dumps(accepted).encode(), None

    async def _deliver(self, tag: str, request_id: str, webhook: str) -> None:
        run = self._run_of(tag)
        times = run.jobs[tag]
        payload = {**OUTPUT, **(MORE_TOLD if run.rich else {})}
        envelope = {"request_id": request_id, "gateway_request_id": request_id, "status": "OK", "payload": payload}
        body, url = json.dumps(envelope).encode(), urlsplit(webhook)
        caller = self._callers.get(url.netloc)
        if caller is None:
            caller = self._callers[url.netloc] = Caller(webhook, MOST_WEBHOOKS)
        for tried in range(TRIES):
            times.posted = time.monotonic()
            try:
                answer = await caller.post(url.path, body, self._signature(request_id, body))
                if 200 <= answer.status < 300:
                    if not times.heard:
                        times.heard = time.monotonic()
                        run.heard += 1
                        self._news.set()
                    return
            except Lost:
                pass
            run.turned_away += 1
            await asyncio.sleep(0.1 * (tried + 1))

    def _signature(self, request_id: str, body: bytes) -> str:
        timestamp = str(int(time.time()))
        lines = (request_id, USER, timestamp, hashlib.sha256(body).hexdigest())
        signature = self._key.sign("\n".join(lines).encode()).signature.hex()
        return (
            "Content-Type: application/json\r\n"
            f"X-Fal-Webhook-Request-Id: {request_id}\r\nX-Fal-Webhook-User-Id: {USER}\r\n"
            f"X-Fal-Webhook-Timestamp: {timestamp}\r\nX-Fal-Webhook-Signature: {signature}\r\n"
        )

    def _published_keys(self) -> bytes:
        x = base64.urlsafe_b64encode(bytes(self._key.verify_key)).decode().rstrip("=")
        key = {"kty": "OKP", "crv": "Ed25519", "kid": "bench", "use": "sig", "alg": "EdDSA", "x": x}
        return json.dumps({"keys": [key]}).encode()


def _tags(phase: str, jobs: int) -> Iterator[str]:
    return (f"{phase}-{index}" for index in range(jobs))


async def _at_rate(rate: float, each: list[Awaitable[None]]) -> None:
    started, begun = time.monotonic(), []
    for index, work in enumerate(each):
        await asyncio.sleep(started + index / rate - time.monotonic())
        begun.append(asyncio.ensure_future(work))
    await asyncio.gather(*begun)
