"""The door for GPU workers, before the end: may I begin, I am alive, here is a file, here I am.

Whatever they say is signed with a key that an operator registered; what concerns a job comes to its sealed address.
"""

import hashlib
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response

from service.artifacts import inputs
from service.artifacts.decoders import PictureRefused, Starved
from service.artifacts.filing import file, spooled
from service.artifacts.links import FileLinks
from service.artifacts.pictures import OCTETS, Picture, measure_in_child
from service.artifacts.records import Measured
from service.artifacts.serving import clean_name
from service.artifacts.storage import TooLarge
from service.bodies import read_body
from service.catalog.text import storable
from service.context import Context
from service.errors import BadRequest, BodyTooLarge, SignatureRejected, Unavailable
from service.gpu.calls import Beat, Hello, Start
from service.gpu.queues import request_id_of
from service.jobs import runs
from service.jobs.runs import NoGo
from service.jsontext import Raw, encode
from service.providers.signatures import read_headers
from service.queue import TaskName

log = structlog.get_logger()

LARGEST_WORD = 256 * 2**10
LARGEST_FILE = 512 * 2**20
MOST_LINES_A_BEAT = 100
# Of inputs that are named ahead of their turn.
MOST_AHEAD_BYTES = 2**20
LONGEST_LINE = 2_000
Word = TypeVar("Word", Start, Beat, Hello)


async def start_run(request: Request) -> Response:
    """`{"run", "input", "next"}`, or `{"no": reason}`. `next` are those whose pictures may be fetched meanwhile, and
    for which the worker may ask without having their message."""
    context: Context = request.state.context
    links: FileLinks = request.state.links
    job_id, attempt = await _address(request)
    word, key_id = await _said(request, Start)
    name = request_id_of(job_id, attempt)
    begun = await runs.start(
        *(context.db, job_id, attempt, context.gpu.name, word.worker, key_id, name), again=word.again, fresh=word.fresh
    )
    if isinstance(begun, NoGo):
        if begun is NoGo.CRASHED:
            context.nudger.nudge(TaskName.WATCH)
        log.info("a GPU worker is not to begin", job_id=str(job_id), attempt=attempt, why=begun.value)
        return _answer({"no": begun.value})
    said: dict[str, Any] = {"run": begun.number, "input": Raw(inputs.shown(begun.input, links).encode())}
    if word.ahead:
        said["next"] = await _next(request, begun.model, word.ahead)
    return _answer(said)


async def _next(request: Request, model: str, most: int) -> list[dict[str, Any]]:
    context: Context = request.state.context
    links: FileLinks = request.state.links
    room, found = MOST_AHEAD_BYTES, []
    for each in await runs.in_line(context.db, model, most):
        shown = inputs.shown(each.input, links).encode()
        if (room := room - len(shown)) < 0:
            break
        found.append({"ticket": await context.gpu.ticket(each.job_id, each.attempt, model), "input": Raw(shown)})
    return found


async def hear_beat(request: Request) -> Response:
    """`{"stop": reason or null}`."""
    context: Context = request.state.context
    job_id, attempt = await _address(request)
    word, _ = await _said(request, Beat)
    lines = [storable(line, LONGEST_LINE) or "" for line in word.lines[:MOST_LINES_A_BEAT]]
    stop = await runs.beat(context.db, job_id, attempt, word.run, word.worker, word.done, word.of, lines)
    return _answer({"stop": stop.value if stop else None})


async def keep_file(request: Request) -> Response:
    """A file of an output, before the webhook that names it: `{"url"}`, under which it is stored here."""
    context: Context = request.state.context
    links: FileLinks = request.state.links
    await _address(request)
    signed = read_headers(request.headers.raw)
    try:
        async with spooled(context.storage, request.stream(), LARGEST_FILE) as received:
            await context.gpu_keys.verify(signed, received.sha256)
            try:
                picture, _ = await measure_in_child(received.path, mask=False)
            except (Starved, OSError) as error:
                raise Unavailable("The file could not be looked at in time; send it again.") from error
            except PictureRefused:
                picture = Picture(OCTETS, None, None)  # It is stored all the same; its copy has a remark.
            produced = Measured(received.sha256, received.size, picture.content_type, picture.width, picture.height)
            await file(context.db, context.storage, received, produced)
    except TooLarge:
        raise BodyTooLarge(f"A file may have at most {LARGEST_FILE:,} bytes.") from None
    return _answer({"url": links.url(produced.sha256, clean_name(request.path_params["name"]))})


async def hear_worker(request: Request) -> Response:
    context: Context = request.state.context
    word, key_id = await _said(request, Hello)
    await runs.hello(context.db, word.worker, key_id, word.model, word.device[:100], word.state)
    return _answer({})


async def _address(request: Request) -> tuple[UUID, int]:
    """Raises SignatureRejected, whatever is wrong with it."""
    context: Context = request.state.context
    path = request.path_params
    try:
        job_id = UUID(path["job_id"])
    except ValueError:
        raise SignatureRejected from None
    sealer = await context.sealer()
    if str(job_id) != path["job_id"] or not sealer.holds_run(job_id, path["attempt"], path["seal"]):
        raise SignatureRejected
    return job_id, path["attempt"]


async def _said(request: Request, shape: type[Word]) -> tuple[Word, str]:
    """What a worker says, and the ID of its key. Each kind names itself, so that none can be sent on as another."""
    context: Context = request.state.context
    signed = read_headers(request.headers.raw)
    body = await read_body(request, LARGEST_WORD)
    key_id = await context.gpu_keys.verify(signed, hashlib.sha256(body).hexdigest())
    try:
        word = msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None
    if word.about != request.url.path:
        raise SignatureRejected
    return word, key_id


def _answer(content: dict[str, Any]) -> Response:
    return Response(encode(content), media_type="application/json")
