"""What can be done to a job from its page. Each is a form, and ends at a page that says what was done."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.context import Context
from service.dashboard.access import acting
from service.dashboard.job import job_of
from service.dashboard.pages import HEADERS
from service.errors import Conflict, Forbidden, NotFound
from service.jobs import operations, reads
from service.jobs.replaying import NoSuchReport, ReportRemoved, replay
from service.queue import TaskName
from service.retention import removing


async def do_something(request: Request) -> Response:
    """303 to the job, or to the new one. Raises NotSignedIn, NotFromHere, Forbidden, NotFound, Conflict or Gone."""
    viewer, _ = await acting(request)
    context: Context = request.state.context
    row = await job_of(request, viewer)
    job_id, said = row["id"], request.path_params["action"]
    match said:
        case "cancel":
            if not await operations.cancel(context, job_id):
                said = "nothing"
        case "force":
            if not viewer.is_admin:
                raise Forbidden("Only an administrator may do that.")
            if not await operations.force_end(context.db, job_id):
                said = "nothing"
            context.nudger.nudge(TaskName.WATCH)
        case "retry":
            registered = await operations.retry(context, await operations.repeated(context, row), row["status"])
            job_id = registered.job_id
        case "redeliver":
            await operations.redeliver(context, row)
        case "hold":
            if not await removing.hold(context.db, job_id):
                raise NotFound("There is no such job.")
        case "release":
            await removing.release(context.db, job_id)
        case _:
            raise NotFound
    return _to(f"/dashboard/jobs/{job_id}?said={said}")


async def apply_report(request: Request) -> Response:
    """Let a recorded report end its job, if it can: only one that has not ended."""
    viewer, _ = await acting(request)
    context: Context = request.state.context
    row = await job_of(request, viewer)
    report_id: int = request.path_params["report_id"]
    if await reads.report_of(context.db, row["id"], report_id) is None:
        raise NotFound("The job has no such report.")
    try:
        replayed = await replay(
            context.db, context.catalog, report_id, user_id=context.settings.fal_user_id, apply=True
        )
    except ReportRemoved:
        raise Conflict("The bytes of this report were removed, as its tenant wanted.") from None
    except NoSuchReport:
        raise NotFound("The job has no such report.") from None
    for task in (TaskName.COPY, TaskName.DELIVER, TaskName.WATCH):
        context.nudger.nudge(task)
    said = "applied" if replayed.verdict == "applied" else "not-applied"
    return _to(f"/dashboard/jobs/{row['id']}?said={said}")


def _to(address: str) -> Response:
    return RedirectResponse(address, 303, HEADERS)
