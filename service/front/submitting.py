"""POST to the queue: a request becomes a job of our record."""

import re
from typing import Any

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from service.bodies import LARGEST_REQUEST, read_body
from service.catalog import check_input, problems_of
from service.catalog.text import is_storable
from service.context import Context
from service.errors import Invalid
from service.front.addresses import request_urls
from service.front.errors import QueueTooLong
from service.front.hints import read_hints, read_priority, read_tags
from service.front.statuses import status_body
from service.jobs import operations, reads, routing
from service.jobs.facts import NewJob
from service.jobs.operations import Joining, Registered
from service.jsontext import NotJSON, encode, parse
from service.keys import Caller
from service.network import check_webhook_url
from service.requests import answer, authenticate, idempotency_key, read_long_json

OWN_QUERY = {"fal_webhook", "fal_max_queue_length"}
KEY_HEADERS = ("idempotency-key", "x-fal-idempotency-key")


async def submit(request: Request) -> Response:
    """200 with fal's receipt; the job is durable before it goes out."""
    caller = await authenticate(request, "submit")
    context: Context = request.state.context
    model, registered = await register(request, caller)
    request_id = str(registered.job_id)
    receipt: dict[str, Any] = {"status": "IN_QUEUE", "queue_position": 0}
    if registered.created_at is None and (row := await reads.status_of(context.db, caller.tenant_id, request_id)):
        # It may have got on, or have ended, since it was sent for the first time.
        said = status_body(context.settings.public_url, row, None)
        receipt = {name: said[name] for name in receipt if name in said}
    receipt |= {
        "request_id": request_id,
        "gateway_request_id": request_id,
        **request_urls(context.settings.public_url, model, request_id),
    }
    return answer(receipt, request_id=request_id)


async def register(request: Request, caller: Caller) -> tuple[str, Registered]:
    """The job that a call asks for, made or found again, and its model."""
    context: Context = request.state.context
    model = context.catalog.find(request.path_params["model"].strip("/"))
    value, text = await read_input(request, model.Input)
    check_input(model, value, ("body",))
    longest = read_longest_queue(request)
    webhook_url = read_webhook_url(request)
    route = await context.routes.route(context.db, caller.tenant_id, model.id)
    route = routing.within_limits(route, lambda: problems_of(model, value), ("body",))
    job = NewJob(
        id=operations.new_job_id(),
        tenant_id=caller.tenant_id,
        model=model.id,
        input=text,
        **routing.of_job(route),
        priority=read_priority(request),
        webhook_url=webhook_url,
        callback_format="fal" if webhook_url else None,
        tags=read_tags(request),
        hints=read_hints(request),
    )
    key = idempotency_key(request, *KEY_HEADERS)
    joining = Joining(caller.join_seconds, request.url.path.rstrip("/")) if caller.join_seconds else None
    # A call that is repeated adds nothing to the queue.
    if (
        longest is not None
        and not await operations.is_registered(context, job, key, joining)
        and await reads.waiting_jobs(context.db, caller.tenant_id, model.id, longest + 1) > longest
    ):
        raise QueueTooLong
    return model.id, await operations.register(context, job, key, joining)


async def read_input(request: Request, schema: type[BaseModel] | None) -> tuple[Any, str]:
    """The input and its JSON text, which goes on as it came; a call without a body has an empty one."""
    if request.method == "GET":
        value = read_query(request, schema)
        return value, encode(value).decode(errors="replace")
    body = await read_body(request, LARGEST_REQUEST) or b"{}"
    return await read_long_json(request, body), body.decode()


def read_query(request: Request, schema: type[BaseModel] | None) -> dict[str, Any]:
    """The input of a call by GET, where all is text: what may not be text is read as JSON.

    A list stands there as its name once for each, or, as fal's client for JavaScript has it, with commas.
    """
    shape = schema.model_json_schema() if schema else {}
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for name in request.query_params if name not in OWN_QUERY):
        values = request.query_params.getlist(name)
        kinds = _kinds(shape, shape.get("properties", {}).get(name, {}))
        if "array" in kinds:
            items = _kinds(shape, _items(shape, shape["properties"][name]))
            found[name] = [_value(each, items) for each in (values if len(values) > 1 else _listed(values[0]))]
        else:
            found[name] = _value(values[-1], kinds)
    return found


# A comma may stand in an address, and does in a data URI: only one before another address parts two of them.
_ADDRESS = re.compile(r"(?:https?|data):", re.IGNORECASE)
_BETWEEN_ADDRESSES = re.compile(r",(?=(?:https?|data):)", re.IGNORECASE)


def _listed(text: str) -> list[str]:
    return _BETWEEN_ADDRESSES.split(text) if _ADDRESS.match(text) else text.split(",")


def _kinds(shape: dict[str, Any], field: dict[str, Any]) -> set[str]:
    """JSON's names of what a field may be; nothing when its schema does not say."""
    if "$ref" in field:
        field = shape["$defs"][field["$ref"].rpartition("/")[2]]
    kinds = {field["type"]} if "type" in field else set()
    return kinds.union(*(_kinds(shape, each) for each in [*field.get("anyOf", ()), *field.get("oneOf", ())]))


def _items(shape: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    choices = [field, *field.get("anyOf", ()), *field.get("oneOf", ())]
    return next((dict(each["items"]) for each in choices if "items" in each), {})


def _value(text: str, kinds: set[str]) -> Any:
    if not kinds or "string" in kinds:
        return text
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


def read_longest_queue(request: Request) -> int | None:
    """How many requests may wait for this one to be taken."""
    text = request.query_params.get("fal_max_queue_length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Invalid.at("query", "fal_max_queue_length", msg="Must be a whole number.", kind="int_parsing")
    return int(text)
