"""The fal queue as seen from here: submit, look, cancel, and what its webhooks mean.

The wire is that of fal's own clients (`@fal-ai/client` 1.10, `fal-client` 1.0) and of
https://fal.ai/docs/documentation/model-apis/inference/queue and …/webhooks.
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import httpx
import msgspec

from service.catalog.text import storable
from service.jobs.facts import Ending, Evidence
from service.jobs.lifecycle import Event, Source, Verdict
from service.jsontext import NotJSON, encode, parse_loosely
from service.network import Answer, Client, TooMuch, retry_after
from service.providers.base import (
    Accepted,
    Blocked,
    CancelAnswer,
    CancelReply,
    Ended,
    Look,
    Missing,
    Observation,
    Offer,
    Refused,
    Rejected,
    Running,
    Silent,
    SubmitAnswer,
    Taken,
    Unknown,
    Waiting,
)

NAMESPACES = ("workflows", "comfy")
TRANSIENT = frozenset({401, 403, 408, 429})
GATEWAY = frozenset({502, 503, 504})
# What fal says with a 403 to an account whose balance is used up; another 403 is about the one model.
LOCKED = re.compile(r"user is locked|exhausted balance", re.IGNORECASE)
CANCELLED_STATUS = 499
PLAIN = re.compile(r"[!-~]{1,2048}")
LARGEST_RESULT = 64 * 2**20
LARGEST_ANSWER = 2**20
RESULT_SECONDS = 60.0
STATUS_IN_ERROR = re.compile(r"status code:? ([45]\d\d)\b")
KEPT_HEADERS = ("content-type", "x-fal-request-id", "x-fal-error-type", "x-fal-billable-units", "retry-after")


class Unreadable(ValueError):
    """A signed webhook whose body is not the envelope that fal documents."""


class Incomplete(ValueError):
    """A signed webhook that announces an end without saying which; the queue has to be asked."""


# After one of these nobody knows whether the request was carried out.
LOST = (httpx.HTTPError, TimeoutError, TooMuch)


class Envelope(msgspec.Struct):
    request_id: str
    status: str
    gateway_request_id: str | None = None
    payload: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None
    payload_error: Any = None


def app_of(model: str) -> str:
    """`fal-ai/sa2va/8b/image` is asked about under `fal-ai/sa2va`; namespaced IDs keep three parts."""
    parts = model.split("/")
    return "/".join(parts[:3] if parts[0] in NAMESPACES else parts[:2])


def read_envelope(body: bytes) -> Envelope:
    """Raises Unreadable."""
    try:
        return msgspec.json.decode(body, type=Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from None


def ending_of(envelope: Envelope) -> Ending:
    """What a webhook says of the job's end. Raises Incomplete or Unreadable."""
    payload = bytes(envelope.payload)
    empty = payload == b"null"
    if empty and envelope.payload_error:
        raise Incomplete(str(envelope.payload_error))
    if envelope.status == "OK":
        if empty:
            raise Incomplete("The webhook brought no payload.")
        return Ending(Event.COMPLETED, 200, payload)
    if envelope.status != "ERROR":
        raise Unreadable(f"Unknown status {envelope.status!r}.")
    error = envelope.error if isinstance(envelope.error, str) else None
    found = STATUS_IN_ERROR.search(error or "")
    return failure(int(found[1]) if found else 500, encode({"detail": error or "failed"}) if empty else payload, error)


def failure(status: int, body: bytes, error: str | None = None, error_type: str | None = None) -> Ending:
    """A failed job's end, its words taken from the model's own error body."""
    try:
        content = parse_loosely(body)
    except NotJSON:
        content = body.decode("utf-8", "replace")[:1_000]
        body = encode({"detail": content})
    detail = content.get("detail", content) if isinstance(content, dict) else content
    if isinstance(content, dict) and isinstance(content.get("error_type"), str):
        error_type = error_type or content["error_type"]
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        first = detail[0]
        words = str(first.get("msg") or "The model refused the input.")
        if isinstance(first.get("loc"), list) and first["loc"]:
            words = f"{'.'.join(str(part) for part in first['loc'])}: {words}"
        error_type = error_type or (str(first["type"]) if "type" in first else None)
    else:
        words = detail if isinstance(detail, str) else (error or "The model failed.")
    stopped = status == CANCELLED_STATUS or error_type == "client_cancelled"
    return Ending(Event.CANCELLED if stopped else Event.FAILED, status, body, words, error_type or "model_error")


class FalQueue:
    """One queue that speaks fal's protocol, at `base`."""

    name = "fal"
    reads_inputs = True

    def __init__(self, http: Client, base: str, key: str, timeout: float) -> None:
        self._http = http
        self._base = base
        self._origin = _origin_of(base)
        self._headers = {"accept": "application/json"} | ({"authorization": f"Key {key}"} if key else {})
        self._timeout = timeout

    def name_of(self, job_id: UUID, attempt: int) -> None:
        """fal takes no name of ours."""

    async def submit(self, offer: Offer) -> SubmitAnswer:
        """POST the input once, without any retry of the client library's."""
        url = f"{self._base}/{offer.model}?{urlencode({'fal_webhook': offer.webhook_url})}"
        headers = {**offer.headers, "content-type": "application/json", "x-fal-queue-priority": offer.priority}
        try:
            response = await self._exchange("POST", url, headers=headers, content=offer.input.encode())
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Refused(f"The queue could not be reached: {type(error).__name__}.")
        except LOST as error:
            return Unknown(f"The answer was lost: {type(error).__name__}.")
        return read_submit_answer(response)

    async def look(self, taken: Taken) -> Look:
        """Ask for the status and, at the end, for the result."""
        model, request_id = taken.model, taken.request_id
        try:
            response = await self._exchange("GET", self._address(taken.status_url, model, request_id, "/status"))
        except LOST as error:
            return Look(Silent(type(error).__name__))
        seen = read_status(response)
        said = _evidence(Source.STATUS, response, request_id)
        if not isinstance(seen, Over):
            return Look(seen, ((said, Verdict.INCONCLUSIVE if isinstance(seen, Silent) else Verdict.NOTED),))
        result = await self._result(self._address(taken.response_url, model, request_id, ""), request_id, seen.error)
        return Look(result.seen, ((said, Verdict.NOTED), *result.heard))

    async def _result(self, url: str, request_id: str, error: object) -> Look:
        try:
            response = await self._exchange("GET", url, limit=LARGEST_RESULT, seconds=RESULT_SECONDS)
        except TooMuch:
            words = f"The result is larger than {LARGEST_RESULT:,} bytes."
            body = encode({"detail": words, "error_type": "result_too_large", "message": words})
            ending = Ending(Event.FAILED, 502, body, words, "result_too_large")
            return Look(Ended(ending, Evidence(Source.RESULT, b"", request_id=request_id)))
        except LOST as failed:
            return Look(Silent(type(failed).__name__))
        seen = read_result(response, request_id, error)
        if isinstance(seen, Ended):
            return Look(seen)
        return Look(seen, ((_evidence(Source.RESULT, response, request_id), Verdict.INCONCLUSIVE),))

    async def cancel(self, taken: Taken) -> CancelReply:
        address = self._address(taken.cancel_url, taken.model, taken.request_id, "/cancel")
        try:
            response = await self._exchange("PUT", address)
        except LOST:
            return CancelReply(None)
        return CancelReply(read_cancel_answer(response), _evidence(Source.CANCEL, response, taken.request_id))

    async def _exchange(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        limit: int = LARGEST_ANSWER,
        seconds: float | None = None,
    ) -> Answer:
        """One request and its whole answer, within one time limit. Raises one of LOST."""
        async with asyncio.timeout(seconds or self._timeout):
            return await self._http.exchange(method, url, {**self._headers, **(headers or {})}, content, limit)

    def _address(self, given: str | None, model: str, request_id: str, suffix: str) -> str:
        """The address that the queue gave, if it is its own: our key goes to nobody else."""
        if given and _origin_of(given) == self._origin:
            return given.removesuffix("/response") if not suffix else given
        return f"{self._base}/{app_of(model)}/requests/{request_id}{suffix}"


def read_submit_answer(response: Answer) -> SubmitAnswer:
    """What a submit's HTTP answer proves. Only an answer of the queue itself can end a job."""
    status = response.status_code
    content = _object(response)
    if 200 <= status < 300:
        names = ("request_id", "gateway_request_id", "response_url", "status_url", "cancel_url")
        texts = {name: content[name] for name in names if _is_plain(content.get(name))}
        if "request_id" in texts:
            return Accepted(**texts, queue_position=_position(content))
    if status in {401, 402} or (status == 403 and LOCKED.search(_words(content))):
        return Blocked(f"HTTP {status}: {_words(content)}", status)
    if status in TRANSIENT or status == 503 or 300 <= status < 400:
        return Refused(f"HTTP {status}: {_words(content)}", status, retry_after(response))
    if 400 <= status < 500 and not _is_json(response) and "x-fal-request-id" not in response.headers:
        # A page without fal's header comes from something in front of the queue, which turned the request away.
        return Refused(f"HTTP {status} that is not the queue's own answer.", status, retry_after(response))
    if 400 <= status < 500:
        evidence = _evidence(Source.SUBMIT, response)
        return Rejected(failure(status, response.content, None, response.headers.get("x-fal-error-type")), evidence)
    return Unknown(f"HTTP {status}: {_words(content)}", status, _evidence(Source.SUBMIT, response))


@dataclass(frozen=True, slots=True)
class Over:
    """A status that says that there is a result; `error` is what it says besides."""

    error: object


def read_status(response: Answer) -> Waiting | Running | Over | Missing | Silent:
    """What a status's HTTP answer proves."""
    if response.status_code in {404, 410}:
        return Missing(response.status_code)
    status = _object(response)
    match status.get("status") if response.status_code in {200, 202} else None:
        case "IN_QUEUE":
            return Waiting(_position(status))
        case "IN_PROGRESS":
            return Running()
        case "COMPLETED":
            return Over(status.get("error") or None)
    return Silent(f"HTTP {response.status_code}")


def read_cancel_answer(response: Answer) -> CancelAnswer | None:
    """What the HTTP answer to a cancel proves."""
    match response.status_code:
        case 200 if _object(response).get("success", True) is True:
            return "removed"
        case 200 | 202:
            return "asked"
        case 400:
            return "over"
        case 404 | 410:
            return "missing"
    return None


def read_result(response: Answer, request_id: str, error: object) -> Observation:
    """What a result's HTTP answer proves, once the status said COMPLETED; `error` is what it said with it."""
    status, body = response.status_code, response.content
    evidence = _evidence(Source.RESULT, response, request_id)
    try:
        parse_loosely(body)
    except NotJSON:
        if status != 200 or not body or "html" in response.headers.get("content-type", ""):
            return Silent(f"HTTP {status} without JSON")
        return Ended(Ending(Event.COMPLETED, 200, encode(body.decode("utf-8", "replace"))), evidence)
    if status == 200:
        return Ended(Ending(Event.COMPLETED, 200, body), evidence)
    if status in {404, 410}:
        return Missing(status)
    unsure = status in TRANSIENT or status < 400 or ((status == 400 or status in GATEWAY) and error is None)
    if unsure:
        return Silent(f"HTTP {status}")
    said = error if isinstance(error, str) else None
    return Ended(failure(status, body, said, response.headers.get("x-fal-error-type")), evidence)


def _origin_of(url: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.scheme, parts.netloc


def _is_plain(value: object) -> bool:
    """Whether it can be an ID or an address: visible ASCII of a sensible length."""
    return isinstance(value, str) and PLAIN.fullmatch(value) is not None


def _position(content: dict[str, Any]) -> int | None:
    position = content.get("queue_position")
    return position if type(position) is int and 0 <= position < 2**31 else None


def _is_json(response: Answer) -> bool:
    try:
        parse_loosely(response.content)
    except NotJSON:
        return False
    return True


def _object(response: Answer) -> dict[str, Any]:
    try:
        content = parse_loosely(response.content)
    except NotJSON:
        return {}
    return content if isinstance(content, dict) else {}


def _words(content: dict[str, Any]) -> str:
    detail = content.get("detail")
    return detail[:300] if isinstance(detail, str) else "no words"


def _evidence(source: Source, response: Answer, request_id: str | None = None) -> Evidence:
    kept = {name: storable(response.headers[name]) for name in KEPT_HEADERS if name in response.headers}
    return Evidence(source, response.content, encode(kept).decode(), response.status_code, request_id)
