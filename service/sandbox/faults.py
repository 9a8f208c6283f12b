"""The knobs: every way in which this provider can be told to misbehave, for all requests or for one."""

import hashlib
from collections import OrderedDict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.sandbox.failures import GatewayFailure, ModelFailure

FIELD = "sandbox"

Word = BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)
Webhook = Literal[
    "normal",
    "none",
    "duplicate",
    "early",
    "late",
    "out_of_order",
    "forged",
    "stale",
    "crossed",
    "conflicting",
    "null_payload",
    "html",
]


class Knobs(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook: Webhook = "normal"
    webhook_times: int = Field(default=2, ge=1, le=50, description="how many, for duplicate")
    webhook_delay_seconds: float = Field(default=5, ge=0, le=3600, description="how late, for late")
    only_bad: bool = Field(default=False, description="send what is wrong and never the good one")
    rotate_key: bool = Field(default=False, description="publish and use a new signing key for this webhook")

    submit: Annotated[Literal["normal", "429", "503", "html", "never_answered", "cut"], Word] = "normal"
    submit_times: int = Field(default=1, ge=0, description="how many submits with the same key or body go wrong")
    retry_after: int = Field(default=1, ge=0, description="seconds in Retry-After, for 429")
    key: str | None = Field(default=None, max_length=200, description="what counts as the same submit")

    status: Literal["normal", "5xx", "html"] = "normal"
    status_times: int = Field(default=1, ge=0, description="how many status reads go wrong")

    work_seconds: float = Field(default=0, ge=0, le=3600, description="extra time at work")
    cancel: Literal["honoured", "ignored"] = "honoured"
    result_status: int | None = Field(default=None, ge=400, le=599, description="fail with this status")
    nul: bool = Field(default=False, description="NUL characters in the text")
    text_bytes: int | None = Field(default=None, ge=0, le=64 * 2**20, description="a text of exactly this size")
    file_seconds: float | None = Field(default=None, ge=0, description="how long the files can be fetched")
    masks: Literal["list", "object"] = "list"


def read_knobs(value: dict[str, Any], defaults: Knobs) -> Knobs:
    """Take the knobs out of an input. Raises ModelFailure for one that does not exist or does not fit."""
    own = value.pop(FIELD, {})
    try:
        return Knobs.model_validate(defaults.model_dump() | own if isinstance(own, dict) else own)
    except ValidationError as error:
        raise ModelFailure.of_validation(error, FIELD) from None


class SubmitCounter:
    """How often the same submit came: a request has no ID before it is accepted."""

    def __init__(self, keep: int = 10_000) -> None:
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._keep = keep

    def goes_wrong(self, knobs: Knobs, body: bytes) -> bool:
        if knobs.submit == "normal":
            return False
        key = f"key {knobs.key}" if knobs.key is not None else f"body {hashlib.sha256(body).hexdigest()}"
        seen = self._seen.pop(key, 0)
        self._seen[key] = seen + 1
        while len(self._seen) > self._keep:
            self._seen.popitem(last=False)
        return seen < knobs.submit_times


def asked_failure(status: int) -> GatewayFailure | ModelFailure:
    """The failure of a request whose knobs asked for this status, in the shape that fal uses for it."""
    words = f"This request's sandbox knobs asked for status {status}."
    match status:
        case 422:
            return ModelFailure(["body"], words, "value_error")
        case 500:
            return ModelFailure(["body"], words, "internal_server_error", status=status)
        case 504:
            return ModelFailure(["body"], words, "generation_timeout", status=status)
        case _:
            return GatewayFailure(status, "internal_error" if status > 500 else "bad_request", words)


def spoil_text(output: dict[str, Any], knobs: Knobs) -> dict[str, Any]:
    """The output with its text changed as the knobs say."""
    name = next((name for name in ("output", "caption") if isinstance(output.get(name), str)), None)
    if name is None:
        return output
    text = output[name]
    if knobs.nul:
        text = f"\0{text}\0"
    if knobs.text_bytes is not None:
        text = (text.encode("ascii", "replace").decode() + " ").ljust(knobs.text_bytes, "x")[: knobs.text_bytes]
    return {**output, name: text}
