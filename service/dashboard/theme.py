"""Light, dark, or as the system has it: remembered by the browser."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.dashboard.access import acting_or_looking, over_https, way_back
from service.dashboard.pages import HEADERS, THEME_COOKIE, THEMES

YEAR_SECONDS = 365 * 86_400


async def choose_theme(request: Request) -> Response:
    _, form = await acting_or_looking(request)
    response = RedirectResponse(way_back(form.get("next", "")), 303, HEADERS)
    if (theme := form.get("theme")) in THEMES:
        secure = over_https(request)
        response.set_cookie(
            THEME_COOKIE, theme, max_age=YEAR_SECONDS, path="/dashboard", secure=secure, httponly=True, samesite="lax"
        )
    else:
        response.delete_cookie(THEME_COOKIE, path="/dashboard")
    return response
