"""Every way a request can fail: each class knows its HTTP status, its fal error type and its words.

ServiceError
├── Unauthenticated        401  no key, a wrong key or a revoked key
├── Forbidden              403  the key lacks the scope
├── NotFound               404  absent, or another tenant's
│   └── UnknownModel       404
├── StillPending           400  a result was asked for before the end
├── Conflict               409  the job is not in a state that allows this
├── Gone                   410  it was removed, as its tenant wanted, or a shared address whose time is over
├── BodyTooLarge           413
├── UnsupportedMedia       415
├── Invalid                422  fal's list of {loc, msg, type}
│   └── IdempotencyMismatch 422 the same key with another body
├── NotDrawable            422  a mask or picture of which that cannot be made
├── SignatureRejected      401  an inbound webhook that proves nothing
└── Unavailable            503  a part that this request needs is away
"""

from typing import Any, ClassVar


class ServiceError(Exception):
    """A failure that a client is told about; `detail` is text or fal's validation list."""

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "internal_error"
    message: str = "Something went wrong on our side."

    def __init__(
        self,
        message: str | None = None,
        *,
        detail: Any = None,
        request_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.message = message or type(self).message
        self.detail: Any = self.message if detail is None else detail
        self.request_id = request_id
        self.headers = headers or {}
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        return {"detail": self.detail, "error_type": self.error_type, "message": self.message}


class Unauthenticated(ServiceError):
    status = 401
    error_type = "auth_error"
    message = "Give a valid API key: 'Authorization: Key <id>:<secret>'."


class Forbidden(ServiceError):
    status = 403
    error_type = "auth_error"
    message = "This key may not do that."


class NotFound(ServiceError):
    status = 404
    error_type = "not_found"
    message = "There is nothing here by that name."


class UnknownModel(NotFound):
    message = "That model is not in the catalogue."


class StillPending(ServiceError):
    status = 400
    error_type = "bad_request"
    message = "Request is still in progress."


class BadRequest(ServiceError):
    status = 400
    error_type = "bad_request"
    message = "The request could not be read."


class Conflict(ServiceError):
    status = 409
    error_type = "conflict"
    message = "The job is not in a state that allows this."


class Gone(ServiceError):
    status = 410
    error_type = "gone"
    message = "This was removed, as its tenant wanted."


class BodyTooLarge(ServiceError):
    status = 413
    error_type = "file_too_large"
    message = "The body is larger than this service takes."


class UnsupportedMedia(ServiceError):
    status = 415
    error_type = "bad_request"
    message = "Send JSON, unencoded, as application/json."


class Invalid(ServiceError):
    """A body or query that does not fit; `problems` are fal's `{loc, msg, type}`."""

    status = 422
    error_type = "validation_error"

    def __init__(self, problems: list[dict[str, Any]]) -> None:
        first = problems[0]
        where = ".".join(str(part) for part in first["loc"])
        super().__init__(f"{where}: {first['msg']}", detail=problems)

    @classmethod
    def at(cls, *loc: str | int, msg: str, kind: str = "value_error") -> "Invalid":
        return cls([{"loc": list(loc), "msg": msg, "type": kind}])


class IdempotencyMismatch(ServiceError):
    status = 422
    error_type = "idempotency_mismatch"
    message = "This Idempotency-Key was used before with another request."


class NotDrawable(ServiceError):
    status = 422
    error_type = "not_drawable"
    message = "The mask, or the picture that it is of, cannot be decoded within the limits for pictures."


class SignatureRejected(ServiceError):
    """One answer for every cause, so that a forger learns nothing from it; `reason` is for us alone."""

    status = 401
    error_type = "auth_error"
    message = "The webhook's signature does not hold."
    reason = "signature"

    @classmethod
    def because(cls, reason: str) -> "SignatureRejected":
        error = cls()
        error.reason = reason
        return error


class Unavailable(ServiceError):
    status = 503
    error_type = "unavailable"
    message = "A part that this needs is away; try again shortly."
