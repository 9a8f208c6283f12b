"""Signing in with a key: what a session may do, when it is over, and who cannot get or use one."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from uuid import UUID

import httpx
import pytest

from service.app import create_app
from service.context import Context
from service.dashboard.access import way_back
from service.dashboard.attempts import AT_ONCE
from service.dashboard.live import LOOK_SECONDS
from service.db import Database
from service.keys import Caller, digest, revoke_key
from service.sessions import Sessions, forget, form_token
from service.settings import Settings
from tests import making
from tests.conftest import MakeClient
from tests.dashboard.looking import (
    COOKIE,
    attributes_of,
    browser,
    csrf_of,
    id_of,
    key_of,
    sign_in,
    signed_in,
    token_of,
)
from tests.serving import serving

HOUR = 3_600.0


@pytest.fixture
async def visitor(api: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that has no session."""
    async with browser(api) as client:
        yield client


async def opens(client: httpx.AsyncClient) -> bool:
    """Whether the browser's session is one: who has one is not asked to sign in."""
    answer = await client.get("/dashboard/sign-in")
    assert answer.status_code in {200, 303}
    return answer.status_code == 303


async def test_a_key_is_exchanged_for_a_cookie(visitor: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    answer = await sign_in(visitor, key_of(client))
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard")
    assert attributes_of(answer) == {"httponly": "", "path": "/", "samesite": "lax"}
    assert await opens(visitor)


async def test_over_https_the_cookie_is_of_this_host_alone(settings: Settings, client: httpx.AsyncClient) -> None:
    there = settings.model_copy(update={"public_url": "https://roundtrip.example"})
    async with serving(create_app(there)) as url, browser(url) as visitor:
        visitor.headers["origin"] = "https://roundtrip.example"
        answer = await sign_in(visitor, key_of(client))
        name, _, token = answer.headers["set-cookie"].partition(";")[0].partition("=")
        assert name == "__Host-roundtrip"
        assert attributes_of(answer) == {"httponly": "", "path": "/", "samesite": "lax", "secure": ""}
        # Behind a proxy, which speaks to us without: the browser does not.
        visitor.headers["cookie"] = f"{name}={token}"
        chosen = await visitor.post("/dashboard/theme", data={"csrf": form_token(token), "theme": "dark"})
        assert chosen.status_code == 303
        assert attributes_of(chosen)["secure"] == ""


async def test_of_a_cookie_only_its_hash_is_kept(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, db: Database
) -> None:
    await sign_in(visitor, key_of(client))
    [row] = await db.fetch("SELECT * FROM sessions")
    assert bytes(row["token_sha256"]) == digest(token_of(visitor))
    assert token_of(visitor) not in str(dict(row))


async def test_every_sign_in_makes_a_new_session_and_ends_the_old_one(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, db: Database
) -> None:
    await sign_in(visitor, key_of(client))
    first = token_of(visitor)
    await sign_in(visitor, key_of(client))
    assert token_of(visitor) != first
    assert await making.count(db, "sessions") == 1


@pytest.mark.parametrize("key", ["{id}:wrong", "nobody:wrong", "", "{id}", ":", "{id}:{secret}x", "x" * 5_000])
async def test_what_is_wrong_with_a_key_is_not_told(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, db: Database, key: str
) -> None:
    key_id, _, secret = key_of(client).partition(":")
    told = await sign_in(visitor, key.format(id=key_id, secret=secret))
    other = await sign_in(visitor, "no-such-key:secret")
    assert told.status_code == other.status_code == 401
    assert told.text == other.text
    assert (visitor.cookies.get(COOKIE), await making.count(db, "sessions")) == (None, 0)


async def test_a_key_that_may_only_submit_does_not_look(visitor: httpx.AsyncClient, make_client: MakeClient) -> None:
    answer = await sign_in(visitor, key_of(await make_client(scopes=("submit",))))
    assert answer.status_code == 401
    assert not await opens(visitor)


async def test_a_revoked_key_ends_its_sessions(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, settings: Settings
) -> None:
    await sign_in(visitor, key_of(client))
    assert await opens(visitor)
    assert await revoke_key(settings.require_database_url(), id_of(client))
    assert not await opens(visitor)
    # Also where the key itself is remembered for some seconds.
    await sign_in(visitor, key_of(client))
    assert not await opens(visitor)


async def test_a_session_may_what_its_key_may_now(context: Context, make_client: MakeClient) -> None:
    sessions = Sessions(context.db, HOUR, HOUR)
    client = await make_client(scopes=("read", "submit"))
    token = await sessions.open(id_of(client))
    await context.db.execute("UPDATE api_keys SET scopes = '{metrics}' WHERE id = $1", id_of(client))
    caller = await sessions.find(token)
    assert caller is not None
    assert caller.scopes == {"metrics"}


@pytest.mark.parametrize(("column", "alive"), [("seen_at", 99.0), ("created_at", 999.0)])
async def test_a_session_ends_when_it_is_idle_and_in_any_case(
    context: Context, client: httpx.AsyncClient, column: str, alive: float
) -> None:
    sessions = Sessions(context.db, 100.0, 1_000.0)
    token = await sessions.open(id_of(client))
    await age(context.db, column, alive - 10)
    assert await sessions.find(token, in_use=False) is not None
    await age(context.db, column, 11)
    assert await sessions.find(token) is None
    await forget(context.db, 100.0, 1_000.0)
    assert await making.count(context.db, "sessions") == 0


async def age(db: Database, column: str, seconds: float) -> None:
    await db.execute(f"UPDATE sessions SET {column} = {column} - make_interval(secs => $1)", seconds)


async def test_use_keeps_a_session_alive_and_a_stream_does_not(context: Context, client: httpx.AsyncClient) -> None:
    sessions = Sessions(context.db, 100.0, 1_000.0)
    token = await sessions.open(id_of(client))
    await age(context.db, "seen_at", 60)
    assert await sessions.find(token, in_use=False) is not None
    await age(context.db, "seen_at", 30)
    assert await sessions.find(token) is not None
    await age(context.db, "seen_at", 60)
    assert await sessions.find(token) is not None


async def test_a_session_that_is_used_all_the_time_is_not_written_all_the_time(
    context: Context, client: httpx.AsyncClient
) -> None:
    sessions = Sessions(context.db, HOUR, HOUR)
    token = await sessions.open(id_of(client))
    [before] = await context.db.fetch("SELECT xmin::text AS version FROM sessions")
    for _ in range(5):
        assert await sessions.find(token) is not None
    assert await context.db.fetch("SELECT xmin::text AS version FROM sessions") == [before]


async def test_forgetting_leaves_the_sessions_that_hold(context: Context, client: httpx.AsyncClient) -> None:
    sessions = Sessions(context.db, HOUR, HOUR)
    token = await sessions.open(id_of(client))
    await forget(context.db, HOUR, HOUR)
    assert await sessions.find(token) is not None


async def test_signing_out_ends_the_session_for_whoever_has_the_cookie(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    await sign_in(visitor, key_of(client))
    token = token_of(visitor)
    answer = await visitor.post("/dashboard/sign-out", data={"csrf": csrf_of(visitor)})
    assert (answer.status_code, visitor.cookies.get(COOKIE)) == (303, None)
    visitor.cookies.set(COOKIE, token)
    assert not await opens(visitor)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/dashboard/sign-in", "/dashboard/sign-out"])
async def test_a_form_of_another_origin_does_nothing(
    api: str, client: httpx.AsyncClient, headers: dict[str, str], path: str
) -> None:
    async with signed_in(api, key_of(client)) as visitor:
        fields = {"key": key_of(client), "csrf": csrf_of(visitor)}
        answer = await visitor.post(path, data=fields, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert await opens(visitor)


async def test_a_form_of_nowhere_does_nothing(api: str, client: httpx.AsyncClient) -> None:
    async with signed_in(api, key_of(client)) as visitor:
        del visitor.headers["origin"]
        assert (await visitor.post("/dashboard/sign-out", data={"csrf": csrf_of(visitor)})).status_code == 403


async def test_a_form_needs_the_token_of_its_own_session(
    api: str, client: httpx.AsyncClient, make_client: MakeClient
) -> None:
    other = await make_client()
    async with signed_in(api, key_of(client)) as visitor, signed_in(api, key_of(other)) as another:
        for csrf in (csrf_of(another), "", "é", token_of(visitor)):
            assert (await visitor.post("/dashboard/sign-out", data={"csrf": csrf})).status_code == 403
        assert (await visitor.post("/dashboard/sign-out")).status_code in {400, 403}
        assert await opens(visitor)


async def test_an_address_that_guesses_waits_and_the_key_is_not_locked(
    settings: Settings, client: httpx.AsyncClient, make_client: MakeClient
) -> None:
    other = await make_client()
    key_id = id_of(client)
    async with serving(create_app(settings)) as url, browser(url) as visitor:
        told = [await sign_in(visitor, f"{key_id}:guess-{number}") for number in range(AT_ONCE + 2)]
        assert [each.status_code for each in told] == [401] * AT_ONCE + [429] * 2
        assert int(told[-1].headers["retry-after"]) >= 1
        # From the same address another key opens, and the guessed one goes on working over REST.
        assert (await sign_in(visitor, key_of(other))).status_code == 303
        async with httpx.AsyncClient(base_url=url, headers=dict(client.headers), trust_env=False) as rest:
            assert (await rest.get("/v1/jobs")).status_code == 200
    # And signs in from elsewhere: here, at another process that knows nothing of the guesses.
    async with serving(create_app(settings)) as url, browser(url) as visitor:
        assert (await sign_in(visitor, key_of(client))).status_code == 303


async def test_those_who_are_right_are_never_made_to_wait(settings: Settings, client: httpx.AsyncClient) -> None:
    async with serving(create_app(settings)) as url, browser(url) as visitor:
        for _ in range(AT_ONCE + 5):
            assert (await sign_in(visitor, key_of(client))).status_code == 303


@pytest.mark.parametrize(
    ("path", "then"),
    [
        ("/dashboard", "/dashboard"),
        ("/dashboard/jobs?status=failed&tag=a%2Fb", "/dashboard/jobs?status=failed&tag=a%2Fb"),
        ("https://evil.example/dashboard", "/dashboard"),
        ("//evil.example/dashboard", "/dashboard"),
        ("/dashboard//evil.example", "/dashboard"),
        ("/dashboard\\@evil.example", "/dashboard"),
        ("/dashboardevil", "/dashboard"),
        ("/dashboard/../v1/jobs", "/dashboard"),
        ("/dashboard/%2e%2e/v1/jobs", "/dashboard"),
        ("/dashboard/sign-in?next=/dashboard", "/dashboard"),
        ("/dashboard/x\r\nset-cookie: a=b", "/dashboard"),
        ("javascript:alert(1)", "/dashboard"),
    ],
)
async def test_after_the_sign_in_one_comes_to_a_page_of_the_dashboard(
    visitor: httpx.AsyncClient, client: httpx.AsyncClient, path: str, then: str
) -> None:
    assert way_back(path) == then
    answer = await sign_in(visitor, key_of(client), next=path)
    assert answer.headers["location"] == then


async def test_what_is_asked_for_without_a_session_is_told_so(visitor: httpx.AsyncClient) -> None:
    page = await visitor.get("/dashboard/live?x=1")
    assert page.headers["location"] == "/dashboard/sign-in?next=/dashboard/live%3Fx%3D1"
    script = await visitor.get("/dashboard/live", headers={"accept": "text/event-stream"})
    assert script.status_code == 401
    visitor.cookies.set(COOKIE, "made-up")
    assert (await visitor.get("/dashboard/live", headers={"accept": "*/*"})).status_code == 401


async def test_who_asks_for_the_headers_of_a_stream_is_not_kept(api: str, client: httpx.AsyncClient) -> None:
    async with signed_in(api, key_of(client)) as ours:
        for _ in range(2):  # The second one on the same connection.
            answer = await ours.head("/dashboard/live")
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


async def read_until(lines: AsyncIterator[str], wanted: str, within: float = 20) -> bool:
    """False: the stream ended, or said nothing of it in that time."""
    try:
        async with asyncio.timeout(within):
            async for line in lines:
                if line == wanted:
                    return True
    except TimeoutError:
        return False
    return False


async def test_an_open_page_is_told_of_changes_of_its_own_tenant(
    api: str, client: httpx.AsyncClient, stranger: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    await context.db.execute("UPDATE api_keys SET scopes = '{read}'")
    async with (
        signed_in(api, key_of(client)) as ours,
        signed_in(api, key_of(stranger)) as theirs,
        ours.stream("GET", "/dashboard/live") as told,
        theirs.stream("GET", "/dashboard/live") as not_told,
    ):
        mine, others = told.aiter_lines(), not_told.aiter_lines()
        assert await read_until(mine, "retry: 3000")
        assert await read_until(others, "retry: 3000")
        # The first look is what changes are told from.
        assert await read_until(mine, ": ping")
        await making.queued(context.db, tenant)
        assert await read_until(mine, "event: change")
        assert not await read_until(others, "event: change", within=3)


async def test_an_administrators_page_is_told_of_all(
    api: str, client: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    theirs = await making.make_tenant(context.db, "theirs")
    await making.queued(context.db, theirs)
    async with signed_in(api, key_of(client)) as ours, ours.stream("GET", "/dashboard/live") as told:
        lines = told.aiter_lines()
        assert await read_until(lines, ": ping")
        await making.queued(context.db, theirs)
        assert await read_until(lines, "event: change")


async def test_a_stream_ends_soon_after_its_key_was_revoked(
    api: str, client: httpx.AsyncClient, settings: Settings
) -> None:
    assert LOOK_SECONDS < 5
    async with signed_in(api, key_of(client)) as ours, ours.stream("GET", "/dashboard/live") as told:
        lines = told.aiter_lines()
        assert await read_until(lines, "retry: 3000")
        await revoke_key(settings.require_database_url(), id_of(client))
        assert await read_until(lines, "event: signed-out")


async def test_while_nobody_looks_nothing_is_asked(context: Context) -> None:
    from service.jobs.waiting import Waiting

    waiting = Waiting(context.db)
    looking = asyncio.create_task(waiting.look())
    async with waiting.on_all(None):
        assert waiting._viewers
    assert (waiting._viewers, waiting._viewed) == ({}, {})
    looking.cancel()


def test_scopes_bring_along_what_they_should() -> None:
    def may(*scopes: str) -> list[str]:
        caller = Caller("k", UUID(int=1), "t", frozenset(scopes))
        return [each for each in ("metrics", "read", "submit", "admin") if caller.may(each)]

    found = SimpleNamespace(
        metrics=may("metrics"), read=may("read"), submit=may("submit"), admin=may("admin"), none=may()
    )
    assert found == SimpleNamespace(
        metrics=["metrics"],
        read=["metrics", "read"],
        submit=["submit"],
        admin=["metrics", "read", "submit", "admin"],
        none=[],
    )
