"""What is told of a run's outcome: fal's status codes and bodies."""

import structlog

from service.errors import Invalid
from service.gpu.outbox import KeptFile, Result, taken_apart
from service.gpu.queues import Ticket
from service.gpu.runtimes.base import InputRefused, OutOfMemory, ProducedFile, Product, RuntimeFailure
from service.gpu.watch import RunWatch

log = structlog.get_logger()


def completed(ticket: Ticket, run: int, watch: RunWatch, product: Product) -> tuple[Result, list[ProducedFile]]:
    for name, note in product.notes.items():
        watch.log(f"{name}: {note}")
    payload, files, mark = taken_apart(product.output)
    kept = [KeptFile(file.file_name, file.content_type) for file in files]
    return Result(ticket, run, 200, payload, files=kept, mark=mark), files


def cancelled(ticket: Ticket, run: int) -> Result:
    words = "The job was cancelled."
    return Result(ticket, run, 499, {"detail": words, "error_type": "client_cancelled"}, words)


def failed(ticket: Ticket, run: int, watch: RunWatch, error: Exception) -> Result:
    match error:
        case InputRefused() | Invalid():
            return Result(ticket, run, 422, {"detail": error.detail})
        case OutOfMemory():
            status, kind, words = 503, "out_of_memory", f"The GPU has not enough memory for this input: {error}"
        case RuntimeFailure():  # a server beside it, for one, that is away
            status, kind, words = 503, "model_unavailable", f"The model cannot run now: {error}"
        case _:  # a model's own code may raise anything
            log.error("a run failed", request_id=ticket.request_id, exc_info=error)
            watch.log(f"{type(error).__name__}: {error}"[:2_000])
            status, kind, words = 500, "internal_error", f"The model failed: {type(error).__name__}."
    return Result(ticket, run, status, {"detail": words, "error_type": kind}, words)
