"""Many receivers on the loopback, good and bad ones, that remember whatever arrived and check whether it was ours."""

import asyncio
import hashlib
import json
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.callbacks.verifying import is_fals
from tests.provider import Reply, read_call, send
from tests.stand_in.server import eventually

Kind = Literal["healthy", "failing", "slow", "dead"]
FAILING = 0.3
SLOW_SECONDS = 3.0


@dataclass(frozen=True)
class Arrival:
    request_id: str
    at: float
    body: str
    """Its SHA-256."""
    signed: bool
    taken: bool


@dataclass
class Receiver:
    kind: Kind
    listener: socket.socket
    arrivals: list[Arrival] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/hook"

    @property
    def taken(self) -> set[str]:
        return {arrival.request_id for arrival in self.arrivals if arrival.taken}


class Town:
    """One in five receivers fails three tries of ten, one in ten is slow, one is dead until it is revived."""

    def __init__(self, number: int) -> None:
        kinds: list[Kind] = ["failing"] * (number // 5) + ["slow"] * (number // 10) + ["dead"]
        kinds += ["healthy"] * (number - len(kinds))
        self.receivers = [Receiver(kind, reserved()) for kind in kinds]
        self.key_set: dict[str, Any] = {"keys": []}
        self._random = random.Random(20)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="town", daemon=True)

    def of(self, *kinds: Kind) -> Sequence[Receiver]:
        return [receiver for receiver in self.receivers if receiver.kind in kinds]

    @property
    def arrivals(self) -> list[Arrival]:
        return [arrival for receiver in self.receivers for arrival in receiver.arrivals]

    def open(self, *receivers: Receiver) -> None:
        for receiver in receivers:
            asyncio.run_coroutine_threadsafe(self._listen(receiver), self._loop).result(10)

    async def _listen(self, receiver: Receiver) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._answer(receiver, reader, writer)
            writer.close()

        receiver.listener.listen(512)
        await asyncio.start_server(serve, sock=receiver.listener)

    async def _answer(self, receiver: Receiver, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = await read_call(reader)
        at = time.time()
        taken = receiver.kind != "failing" or self._random.random() >= FAILING
        request_id = call.headers.get("x-fal-webhook-request-id", "")
        signed = is_fals(self.key_set, call.headers, call.body) and json.loads(call.body)["request_id"] == request_id
        digest = hashlib.sha256(call.body).hexdigest()
        receiver.arrivals.append(Arrival(request_id, at, digest, signed, taken))
        if receiver.kind == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        await send(writer, Reply() if taken else Reply(500))


def reserved() -> socket.socket:
    """A port that is nobody else's, where nobody listens yet: whoever connects is refused."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.bind(("127.0.0.1", 0))
    return bound


@contextmanager
def town(number: int) -> Iterator[Town]:
    made = Town(number)
    made._thread.start()
    eventually(made._loop.is_running)
    try:
        made.open(*made.of("healthy", "failing", "slow"))
        yield made
    finally:
        made._loop.call_soon_threadsafe(made._loop.stop)
        made._thread.join(timeout=10)
        for receiver in made.receivers:
            receiver.listener.close()
