"""Pages that stay current: the same address, asked for as JSON, answers with the parts of the page that may change."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from service.dashboard.pages import HEADERS, Page, shown, told
from service.dashboard.scope import is_refresh
from service.jsontext import encode
from service.requests import JSON


async def answered(request: Request, page: Page) -> Response:
    if not is_refresh(request):
        return await shown(request, page)
    live = [part for part in page.parts if part.live]
    found = await asyncio.gather(*(told(request, page, part) for part in live))
    body = encode({part.name: str(html) for part, html in zip(live, found, strict=True)})
    return Response(body, headers=HEADERS, media_type=JSON)
