"""Who runs the jobs, and whether they are taken at all."""

from starlette.requests import Request
from starlette.responses import Response

from service.api import rendering
from service.context import Context
from service.jobs.pauses import pauses
from service.requests import answer, authenticate


async def list_providers(request: Request) -> Response:
    """What a provider said of the account is for administrators."""
    caller = await authenticate(request, "metrics")
    context: Context = request.state.context
    paused = {row["provider"]: row for row in await pauses(context.db)}
    names = [each.name for each in context.providers]
    return answer(
        {"providers": [rendering.provider(name, paused.get(name), words=caller.may("admin")) for name in names]}
    )
