"""The line from a GPU worker to its service: the only address besides the broker's that it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from service.gpu.calls import WORKERS_PATH, Beat, Hello, Start
from service.gpu.identity import WorkerKey
from service.gpu.queues import Ticket
from service.jsontext import NotJSON, encode, parse

LONGEST_ANSWER = 64 * 2**20
UPLOAD_SECONDS = 600.0
# Too large, or of a kind that is not taken. All else may be a gateway on its way up.
NEVER = {413, 415}


class LineDown(Exception):
    """The service could not be reached, or did not answer as it should: try again."""


class NotTaken(LineDown):
    """The service refuses these bytes, and would again."""


class NotKnown(LineDown):
    """It does not take this worker's word: its key is not registered, or the clock is wrong."""


@dataclass(frozen=True, slots=True)
class Behind:
    """An attempt that may well come next. Nothing of it may be begun without permission."""

    ticket: Ticket
    input: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Permission:
    run: int
    input: dict[str, Any]
    behind: Sequence[Behind] = ()


class Line:
    def __init__(self, http: httpx.AsyncClient, service_url: str, key: WorkerKey, worker: str) -> None:
        self._http = http
        self._url = service_url
        self._key = key
        self._worker = worker

    async def start(
        self, ticket: Ticket, *, again: bool = False, fresh: bool = False, ahead: int = 0
    ) -> Permission | str:
        """May I begin? If not, why. `again`: the answer to the same question was lost. Raises LineDown."""
        path = f"{ticket.runs_path}/start"
        said = await self._say(path, Start(path, self._worker, again, fresh, ahead), ticket.request_id)
        if isinstance(said.get("no"), str):
            return str(said["no"])
        if type(said.get("run")) is not int or not isinstance(said.get("input"), dict):
            raise LineDown("the service's answer makes no sense")
        return Permission(said["run"], said["input"], _behind(said.get("next", [])))

    async def beat(self, ticket: Ticket, run: int, done: int | None, of: int | None, lines: list[str]) -> str | None:
        """Why the run is to stop, if it is. Raises LineDown."""
        path = f"{ticket.runs_path}/beat"
        said = await self._say(path, Beat(path, self._worker, run, done, of, lines), ticket.request_id)
        stop = said.get("stop")
        return str(stop) if stop else None

    async def hello(self, model: str, device: str, state: str) -> None:
        """Raises LineDown."""
        word = Hello(WORKERS_PATH, self._worker, model, device, state)  # type: ignore[arg-type]
        await self._say(WORKERS_PATH, word, self._worker)

    async def keep(self, ticket: Ticket, name: str, content: bytes, content_type: str) -> str:
        """Store a file of an output with the service. Returns its address. Raises LineDown."""
        path = f"{ticket.runs_path}/files/{quote(name, safe='')}"
        said = await self._post(path, content, ticket.request_id, content_type, UPLOAD_SECONDS)
        if not isinstance(said.get("url"), str):
            raise LineDown("the service's answer makes no sense")
        return str(said["url"])

    async def tell(self, ticket: Ticket, envelope: bytes) -> None:
        """The webhook. Raises LineDown."""
        await self._post(ticket.webhook_path, envelope, ticket.request_id, "application/json", UPLOAD_SECONDS)

    async def _say(self, path: str, word: Start | Beat | Hello, name: str) -> dict[str, Any]:
        return await self._post(path, msgspec.json.encode(word), name, "application/json")

    async def _post(
        self, path: str, body: bytes, name: str, content_type: str, seconds: float | None = None
    ) -> dict[str, Any]:
        headers = self._key.headers(name, body) | {"content-type": content_type}
        timeout = httpx.USE_CLIENT_DEFAULT if seconds is None else httpx.Timeout(seconds, connect=10.0)
        try:
            response = await self._http.post(self._url + path, content=body, headers=headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise LineDown(f"{type(error).__name__}: {error}") from error
        if response.status_code == 401:
            raise NotKnown("the service answered 401: is this worker's key registered, and is the clock right?")
        if response.status_code in NEVER:
            raise NotTaken(f"the service answered {response.status_code}")
        if not response.is_success:
            raise LineDown(f"the service answered {response.status_code}")
        try:
            said = parse(response.content)
        except NotJSON:
            said = None
        return said if isinstance(said, dict) else {}


def _behind(said: Any) -> list[Behind]:
    """It is advice only: a service of another version may say it otherwise."""
    try:
        return msgspec.convert(said, list[Behind])
    except msgspec.ValidationError:
        return []


def envelope_of(request_id: str, status: int, payload: Any, error: str | None = None) -> bytes:
    """A webhook's body as fal has it."""
    ok = status == 200
    words = None if ok else f"Unexpected status code: {status}" + (f", {error}" if error else "")
    return encode(
        {
            "request_id": request_id,
            "gateway_request_id": request_id,
            "status": "OK" if ok else "ERROR",
            "payload": payload,
            "error": words,
        }
    )
