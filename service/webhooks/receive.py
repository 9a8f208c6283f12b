"""The door for providers: verify, settle, answer. 2xx only once the news is durable."""

import hashlib
from time import perf_counter
from uuid import UUID

import structlog
from starlette.requests import Request
from starlette.responses import Response

from service.bodies import read_body
from service.catalog.text import storable
from service.condition.refusals import Refusals
from service.context import Context
from service.errors import SignatureRejected, UnsupportedMedia
from service.jobs import due, filing, guards, operations, runs, watching
from service.jobs.facts import Evidence
from service.jobs.lifecycle import Source, Verdict
from service.jsontext import encode
from service.providers.base import Provider
from service.providers.fal import Envelope, Incomplete, Unreadable, ending_of, read_envelope
from service.providers.signatures import KeysUnavailable, Signed, read_headers
from service.queue import TaskName

log = structlog.get_logger()

LARGEST_WEBHOOK = 16 * 2**20
HTTP_UNAVAILABLE = 503


async def receive_fal(request: Request) -> Response:
    """A forger learns nothing from the answer: every cause of a refusal looks the same. We count them by cause."""
    return await _counted(request, request.state.context.fal)


async def receive_gpu(request: Request) -> Response:
    """From a GPU worker: the same news at another address, on which only the workers' own keys count."""
    return await _counted(request, request.state.context.gpu)


async def _counted(request: Request, provider: Provider) -> Response:
    refusals: Refusals = request.state.refusals
    try:
        return await _receive(request, provider)
    except SignatureRejected as error:
        refusals.count(error.reason)
        raise
    except KeysUnavailable:
        refusals.count("keys_away")
        raise


async def _receive(request: Request, provider: Provider) -> Response:
    started = perf_counter()
    context: Context = request.state.context
    if "content-encoding" in request.headers:
        raise UnsupportedMedia
    signed = read_headers(request.headers.raw)
    job_id, attempt, model = await _address(context, request, provider.name)
    of_fal = provider.name == context.fal.name
    if of_fal and context.settings.fal_user_id not in {None, signed.user_id}:
        raise SignatureRejected.because("account")
    body = await read_body(request, LARGEST_WEBHOOK)
    if of_fal:
        await context.fal_keys.verify(signed, body)
    else:
        await context.gpu_keys.verify(signed, hashlib.sha256(body).hexdigest())
    verdict = await _apply(context, job_id, attempt, model, signed, body, started, provider.name)
    # News that cannot be read is no end: when its worker falls silent, the run counts as a crash.
    if not of_fal and verdict not in {Verdict.UNREADABLE, Verdict.INCOMPLETE}:
        await runs.finish(context.db, job_id, attempt)
    if verdict not in {Verdict.APPLIED, Verdict.DUPLICATE}:
        log.warning("webhook not applied", job_id=str(job_id), attempt=attempt, verdict=verdict)
    return Response(encode({"verdict": verdict}), media_type="application/json")


async def _address(context: Context, request: Request, provider: str) -> tuple[UUID, int, str]:
    """The attempt that the address names, if the seal on it is ours. Raises SignatureRejected."""
    path = request.path_params
    try:
        job_id, attempt = UUID(path["job_id"]), int(path["attempt"])
    except ValueError:
        raise SignatureRejected.because("address") from None
    if (str(job_id), str(attempt)) != (path["job_id"], path["attempt"]):
        raise SignatureRejected.because("address")  # The same numbers in another spelling: we never wrote it so.
    sealer = await context.sealer()
    if not sealer.holds(job_id, attempt, path["model"], path["seal"], provider):
        raise SignatureRejected.because("address")
    return job_id, attempt, path["model"]


async def _apply(
    context: Context,
    job_id: UUID,
    attempt: int,
    model: str,
    signed: Signed,
    body: bytes,
    started: float,
    provider: str,
) -> Verdict:
    headers = encode(
        {"request_id": signed.request_id, "user_id": signed.user_id, "timestamp": signed.timestamp}
        | {"signature": signed.signature}
        | ({} if provider == context.fal.name else {"provider": provider})
    ).decode()

    def evidence(envelope: Envelope | None = None) -> Evidence:
        return Evidence(
            Source.WEBHOOK,
            body,
            headers,
            request_id=signed.request_id,
            gateway_request_id=envelope.gateway_request_id if envelope else None,
            age=perf_counter() - started,
        )

    envelope = None
    try:
        envelope = read_envelope(body)
        if envelope.request_id != signed.request_id:
            return await filing.file_report(context.db, job_id, attempt, evidence(envelope), None, Verdict.FOREIGN)
        ending = ending_of(envelope)
    except Unreadable:
        verdict = Verdict.UNREADABLE
    except Incomplete:
        verdict = Verdict.INCOMPLETE
    else:
        # That there was no room or no server for it is the worker's word of itself and no model's own answer.
        could_not = provider == context.gpu.name and ending.http_status == HTTP_UNAVAILABLE
        if could_not and await watching.pass_on(context, job_id, attempt, model, ending.error or ""):
            return await filing.file_report(context.db, job_id, attempt, evidence(envelope), ending)
        return await operations.end(context, job_id, attempt, model, ending, evidence(envelope))
    filed = await filing.file_report(context.db, job_id, attempt, evidence(), None, verdict)
    # Signed for our sealed address: whatever the body lacks, the provider has this attempt, and calls it so.
    gateway_id = storable(envelope.gateway_request_id, guards.NAME_EXCERPT) if envelope else None
    named = await due.record_name(context.db, job_id, attempt, signed.request_id, gateway_id)
    if named or await due.look_now(context.db, job_id, attempt):
        context.nudger.nudge(TaskName.WATCH)
    return filed
