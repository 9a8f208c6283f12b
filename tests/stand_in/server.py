"""The stand-in itself: fal's queue, files, keys and webhooks on one port of 127.0.0.1."""

import asyncio
import itertools
import json
import random
import re
import socket
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar, cast

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from tests.stand_in.outputs import default_outcome
from tests.stand_in.script import TAKE, Answer, Outcome, Script, Webhook
from tests.stand_in.signing import STRANGERS, Key
from tests.stand_in.webhooks import Post, good

TAG = re.compile(rb"tag:([A-Za-z0-9_-]+)")
REQUEST = re.compile(
    r"/(?P<app>[^/]+/[^/]+)(?:/[^?]*?)?/requests/(?P<id>[^/]+)(?:/(?P<verb>status|response|cancel))?/?"
)
CANCELLED = Outcome(b'{"detail":"Request was cancelled"}', status=499)
Found = TypeVar("Found")


@dataclass(eq=False)
class Run:
    """A request that the stand-in accepted."""

    model: str
    tag: str
    webhook_url: str | None
    script: Script
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    gateway_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    ended: bool = False
    chosen: Outcome | None = None
    cancels: int = 0
    status_reads: int = 0
    result_reads: int = 0

    @property
    def outcome(self) -> Outcome:
        assert self.chosen is not None
        return self.chosen

    @property
    def output(self) -> Any:
        return json.loads(self.outcome.body)


@dataclass(frozen=True)
class Submit:
    """One POST to the queue, accepted or not."""

    model: str
    tag: str
    webhook_url: str | None
    body: bytes
    headers: dict[str, str]
    run: Run | None


@dataclass(frozen=True)
class Delivery:
    """One posted webhook and what was answered; 0 where nothing was."""

    tag: str
    request_id: str
    url: str
    status: int
    body: bytes = b""


@dataclass
class Served:
    data: bytes
    seconds: float | None
    reads: int = 0
    gone_at: float | None = None


class StandIn:
    """`with StandIn() as fal:`; then `fal.script(tag, Script(...))` says how a tag's jobs behave."""

    def __init__(self, *, webhook_tries: int = 1, retry_seconds: float = 0.5, default: Script | None = None) -> None:
        self.user_id = f"account-{uuid.uuid4().hex[:8]}"
        self.key = Key()
        self.padded_key = Key(padded=True)
        self.keys_away = False
        self.key_reads = 0
        self.submits: list[Submit] = []
        self.runs: dict[str, Run] = {}
        self.deliveries: list[Delivery] = []
        self.files: dict[str, Served] = {}
        self.picture_reads = 0
        self.unanswered = 0
        """Submissions that are not answered yet."""
        self._default = default or Script()
        self._scripts: dict[str, Script] = {}
        self._queues: dict[tuple[str, str], deque[Answer]] = {}
        self._webhook_tries = webhook_tries
        self._retry_seconds = retry_seconds
        self._random = random.Random(20)
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(
            uvicorn.Config(self._app(), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        )
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="stand-in", daemon=True)

    # What a test says and reads

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self._server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)

    def script(self, tag: str, script: Script) -> None:
        self._scripts[tag] = script

    def submits_of(self, tag: str) -> list[Submit]:
        return [submit for submit in self.submits if submit.tag == tag]

    def runs_of(self, tag: str) -> list[Run]:
        return [submit.run for submit in self.submits_of(tag) if submit.run is not None]

    def deliveries_of(self, tag: str) -> list[Delivery]:
        return [delivery for delivery in self.deliveries if delivery.tag == tag]

    def run(self, tag: str, *, number: int = 0, within: float = 30) -> Run:
        """The accepted request of that tag, once there is one."""
        return eventually(lambda: next(iter(self.runs_of(tag)[number:]), None), within=within)

    def end(self, run: Run) -> None:
        """Let a held run end, without a webhook."""
        if run.chosen is None:
            make = run.script.outcome
            run.chosen = make(self) if make else default_outcome(self, run)
        run.ended = True

    def finish(self, run: Run) -> None:
        """Let a held run end and post its webhooks; returns when all are answered."""
        self.end(run)
        for webhook in self._webhooks(run):
            self.deliver(run, webhook)

    def deliver(self, run: Run, webhook: Webhook = good) -> Delivery:
        """Post one webhook now and return what was answered."""
        post = webhook(self, run)
        with httpx.Client(trust_env=False, timeout=30) as client:
            return self._record(run, post, client.post(post.url, content=post.body, headers=list(post.headers)))

    def rotate(self, *, padded: bool = False) -> Key:
        """Sign with a new key from now on; the old one is published no longer. Returns the old one."""
        old, self.key = self.key, Key(padded=padded)
        return old

    def serve_file(self, data: bytes, name: str, *, seconds: float | None = None) -> str:
        unique = f"{next(self._numbers)}_{name}"
        self.files[unique] = Served(data, seconds)
        return f"{self.url}/files/{unique}"

    def file_at(self, url: str) -> Served:
        return self.files[url.removeprefix(f"{self.url}/files/")]

    # The wire

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/jwks.json", self._keys),
                Route("/files/{name}", self._file),
                Route("/pictures/{name:path}", self._picture),
                Route("/{path:path}", _Raw(self._queue)),
            ]
        )

    async def _serve(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=15) as self._client:
            await self._server.serve(sockets=[self._socket])

    async def _keys(self, request: Request) -> Response:
        self.key_reads += 1
        if self.keys_away:
            return Response("upstream connect error", status_code=503)
        ours = [key.jwk(f"key-{number}") for number, key in enumerate((self.key, self.padded_key))]
        return JSONResponse({"keys": [*STRANGERS, *ours]})

    async def _file(self, request: Request) -> Response:
        file = self.files.get(request.path_params["name"])
        if file is None or (file.gone_at is not None and time.monotonic() > file.gone_at):
            return JSONResponse({"detail": "Not Found"}, status_code=404)
        file.reads += 1
        return Response(file.data, media_type="image/png")

    async def _picture(self, request: Request) -> Response:
        self.picture_reads += 1
        return Response(status_code=404)

    async def _queue(self, request: Request) -> Response | None:
        if request.method == "POST":
            return await self._submit(request)
        match = REQUEST.fullmatch(request.url.path)
        run = self.runs.get(match["id"]) if match else None
        if match is None or run is None or "/".join(run.model.split("/")[:2]) != match["app"]:
            return JSONResponse({"status": "NOT_FOUND"}, status_code=404)
        if request.method == "PUT" and match["verb"] == "cancel":
            return self._cancel(run)
        if request.method == "GET" and match["verb"] == "status":
            return await self._scripted(request, self._next("statuses", run), lambda: self._status(run))
        if request.method == "GET" and match["verb"] in (None, "response"):
            return await self._scripted(request, self._next("results", run), lambda: self._result(run))
        return JSONResponse({"detail": "Method Not Allowed"}, status_code=405)

    async def _submit(self, request: Request) -> Response | None:
        body = await request.body()
        found = TAG.search(body)
        tag = found[1].decode() if found else ""
        script = self._scripts.get(tag, self._default)
        webhook_url = request.query_params.get("fal_webhook")
        queue = self._queues.setdefault(("submits", tag), deque(script.submits))
        answer = queue.popleft() if queue else TAKE
        model = request.url.path.strip("/")
        run = Run(model, tag, webhook_url, script) if answer.taken else None
        self.submits.append(Submit(model, tag, webhook_url, body, dict(request.headers), run))
        if run is not None:
            self.runs[run.request_id] = run
        self.unanswered += 1
        try:
            return await self._scripted(request, answer, lambda: self._accept(cast(Run, run)), run)
        finally:
            self.unanswered -= 1

    async def _scripted(
        self, request: Request, answer: Answer, usual: Callable[[], Response], run: Run | None = None
    ) -> Response | None:
        if run is not None:
            await asyncio.sleep(self._random.uniform(*run.script.answer_seconds))
            task = asyncio.create_task(self._work(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if run.script.early:
                await asyncio.wait([task])
        if answer.kind == "take":
            return usual()
        if answer.kind == "http":
            return Response(answer.body, answer.status, dict(answer.headers))
        if answer.kind == "hold":
            await asyncio.wait_for(_disconnected(request), 60)
        return None

    def _accept(self, run: Run) -> Response:
        base = f"{self.url}/{'/'.join(run.model.split('/')[:2])}/requests/{run.request_id}"
        told = {
            "status": "IN_QUEUE",
            "request_id": run.request_id,
            "gateway_request_id": run.gateway_request_id,
            "response_url": base,
            "status_url": f"{base}/status",
            "cancel_url": f"{base}/cancel",
            "queue_position": 0,
        }
        return JSONResponse(told, headers={"x-fal-request-id": run.request_id})

    async def _work(self, run: Run) -> None:
        if run.script.holds:
            return
        await asyncio.sleep(run.script.seconds)
        if run.ended:
            return
        self.end(run)
        for webhook in self._webhooks(run):
            await self._post(run, webhook)

    def _webhooks(self, run: Run) -> tuple[Webhook, ...]:
        if run.webhook_url is None:
            return ()
        return (good,) if run.script.webhooks is None else run.script.webhooks

    async def _post(self, run: Run, webhook: Webhook) -> None:
        for _ in range(self._webhook_tries):
            post = webhook(self, run)
            try:
                answer = await self._client.post(post.url, content=post.body, headers=list(post.headers))
            except httpx.HTTPError as error:
                self.deliveries.append(Delivery(run.tag, run.request_id, post.url, 0, repr(error).encode()))
            else:
                if self._record(run, post, answer).status < 300:
                    return
            await asyncio.sleep(self._retry_seconds)

    def _record(self, run: Run, post: Post, answer: httpx.Response) -> Delivery:
        self._disclose(run)
        delivery = Delivery(run.tag, run.request_id, post.url, answer.status_code, answer.content)
        self.deliveries.append(delivery)
        return delivery

    def _disclose(self, run: Run) -> None:
        """From now on the run's files grow old."""
        for url in re.findall(rf"{re.escape(self.url)}/files/[\w.-]+", run.outcome.body.decode(errors="replace")):
            file = self.file_at(url)
            if file.seconds is not None and file.gone_at is None:
                file.gone_at = time.monotonic() + file.seconds

    def _status(self, run: Run) -> Response:
        base = f"{self.url}/{'/'.join(run.model.split('/')[:2])}/requests/{run.request_id}"
        said: dict[str, Any] = {
            "request_id": run.request_id,
            "response_url": base,
            "status_url": f"{base}/status",
            "cancel_url": f"{base}/cancel",
        }
        word = run.script.progress[run.status_reads] if run.status_reads < len(run.script.progress) else None
        run.status_reads += 1
        if word is None:
            word = "COMPLETED" if run.ended else "IN_PROGRESS"
        said["status"] = word
        if word == "IN_QUEUE":
            said["queue_position"] = 3
        else:
            said["logs"] = None
        if word == "COMPLETED":
            said["metrics"] = {"inference_time": 1.25}
            if not run.outcome.ok:
                said["error"] = f"Invalid status code: {run.outcome.status}"
        return JSONResponse(said, 200 if word == "COMPLETED" else 202, {"x-fal-request-id": run.request_id})

    def _result(self, run: Run) -> Response:
        headers = {"x-fal-request-id": run.request_id, "content-type": "application/json"}
        if not run.ended:
            return Response(b'{"detail":"Request is still in progress"}', 400, headers)
        run.result_reads += 1
        self._disclose(run)
        return Response(run.outcome.body, run.outcome.status, headers)

    def _cancel(self, run: Run) -> Response:
        run.cancels += 1
        if run.ended:
            return JSONResponse({"status": "ALREADY_COMPLETED"}, 400)
        if run.script.cancel == "ignored":
            return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)
        run.chosen, run.ended = CANCELLED, True
        if run.script.cancel == "removed":
            return JSONResponse({"status": "OK"})
        task = asyncio.create_task(self._post(run, good)) if self._webhooks(run) else None
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)

    def _next(self, kind: str, run: Run) -> Answer:
        queue = self._queues.setdefault((kind, run.tag), deque(getattr(run.script, kind)))
        return queue.popleft() if queue else TAKE


class _Raw:
    """An endpoint that may end the connection without any answer, by returning None."""

    def __init__(self, handle: Callable[[Request], Any]) -> None:
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._handle(Request(scope, receive, send))
        if answer is not None:
            await answer(scope, receive, send)
            return
        # uvicorn's receive is a method of the object that holds the connection; there is no public way.
        cast(Any, receive).__self__.transport.abort()


async def _disconnected(request: Request) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await request.receive()


def eventually(look: Callable[[], Found | None], *, within: float = 30, every: float = 0.02) -> Found:
    """What `look` returns, as soon as that is true. Raises AssertionError after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, f"not within {within} s: {look}"
        time.sleep(every)


def tally(submits: list[Submit]) -> dict[str, int]:
    """Submissions per tag."""
    counts: dict[str, int] = defaultdict(int)
    for submit in submits:
        counts[submit.tag] += 1
    return counts
