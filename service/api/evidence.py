"""What was heard of a job, by webhook, poll or result: each piece with its verdict, and its bytes untouched."""

from starlette.requests import Request
from starlette.responses import Response

from service.api import rendering
from service.context import Context
from service.errors import Invalid, NotFound
from service.jobs import reads
from service.requests import answer, authenticate, find_job

# A page; a job that is polled for days gathers thousands.
MOST_REPORTS = 500


async def list_evidence(request: Request) -> Response:
    """In order of arrival; `?after=ID` goes on behind a page."""
    context: Context = request.state.context
    caller = await authenticate(request, "metrics")
    job_id = await find_job(request, caller)
    rows = await reads.evidence_of(context.db, job_id, _after(request.query_params.get("after", "0")), MOST_REPORTS)
    own = f"{context.settings.public_url}/v1/jobs/{job_id}/evidence"
    return answer(
        {"evidence": [rendering.report(row, own, payloads=caller.may("read")) for row in rows]}, request_id=job_id
    )


async def show_evidence(request: Request) -> Response:
    """The exact bytes. They are a stranger's, so nothing that looks at them may run them."""
    context: Context = request.state.context
    job_id = await find_job(request, await authenticate(request, "read"))
    report_id: int = request.path_params["report_id"]
    body = await reads.report_body(context.db, job_id, report_id) if report_id < 2**63 else None
    if body is None:
        raise NotFound("The job has no such report.")
    headers = {
        "x-fal-request-id": str(job_id),
        "x-content-type-options": "nosniff",
        "content-disposition": f'attachment; filename="report-{report_id}"',
    }
    return Response(body, headers=headers, media_type="application/octet-stream")


def _after(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Invalid.at("query", "after", msg="Must be the ID of a report.", kind="int_parsing")
    return int(text)
