"""Signing in with a key, and out again."""

from math import ceil

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from service.dashboard.access import (
    HOME,
    NotSignedIn,
    acting_or_looking,
    cookie_name,
    delete_cookie,
    insist_from_here,
    read_form,
    set_cookie,
    signed_in,
    way_back,
)
from service.dashboard.attempts import Attempts
from service.dashboard.pages import HEADERS, templates, theme_of
from service.db import DatabaseAway
from service.errors import Unauthenticated
from service.keys import KeyRing
from service.sessions import Sessions

# One answer for an unknown key, a wrong secret, a revoked key, and one that may not look.
WRONG = "This key does not open the dashboard."
LARGEST_KEY = 1_000


async def show_sign_in(request: Request) -> Response:
    """Who is signed in already goes on."""
    back = way_back(request.query_params.get("next", HOME))
    try:
        await signed_in(request)
    except (NotSignedIn, DatabaseAway):
        return _page(request, back)
    return RedirectResponse(back, 303)


async def sign_in(request: Request) -> Response:
    """303 with the cookie; 401 for a key that opens nothing; 429 for an address that was wrong too often."""
    insist_from_here(request)
    form = await read_form(request)
    back, key = way_back(form.get("next", HOME)), form.get("key", "").strip()
    key_id = key.partition(":")[0][:LARGEST_KEY]
    attempts: Attempts = request.state.attempts
    address = request.client.host if request.client else ""
    if wait := attempts.wait_seconds(address, key_id):
        words = f"Too many attempts from this address; try again in {ceil(wait)} seconds. The key itself is not locked."
        return _page(request, back, words, 429, {"retry-after": str(ceil(wait))})
    keys: KeyRing = request.state.keys
    try:
        caller = await keys.caller(f"Key {key[:LARGEST_KEY]}")
        if not caller.may("metrics"):
            raise Unauthenticated
    except Unauthenticated:
        attempts.failed(address, key_id)
        return _page(request, back, WRONG, 401)
    sessions: Sessions = request.state.sessions
    if before := request.cookies.get(cookie_name(request)):
        await sessions.close(before)
    response = RedirectResponse(back, 303, {"cache-control": "no-store"})
    set_cookie(request, response, await sessions.open(caller.key_id))
    return response


async def sign_out(request: Request) -> Response:
    """The session is over at once, everywhere."""
    await acting_or_looking(request)
    sessions: Sessions = request.state.sessions
    await sessions.close(request.cookies[cookie_name(request)])
    response = RedirectResponse("/dashboard/sign-in", 303, {"cache-control": "no-store"})
    delete_cookie(request, response)
    return response


def _page(
    request: Request, back: str, problem: str = "", status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    page = templates.get_template("sign_in.html").render(back=back, problem=problem, theme=theme_of(request))
    return HTMLResponse(page, status, {**HEADERS, **(headers or {})})
