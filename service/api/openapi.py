"""`/openapi.json`, made from the same types that requests and replies are made of."""

from functools import cache
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from service import __version__
from service.api import exporting, shapes
from service.bulk.lifecycle import BulkOutcome
from service.catalog import all_models
from service.jobs.filters import PHASES
from service.requests import LONGEST_WAIT_SECONDS, answer
from service.stats.measures import TOTAL
from service.stats.questions import DEFAULT_MEASURES, GROUPS, MEASURES, TIMES

REPLIES = (
    shapes.Job,
    shapes.JobPage,
    shapes.Mask,
    shapes.Image,
    shapes.Timings,
    shapes.Attempt,
    shapes.Event,
    shapes.LogLine,
    shapes.Report,
    shapes.Callback,
    shapes.Share,
    shapes.Redelivery,
    shapes.BulkPreview,
    shapes.BulkAction,
    shapes.BulkPage,
    shapes.BulkResultPage,
    shapes.Condition,
    shapes.Process,
    shapes.DatabaseState,
    shapes.Stats,
    shapes.Price,
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
SIDES = {"type": "array", "items": {"type": "integer"}, "description": "Height and width."}
COVERED = {
    "size": SIDES,
    "area": {"type": "integer", "description": "Pixels in the mask."},
    "bbox": {"type": ["array", "null"], "items": {"type": "integer"}, "description": "x0, y0, x1, y1, half open."},
}
RLE = {"type": "object", "required": ["counts", *COVERED], "properties": {"counts": {"type": "string"}, **COVERED}}
POLYGONS = {
    "type": "object",
    "required": ["type", "coordinates", *COVERED],
    "properties": {"type": {"const": "MultiPolygon"}, "coordinates": {"type": "array"}, **COVERED},
}
FORCE = _query(
    "force", "End it at once, whatever its provider says; for administrators.", {"type": "boolean", "default": False}
)
WAIT = _query(
    "wait",
    "Seconds to hold the answer until the job has ended, and its files are copied if they soon are;"
    f" more than {LONGEST_WAIT_SECONDS:,.0f} are as many.",
    {"type": "number", "minimum": 0, "maximum": int(LONGEST_WAIT_SECONDS)},
)
NUMBER = {"type": "number"}


def _any_of(name: str, description: str, value: str) -> dict[str, Any]:
    """Parameters whose names are the client's own."""
    schema = {"type": "object", "additionalProperties": {"type": value}}
    return _query(name, description, schema) | {"style": "form", "explode": True}


def _range(name: str, meaning: str) -> list[dict[str, Any]]:
    return [_query(f"{name}_{end}", f"{meaning}, {word}.", NUMBER) for end, word in (("min", "least"), ("max", "most"))]


FILTERS = [
    _query("status", "One or more, by commas or repeated."),
    _query("model", "One or more."),
    _query("provider", "One or more."),
    _query("error_type", "One or more."),
    _query("tag", "Every one of them."),
    _any_of("metadata", "`metadata.KEY=value` for any KEY of the job's metadata.", "string"),
    _query("created_after", "ISO 8601; this moment is in.", {"type": "string", "format": "date-time"}),
    _query("created_before", "ISO 8601; this moment is out.", {"type": "string", "format": "date-time"}),
    _query("mask_label", "The whole label of a mask, in upper or lower case."),
    *_range("mask_area", "Share of the picture that a mask covers, 0 to 1; with `mask_label`, that mask"),
    *(each for name in PHASES for each in _range(name, f"`timings.{name}`")),
    _any_of("timings.model", "`timings.model.NAME_min` and `_max` for any NAME of the model's own timings.", "number"),
    _any_of("usage", "`usage.NAME_min` and `_max` for any NAME of the job's usage.", "number"),
    *_range("cost", "What the job cost"),
    _query("q", "Text in the input or in the output."),
    _query("limit", "Jobs a page.", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
    _query("cursor", "`next_cursor` or `previous_cursor` of another page of the same list."),
]

BULK_ID = {"name": "bulk_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
BULK_KEY = {
    **IDEMPOTENCY,
    "required": True,
    "description": "The same key and body are the same action; the same key with another body is a 422.",
}
PAGES = [
    _query("limit", "Of a page.", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}),
    _query("cursor", "`next_cursor` of the page before."),
]

# Of those who ask for all.
CONDITIONS = [each for each in FILTERS if each["name"] not in exporting.PAGES]
FORMAT = _query("format", "How it is written.", {"enum": list(exporting.TYPES), "default": "ndjson"})
STATS = [
    _query("group_by", f"One or more of {', '.join(GROUPS)}, and one of {', '.join(TIMES)}."),
    _query("measure", f"One or more of {', '.join(MEASURES)}; if none is named, {', '.join(DEFAULT_MEASURES)}."),
    _query(
        "of",
        "What mean and percentiles are of: a phase, `cost`, `usage.NAME` or `timings.model.NAME`.",
        {"type": "string", "default": TOTAL},
    ),
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
        "410": "Removed, or its time is over",
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
        errors = ("400", "401", "403", "404", "410", "503")
        return {"get": _operation(summary, file, parameters=[REQUEST_ID, INDEX], errors=errors)}

    def rendition(summary: str, media_type: str, schema: dict[str, Any], *extra: dict[str, Any]) -> dict[str, Any]:
        content = {"content": {media_type: {"schema": schema}}}
        errors = ("400", "401", "403", "404", "410", "422", "503")
        return {"get": _operation(summary, content, parameters=[REQUEST_ID, *extra], errors=errors)}

    png = ("image/png", {"type": "string", "format": "binary"})

    result = _operation(
        "The model's own status and body",
        _json({}),
        parameters=[REQUEST_ID],
        errors=("400", "401", "403", "404", "410", "503"),
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
        errors=("401", "403", "404", "409", "410", "503"),
    )
    retry["responses"]["200"] = {"description": "It was repeated before, as this job", **job}
    one_report = _operation(
        "The bytes of one piece of it",
        file,
        parameters=[REQUEST_ID, REPORT_ID],
        errors=("401", "403", "404", "410", "422", "503"),
    )

    begun = _operation(
        "Retry or cancel all jobs that a filter means",
        _json(_ref("BulkAction")),
        status="202",
        parameters=[BULK_KEY],
        body=_json(_ref("BulkRequest")),
        errors=("400", "401", "403", "413", "415", "422", "503"),
    )
    begun["responses"]["200"] = {"description": "The Idempotency-Key had begun it before", **_json(_ref("BulkAction"))}
    aborted = _operation(
        "Begin nothing more of it",
        _json(_ref("BulkAction")),
        status="202",
        parameters=[BULK_ID],
        errors=("401", "403", "404", "503"),
    )
    aborted["responses"]["200"] = {"description": "It was over", **_json(_ref("BulkAction"))}

    def nothing(summary: str, errors: tuple[str, ...] = ("401", "403", "404", "503")) -> dict[str, Any]:
        return _operation(summary, {}, status="204", parameters=[REQUEST_ID], errors=errors)

    model_path = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "/v1/jobs": {
            "post": registered,
            "get": _operation("List jobs, newest first", _json(_ref("JobPage")), parameters=FILTERS),
        },
        "/v1/jobs/export": {
            "get": _operation(
                "All jobs that a filter means, newest first",
                {
                    "content": {
                        kind: {"schema": {"type": "string", "format": "binary"}} for kind in exporting.TYPES.values()
                    }
                },
                parameters=[FORMAT, *CONDITIONS],
                errors=("401", "403", "422", "503"),
            )
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
        JOB_PATH: {
            **part("A job", job, [WAIT]),
            "delete": nothing("Delete a job that has ended", ("401", "403", "404", "409", "503")),
        },
        f"{JOB_PATH}/hold": {
            "put": nothing("Let nothing of it be removed"),
            "delete": nothing("Let the rules of retention hold for it again"),
        },
        f"{JOB_PATH}/result": {"get": result},
        f"{JOB_PATH}/masks": part("Its masks", _json(_listed("masks", "Mask"))),
        f"{JOB_PATH}/masks/{{index}}": file_part("A mask itself"),
        f"{JOB_PATH}/masks/{{index}}/cutout": rendition("The picture where the mask is", *png, INDEX),
        f"{JOB_PATH}/masks/{{index}}/overlay": rendition("The picture with the mask over it", *png, INDEX),
        f"{JOB_PATH}/masks/{{index}}/rle": rendition("The mask as COCO's run lengths", "application/json", RLE, INDEX),
        f"{JOB_PATH}/masks/{{index}}/polygons": rendition(
            "The mask as a GeoJSON MultiPolygon in pixels", "application/json", POLYGONS, INDEX
        ),
        f"{JOB_PATH}/overlay": rendition("The picture with all masks over it", *png),
        f"{JOB_PATH}/images": part("Its images", _json(_listed("images", "Image"))),
        f"{JOB_PATH}/images/{{index}}": file_part("An image itself"),
        f"{JOB_PATH}/timings": part("Where the time went", _json(_ref("Timings"))),
        f"{JOB_PATH}/logs": part("What GPU workers said while they ran it", _json(_listed("logs", "LogLine"))),
        f"{JOB_PATH}/attempts": part("Its submissions", _json(_listed("attempts", "Attempt"))),
        f"{JOB_PATH}/events": part("Its history", _json(_listed("events", "Event"))),
        f"{JOB_PATH}/evidence": part(
            "What was heard of it", _json(_listed("evidence", "Report")), [_query("after", "The ID of a report.")]
        ),
        f"{JOB_PATH}/evidence/{{report_id}}": {"get": one_report},
        f"{JOB_PATH}/callback": part("What was told of its end", _json(_ref("Callback"))),
        f"{JOB_PATH}/callback/redeliver": {
            "post": _operation(
                "Tell of its end once more",
                _json(_ref("Callback")),
                status="202",
                parameters=[REQUEST_ID],
                errors=("401", "403", "404", "409", "410", "503"),
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
        "/v1/bulk-actions": {
            "post": begun,
            "get": _operation(
                "Actions on many jobs, newest first",
                _json(_ref("BulkPage")),
                parameters=PAGES,
                errors=("401", "403", "422", "503"),
            ),
        },
        "/v1/bulk-actions/preview": {
            "post": _operation(
                "How many jobs that would be, and what it may cost",
                _json(_ref("BulkPreview")),
                body=_json(_ref("BulkRequest")),
                errors=("400", "401", "403", "413", "415", "422", "503"),
            )
        },
        "/v1/bulk-actions/{bulk_id}": {
            "get": _operation(
                "How far it is",
                _json(_ref("BulkAction")),
                parameters=[BULK_ID],
                errors=("401", "403", "404", "503"),
            )
        },
        "/v1/bulk-actions/{bulk_id}/results": {
            "get": _operation(
                "What came of each job",
                _json(_ref("BulkResultPage")),
                parameters=[BULK_ID, _query("outcome", "Of one kind.", {"enum": list(BulkOutcome)}), *PAGES],
            )
        },
        "/v1/bulk-actions/{bulk_id}/abort": {"post": aborted},
        "/v1/condition": {
            "get": _operation(
                "What is wrong now, the worst first; for administrators, of everything",
                _json(_ref("Condition")),
                errors=("401", "403", "503"),
            )
        },
        "/v1/processes": {
            "get": _operation(
                "Which processes work, for administrators",
                _json(_listed("processes", "Process")),
                errors=("401", "403", "503"),
            )
        },
        "/v1/database": {
            "get": _operation(
                "How the database is, for administrators", _json(_ref("DatabaseState")), errors=("401", "403", "503")
            )
        },
        "/v1/stats": {
            "get": _operation(
                "Figures of jobs",
                _json(_ref("Stats")),
                parameters=[*STATS, *CONDITIONS],
                errors=("401", "403", "422", "503"),
            )
        },
        "/v1/prices": {
            "get": _operation(
                "What models cost, for administrators", _json(_listed("prices", "Price")), errors=("401", "403", "503")
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
        "/v1/shares": {
            "post": _operation(
                "Make an address that works without a key for some time",
                _json(_ref("Share")),
                status="201",
                body=_json(_ref("ShareRequest")),
                errors=request_errors,
            )
        },
        "/healthz": {"get": _operation("Is the process alive", _json({"type": "object"}), errors=(), public=True)},
        "/readyz": {"get": _operation("Is the service ready", _json({"type": "object"}), errors=("503",), public=True)},
    }


@cache
def document() -> bytes:
    _, replies = msgspec.json.schema_components(REPLIES, ref_template=TEMPLATE)
    asked: list[type[BaseModel]] = [
        shapes.JobRequest,
        shapes.RedeliveryRequest,
        shapes.ShareRequest,
        shapes.BulkRequest,
    ]
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
