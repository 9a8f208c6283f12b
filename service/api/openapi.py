"""`/openapi.json`, made from the same types that requests and replies are made of."""

from functools import cache
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.api import shapes
from service.catalog import all_models
from service.requests import answer

REPLIES = (
    shapes.Job,
    shapes.JobPage,
    shapes.Mask,
    shapes.Image,
    shapes.Timings,
    shapes.Attempt,
    shapes.Event,
    shapes.Report,
    shapes.Callback,
    shapes.Redelivery,
    shapes.Provider,
    shapes.ModelCard,
    shapes.Problem,
)
TEMPLATE = "#/components/schemas/{name}"


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": TEMPLATE.format(name=name)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _listed(field: str, name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": [field],
        "properties": {field: {"type": "array", "items": _ref(name)}},
    }


def _query(name: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema or {"type": "string"}}


IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key and body give the same job; the same key with another body is a 422.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
JOB_PATH = "/v1/jobs/{request_id}"
REQUEST_ID = {
    "name": "request_id",
    "in": "path",
    "required": True,
    "description": "Ours, the provider's request ID or its gateway ID.",
    "schema": {"type": "string"},
}
INDEX = {"name": "index", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
REPORT_ID = {"name": "report_id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}
FORCE = _query(
    "force", "End it at once, whatever its provider says; for administrators.", {"type": "boolean", "default": False}
)
WAIT = _query(
    "wait", "Seconds to hold the answer until the job ends.", {"type": "number", "minimum": 0, "maximum": 120}
)
FILTERS = [
    _query("status", "One or more, by commas or repeated."),
    _query("model", "One or more."),
    _query("provider", "One or more."),
    _query("tag", "Every one of them."),
    {
        "name": "metadata",
        "in": "query",
        "description": "`metadata.KEY=value` for any KEY of the job's metadata.",
        "style": "form",
        "explode": True,
        "schema": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    _query("created_after", "ISO 8601.", {"type": "string", "format": "date-time"}),
    _query("created_before", "ISO 8601.", {"type": "string", "format": "date-time"}),
    _query("q", "Text in the input or in the output."),
    _query("limit", "Jobs a page.", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
    _query("cursor", "`next_cursor` of the page before."),
]


def _operation(
    summary: str,
    success: dict[str, Any],
    *,
    status: str = "200",
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    errors: tuple[str, ...] = ("401", "403", "404", "422", "503"),
    public: bool = False,
) -> dict[str, Any]:
    words = {
        "400": "Not to be read, or too early",
        "401": "No valid key",
        "403": "The key lacks the scope",
        "404": "Nothing there for this tenant",
        "409": "Not in this state",
        "413": "Too large",
        "415": "Not plain JSON",
        "422": "Does not fit",
        "503": "A part is away",
    }
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": parameters or [],
        "responses": {status: {"description": "Done", **success}}
        | {code: {"description": words[code], **_json(_ref("Problem"))} for code in errors},
    }
    if body is not None:
        operation["requestBody"] = {"required": True, **body}
    if public:
        operation["security"] = []
    return operation


def _paths() -> dict[str, Any]:
    job = _json(_ref("Job"))
    request_errors = ("400", "401", "403", "404", "413", "415", "422", "503")
    batch = {
        "type": "object",
        "required": ["jobs"],
        "properties": {"jobs": {"type": "array", "minItems": 1, "maxItems": 1000, "items": _ref("JobRequest")}},
    }
    batch_reply = {
        "type": "object",
        "required": ["jobs"],
        "properties": {
            "jobs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["status"],
                    "properties": {"status": {"type": "integer"}, "job": _ref("Job"), "error": _ref("Problem")},
                },
            }
        },
    }
    file = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    stream = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}

    def part(summary: str, success: dict[str, Any], extra: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        return {"get": _operation(summary, success, parameters=[REQUEST_ID, *(extra or [])])}

    def file_part(summary: str) -> dict[str, Any]:
        errors = ("400", "401", "403", "404", "503")
        return {"get": _operation(summary, file, parameters=[REQUEST_ID, INDEX], errors=errors)}

    result = _operation(
        "The model's own status and body",
        _json({}),
        parameters=[REQUEST_ID],
        errors=("400", "401", "403", "404", "503"),
    )
    result["responses"]["default"] = {"description": "A failed job's own status and body", **_json({})}
    registered = _operation(
        "Register a job",
        job,
        status="202",
        parameters=[IDEMPOTENCY],
        body=_json(_ref("JobRequest")),
        errors=request_errors,
    )
    registered["responses"]["200"] = {"description": "The Idempotency-Key had made this job before", **job}
    cancel = _operation("Ask for the job's end", job, status="202", parameters=[REQUEST_ID, FORCE])
    cancel["responses"]["200"] = {"description": "It has ended", **job}
    retry = _operation(
        "Repeat a failed or cancelled job as a new one",
        job,
        status="202",
        parameters=[REQUEST_ID],
        errors=("401", "403", "404", "409", "503"),
    )
    retry["responses"]["200"] = {"description": "It was repeated before, as this job", **job}
    model_path = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/jobs": {
            "post": registered,
            "get": _operation("List jobs, newest first", _json(_ref("JobPage")), parameters=FILTERS),
        },
        "/v1/jobs/batch": {
            "post": _operation(
                "Register many jobs",
                _json(batch_reply),
                status="202",
                parameters=[IDEMPOTENCY],
                body=_json(batch),
                errors=request_errors,
            )
        },
        JOB_PATH: part("A job", job, [WAIT]),
        f"{JOB_PATH}/result": {"get": result},
        f"{JOB_PATH}/masks": part("Its masks", _json(_listed("masks", "Mask"))),
        f"{JOB_PATH}/masks/{{index}}": file_part("A mask itself"),
        f"{JOB_PATH}/images": part("Its images", _json(_listed("images", "Image"))),
        f"{JOB_PATH}/images/{{index}}": file_part("An image itself"),
        f"{JOB_PATH}/timings": part("Where the time went", _json(_ref("Timings"))),
        f"{JOB_PATH}/attempts": part("Its submissions", _json(_listed("attempts", "Attempt"))),
        f"{JOB_PATH}/events": part("Its history", _json(_listed("events", "Event"))),
        f"{JOB_PATH}/evidence": part(
            "What was heard of it", _json(_listed("evidence", "Report")), [_query("after", "The ID of a report.")]
        ),
        f"{JOB_PATH}/evidence/{{report_id}}": part("The bytes of one piece of it", file, [REPORT_ID]),
        f"{JOB_PATH}/callback": part("What was told of its end", _json(_ref("Callback"))),
        f"{JOB_PATH}/callback/redeliver": {
            "post": _operation(
                "Tell of its end once more",
                _json(_ref("Callback")),
                status="202",
                parameters=[REQUEST_ID],
                errors=("401", "403", "404", "409", "503"),
            )
        },
        f"{JOB_PATH}/stream": part("Its changes as they come", stream),
        f"{JOB_PATH}/cancel": {"post": cancel},
        f"{JOB_PATH}/retry": {"post": retry},
        "/v1/callbacks/redeliver": {
            "post": _operation(
                "Tell once more of all that ended since a time",
                _json(_ref("Redelivery")),
                status="202",
                body=_json(_ref("RedeliveryRequest")),
                errors=("400", "401", "403", "413", "415", "422", "503"),
            )
        },
        "/v1/providers": {
            "get": _operation("Who runs jobs", _json(_listed("providers", "Provider")), errors=("401", "403", "503"))
        },
        "/v1/models": {
            "get": _operation("The catalogue", _json(_listed("models", "ModelCard")), errors=("401", "403", "503"))
        },
        "/v1/models/{model}": {"get": _operation("A model", _json(_ref("ModelCard")), parameters=[model_path])},
        "/v1/files": {
            "post": _operation(
                "Store a file, to be named as an input",
                _json({"type": "object", "required": ["url", "sha256"]}),
                status="201",
                parameters=[_query("name", "What the file is called.")],
                body=file,
                errors=("401", "403", "413", "415", "422", "503"),
            )
        },
        "/healthz": {"get": _operation("Is the process alive", _json({"type": "object"}), errors=(), public=True)},
        "/readyz": {"get": _operation("Is the service ready", _json({"type": "object"}), errors=("503",), public=True)},
    }


@cache
def document() -> bytes:
    _, replies = msgspec.json.schema_components(REPLIES, ref_template=TEMPLATE)
    asked: list[type[BaseModel]] = [shapes.JobRequest, shapes.RedeliveryRequest]
    asked += [model.Input for model in all_models() if model.Input is not None]
    _, requests = models_json_schema(
        [(shape, "validation") for shape in asked], ref_template=TEMPLATE.replace("name", "model")
    )
    content = {
        "openapi": "3.1.0",
        "info": {"title": "Roundtrip", "version": __version__, "description": "A durable record of AI jobs."},
        "security": [{"key": []}],
        "paths": _paths(),
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Key <id>:<secret>` or `Bearer <id>:<secret>`",
                }
            },
            "schemas": {**replies, **requests.get("$defs", {})},
        },
    }
    return msgspec.json.encode(content)


async def show_document(request: Request) -> Response:
    return answer(document())
