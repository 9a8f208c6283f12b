"""Who looks at the dashboard, and what they may see and do there.

Every page asks `signed_in`, every action `acting`; nothing else opens the dashboard.
"""

import hmac
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlsplit
from uuid import UUID

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from service.bodies import read_body
from service.context import Context
from service.errors import BadRequest, Forbidden, Unauthenticated
from service.keys import Caller
from service.requests import answer
from service.sessions import Sessions, form_token

HOME = "/dashboard"
SIGN_IN = "/dashboard/sign-in"

LARGEST_FORM = 64 * 1024
MOST_FIELDS = 1_000

Form = ImmutableMultiDict[str, str]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks. `tenant_id` is None for an administrator, who sees all tenants; `caller` is whose key it is.

    Without `may_see_payloads` no input, output, prompt, picture, evidence byte or file name is shown. `csrf` goes into
    each form as the field `csrf`.
    """

    caller: Caller
    tenant_id: UUID | None
    may_act: bool
    may_see_payloads: bool
    csrf: str

    @property
    def is_admin(self) -> bool:
        return self.tenant_id is None

    @property
    def tenant(self) -> str:
        """The name of the tenant that the key belongs to."""
        return self.caller.tenant


class NotSignedIn(Unauthenticated):
    """There is no session, or it is over."""

    message = "Sign in at /dashboard/sign-in."


class NotFromHere(Forbidden):
    message = "This form was not sent from a page of this dashboard; reload the page and try again."


async def signed_in(request: Request, *, in_use: bool = True) -> Viewer:
    """Who has the session that the cookie names. Raises NotSignedIn.

    `in_use` is False for what a page asks by itself, such as a stream of changes: it keeps no session alive.
    """
    sessions: Sessions = request.state.sessions
    token = request.cookies.get(cookie_name(request))
    caller = await sessions.find(token, in_use=in_use) if token else None
    if token is None or caller is None or not caller.may("metrics"):
        raise NotSignedIn
    return viewer_of(caller, token)


def viewer_of(caller: Caller, token: str) -> Viewer:
    return Viewer(
        caller=caller,
        tenant_id=None if caller.may("admin") else caller.tenant_id,
        may_act=caller.may("submit") and caller.may("read"),
        may_see_payloads=caller.may("read"),
        csrf=form_token(token),
    )


async def acting(request: Request) -> tuple[Viewer, Form]:
    """Who sent a form that changes something, and what is in it. Raises NotSignedIn, NotFromHere or Forbidden."""
    viewer, form = await acting_or_looking(request)
    if not viewer.may_act:
        raise Forbidden("This key may look, and change nothing.")
    return viewer, form


async def acting_or_looking(request: Request) -> tuple[Viewer, Form]:
    """As `acting`, for a form that whoever is signed in may send. Raises NotSignedIn or NotFromHere."""
    insist_from_here(request)
    viewer, form = await signed_in(request), await read_form(request)
    if not hmac.compare_digest(form.get("csrf", "").encode("utf-8", "replace"), viewer.csrf.encode()):
        raise NotFromHere
    return viewer, form


def insist_from_here(request: Request) -> None:
    """Browsers say where a form comes from; other origins' are refused, and those of nowhere. Raises NotFromHere."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site not in {"same-origin", "none"}:
        raise NotFromHere
    context: Context = request.state.context
    here = {urlsplit(context.settings.public_url).netloc, request.headers.get("host", "")}
    if origin is None:
        if site is None:
            raise NotFromHere
    elif urlsplit(origin).netloc.lower() not in {each.lower() for each in here if each}:
        raise NotFromHere


async def read_form(request: Request) -> Form:
    """Raises BadRequest."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise BadRequest("This takes forms.")
    body = await read_body(request, LARGEST_FORM)
    try:
        fields = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError:
        raise BadRequest("The form could not be read.") from None
    return ImmutableMultiDict(fields)


def cookie_name(request: Request) -> str:
    """Over https with a prefix that lets no other host or path of the domain set it."""
    return "__Host-roundtrip" if over_https(request) else "roundtrip"


def over_https(request: Request) -> bool:
    """As browsers see it: behind a proxy the request itself may have come without."""
    context: Context = request.state.context
    return context.settings.public_url.startswith("https://")


def set_cookie(request: Request, response: Response, token: str) -> None:
    """It ends with the browser, or when the session does."""
    response.set_cookie(
        cookie_name(request), token, path="/", secure=over_https(request), httponly=True, samesite="lax"
    )


def delete_cookie(request: Request, response: Response) -> None:
    secure = over_https(request)
    response.delete_cookie(cookie_name(request), path="/", secure=secure, httponly=True, samesite="lax")


async def on_not_signed_in(request: Request, error: Exception) -> Response:
    """A page is asked for again after the sign-in; what a page asked by itself is refused."""
    assert isinstance(error, NotSignedIn)
    if request.method in {"GET", "HEAD"} and "text/html" in request.headers.get("accept", ""):
        asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{SIGN_IN}?next={quote(asked)}", 303, {"cache-control": "no-store"})
    return answer(error.body(), error.status)


def way_back(path: str) -> str:
    """Where to go after the sign-in: a page of the dashboard and nowhere else."""
    known = path == HOME or path.startswith((f"{HOME}/", f"{HOME}?"))
    place = path.partition("?")[0]
    # A browser takes `%2e%2e` for `..`, so that nothing escaped may stand there either.
    plain = path.isascii() and path.isprintable() and not any(each in place for each in ("\\", "//", "..", "%"))
    return path if known and plain and not path.startswith(SIGN_IN) else HOME
