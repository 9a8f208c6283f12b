"""POST to the queue: a request becomes a job of our record."""

from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from service.bodies import LARGEST_REQUEST, read_body
from service.catalog import check_input
from service.catalog.text import is_storable
from service.context import Context
from service.errors import Invalid
from service.front.addresses import request_urls
from service.front.errors import QueueTooLong
from service.front.hints import read_hints, read_priority, read_tags
from service.jobs import operations, reads
from service.jobs.facts import NewJob
from service.jsontext import NotJSON, encode, parse
from service.keys import Caller
from service.network import check_webhook_url
from service.requests import answer, authenticate, idempotency_key, read_json

OWN_QUERY = {"fal_webhook", "fal_max_queue_length"}
KEY_HEADERS = ("idempotency-key", "x-fal-idempotency-key")


async def submit(request: Request) -> Response:
    """200 with fal's receipt; the job is durable before it goes out."""
    model, request_id = await register(request)
    context: Context = request.state.context
    receipt = {
        "status": "IN_QUEUE",
        "request_id": request_id,
        "gateway_request_id": request_id,
        "queue_position": 0,
        **request_urls(context.settings.public_url, model, request_id),
    }
    return answer(receipt, request_id=request_id)


async def register(request: Request) -> tuple[str, str]:
    """The job that a call asks for, made or found again: its model and its ID."""
    caller = await authenticate(request, "submit")
    context: Context = request.state.context
    model = context.catalog.find(request.path_params["model"].strip("/"))
    value, text = await read_input(request, model.Input)
    check_input(model, value, ("body",))
    await check_queue_length(request, caller, model.id)
    webhook_url = read_webhook_url(request)
    job = NewJob(
        id=operations.new_job_id(),
        tenant_id=caller.tenant_id,
        model=model.id,
        input=text,
        provider=context.fal.name,
        priority=read_priority(request),
        webhook_url=webhook_url,
        callback_format="fal" if webhook_url else None,
        tags=read_tags(request),
        hints=read_hints(request),
    )
    key = idempotency_key(request, *KEY_HEADERS)
    registered = await operations.register(context, job, key, caller.join_seconds)
    return model.id, str(registered.job_id)


async def read_input(request: Request, schema: type[BaseModel] | None) -> tuple[Any, str]:
    """The input and its JSON text, which goes on as it came; a call without a body has an empty one."""
    if request.method == "GET":
        value = read_query(request, schema)
        return value, encode(value).decode(errors="replace")
    body = await read_body(request, LARGEST_REQUEST) or b"{}"
    return read_json(request, body), body.decode()


def read_query(request: Request, schema: type[BaseModel] | None) -> dict[str, Any]:
    """The input of a call by GET, where all is text: what is to be no text is read as JSON."""
    fields = schema.model_json_schema().get("properties", {}) if schema else {}
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in OWN_QUERY:
            continue
        kind = fields.get(name, {}).get("type", "string")
        if kind == "array":
            found.setdefault(name, []).extend(value.split(","))
        else:
            found[name] = value if kind == "string" else _number(value)
    return found


def _number(text: str) -> Any:
    try:
        return parse(text)
    except NotJSON:
        return text  # The model's schema says what is wrong with it.


def read_webhook_url(request: Request) -> str | None:
    url = request.query_params.get("fal_webhook")
    if url is None:
        return None
    try:
        if not is_storable(url):
            raise ValueError("must be a valid address")
        check_webhook_url(url, request.state.context.settings.allow_private_networks)
    except ValueError as error:
        raise Invalid.at("query", "fal_webhook", msg=str(error), kind="url_parsing") from None
    return url


async def check_queue_length(request: Request, caller: Caller, model: str) -> None:
    """Raises QueueTooLong."""
    text = request.query_params.get("fal_max_queue_length")
    if text is None:
        return
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Invalid.at("query", "fal_max_queue_length", msg="Must be a whole number.", kind="int_parsing")
    longest = int(text)
    if await reads.waiting_jobs(request.state.context.db, caller.tenant_id, model, longest + 1) > longest:
        raise QueueTooLong
