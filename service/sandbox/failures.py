"""Failures in fal's two shapes: the model's, a list of problems, and the gateway's, a text with a type."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

# What the queue calls a request that ended with this status, where the body itself does not say.
ERROR_TYPES = {
    400: "bad_request",
    404: "not_found",
    422: "bad_request",
    499: "client_cancelled",
    504: "request_timeout",
}


class Failure(Exception):
    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.body = dict(body)
        self.headers = dict(headers or {})
        super().__init__(f"{status}: {body}")


class GatewayFailure(Failure):
    def __init__(self, status: int, error_type: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            status, {"detail": detail, "error_type": error_type}, {"x-fal-error-type": error_type, **(headers or {})}
        )


class ModelFailure(Failure):
    def __init__(self, loc: Sequence[str | int], msg: str, kind: str, *, status: int = 422) -> None:
        super().__init__(status, {"detail": [{"loc": list(loc), "msg": msg, "type": kind}]})

    @classmethod
    def of_validation(cls, error: ValidationError, *within: str) -> "ModelFailure":
        """The first problem makes the exception, all of them its body."""
        problems: list[dict[str, Any]] = [
            {"loc": ["body", *within, *problem["loc"]], "msg": problem["msg"], "type": problem["type"]}
            for problem in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        failure = cls(problems[0]["loc"], problems[0]["msg"], problems[0]["type"])
        failure.body["detail"] = problems
        return failure


def error_type(status: int, body: Any) -> str:
    """The type that a queue status carries beside its error."""
    named = body.get("error_type") if isinstance(body, dict) else None
    return str(named or ERROR_TYPES.get(status, "runner_server_error" if status >= 500 else "bad_request"))
