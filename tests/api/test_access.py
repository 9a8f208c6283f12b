"""Who may ask what: keys, scopes and tenants, on every route."""

from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from service.context import Context
from service.errors import Unauthenticated
from service.keys import KeyRing, create_key, ensure_admin_key, list_keys, revoke_key
from service.settings import Settings
from tests import making
from tests.api.asking import JOB, is_problem, with_files
from tests.conftest import MakeClient

PARTS = ("", "/result", "/masks", "/masks/0", "/images", "/images/0", "/timings", "/attempts", "/events", "/stream")
DRAWN = ("/overlay", *(f"/masks/0/{made}" for made in ("cutout", "overlay", "rle", "polygons")))
READS = [("GET", f"/v1/jobs/{{id}}{part}") for part in PARTS + DRAWN]
WRITES = [("POST", "/v1/jobs/{id}/cancel"), ("POST", "/v1/jobs/{id}/retry")]
COLLECTIONS = [("GET", "/v1/jobs"), ("GET", "/v1/models"), ("GET", "/v1/models/fal-ai/llava-next")]
SUBMITS = [("POST", "/v1/jobs"), ("POST", "/v1/jobs/batch"), ("POST", "/v1/files")]
ALL = READS + WRITES + COLLECTIONS + SUBMITS


async def ask(client: httpx.AsyncClient, method: str, path: str, request_id: object = "none") -> httpx.Response:
    body = b"x" if path == "/v1/files" else None
    json = None if body or method == "GET" else JOB
    return await client.request(method, path.format(id=request_id), content=body, json=json)


@pytest.mark.parametrize(("method", "path"), ALL)
async def test_nothing_is_done_without_a_key(nobody: httpx.AsyncClient, method: str, path: str) -> None:
    response = await ask(nobody, method, path)
    assert is_problem(response, 401)
    assert response.json()["error_type"] == response.headers["x-fal-error-type"] == "auth_error"


@pytest.mark.parametrize(
    "credential",
    [
        "",
        "Key",
        "Key none",
        "Key :",
        "Key none:none",
        "Bearer none:none",
        "Basic bm9uZTpub25l",
        "none:none",
        f"Key {'x' * 5_000}:y",
        f"Key x:{'y' * 5_000}",
        "Key ' OR 1=1 --:x",
        b"Key \xff\xfe:\xff",
    ],
    ids=lambda credential: repr(credential)[:30],
)
async def test_a_credential_that_is_none_is_refused(nobody: httpx.AsyncClient, credential: str | bytes) -> None:
    assert is_problem(await nobody.get("/v1/jobs", headers={"authorization": credential}), 401)


async def test_a_wrong_secret_and_an_unknown_key_read_alike(client: httpx.AsyncClient) -> None:
    key_id = client.headers["authorization"].removeprefix("Key ").partition(":")[0]
    answers = [await client.get("/v1/jobs", headers={"authorization": f"Key {each}:wrong"}) for each in (key_id, "no")]
    assert answers[0].status_code == answers[1].status_code == 401
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize("scheme", ["Key", "key", "KEY", "Bearer", "bearer"])
async def test_fals_form_and_bearer_are_both_understood(client: httpx.AsyncClient, scheme: str) -> None:
    key = client.headers["authorization"].removeprefix("Key ")
    assert (await client.get("/v1/jobs", headers={"authorization": f"{scheme} {key}"})).status_code == 200


@pytest.mark.parametrize(("method", "path"), READS + COLLECTIONS)
async def test_a_key_that_may_only_submit_reads_nothing(make_client: MakeClient, method: str, path: str) -> None:
    assert is_problem(await ask(await make_client(scopes=("submit",)), method, path), 403)


@pytest.mark.parametrize(("method", "path"), WRITES + SUBMITS)
async def test_a_key_that_may_only_read_changes_nothing(make_client: MakeClient, method: str, path: str) -> None:
    assert is_problem(await ask(await make_client(scopes=("read",)), method, path), 403)


async def test_an_admin_key_may_all(make_client: MakeClient) -> None:
    admin = await make_client(scopes=("admin",))
    assert (await admin.post("/v1/jobs", json=JOB)).status_code == 202
    assert (await admin.get("/v1/jobs")).status_code == 200


@pytest.mark.parametrize(("method", "path"), READS + WRITES)
async def test_anothers_job_is_nobodys(
    context: Context, tenant: UUID, stranger: httpx.AsyncClient, method: str, path: str
) -> None:
    job_id = await with_files(context, tenant)
    [attempt] = await making.attempts(context.db, job_id)
    foreign = await ask(stranger, method, path, job_id)
    by_their_id = await ask(stranger, method, path, attempt["provider_request_id"])
    absent = await ask(stranger, method, path, uuid7())
    assert is_problem(foreign, 404)
    assert foreign.content == by_their_id.content == absent.content
    assert await making.events(context.db, job_id) == ["registered", "submitting", "accepted", "completed"]


async def test_a_list_shows_nothing_of_another_tenant(
    context: Context, tenant: UUID, client: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    for _ in range(3):
        await making.queued(context.db, tenant, tags=["t"], metadata='{"k": "v"}')
    for query in ("", "?tag=t", "?metadata.k=v", "?q=What", "?status=queued", "?model=fal-ai/llava-next"):
        theirs = (await stranger.get(f"/v1/jobs{query}")).json()
        assert theirs == {"jobs": [], "next_cursor": None, "previous_cursor": None, "searched_to": None}
        assert len((await client.get(f"/v1/jobs{query}")).json()["jobs"]) == 3


async def test_a_cursor_of_another_tenant_opens_nothing(
    client: httpx.AsyncClient, stranger: httpx.AsyncClient, context: Context, tenant: UUID
) -> None:
    for _ in range(3):
        await making.queued(context.db, tenant)
    cursor = (await client.get("/v1/jobs?limit=1")).json()["next_cursor"]
    assert (await stranger.get("/v1/jobs", params={"cursor": cursor})).json()["jobs"] == []


# Keys


async def test_a_key_is_made_listed_and_revoked(context: Context, settings: Settings) -> None:
    url = settings.require_database_url()
    key = await create_key(url, "new tenant", ["read"])
    caller = await KeyRing(context.db).caller(f"Key {key}")
    assert (caller.tenant, caller.may("read"), caller.may("submit")) == ("new tenant", True, False)
    assert [row.id for row in await list_keys(url)] == [caller.key_id]
    assert [await revoke_key(url, caller.key_id) for _ in range(2)] == [True, False]
    with pytest.raises(Unauthenticated):
        await KeyRing(context.db).caller(f"Key {key}")


async def test_the_secret_of_a_key_is_not_kept(context: Context, settings: Settings) -> None:
    key = await create_key(settings.require_database_url(), "ours", ["read"])
    [row] = await context.db.fetch("SELECT * FROM api_keys")
    assert key.partition(":")[2] not in repr(dict(row))


async def test_a_ring_remembers_a_key_only_a_short_while(
    context: Context, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, ring = settings.require_database_url(), KeyRing(context.db)
    key = await create_key(url, "ours", ["read"])
    await ring.caller(f"Key {key}")
    await revoke_key(url, key.partition(":")[0])
    await ring.caller(f"Key {key}")
    monkeypatch.setattr("service.keys.monotonic", lambda: float("inf"))
    with pytest.raises(Unauthenticated):
        await ring.caller(f"Key {key}")


async def test_a_ring_forgets_before_it_grows_too_large(
    context: Context, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.keys.MOST_REMEMBERED", 2)
    ring = KeyRing(context.db)
    for _ in range(5):
        await ring.caller(f"Key {await create_key(settings.require_database_url(), 'ours', ['read'])}")
    assert len(ring._remembered) <= 2


async def test_the_admin_key_of_the_settings_works_and_can_be_changed(context: Context, settings: Settings) -> None:
    for secret in ("first-secret-of-it", "second-secret-of-it"):
        await ensure_admin_key(settings.require_database_url(), f"admin:{secret}")
        caller = await KeyRing(context.db).caller(f"Key admin:{secret}")
        assert (caller.tenant, caller.may("anything")) == ("default", True)
    with pytest.raises(Unauthenticated):
        await KeyRing(context.db).caller("Key admin:first-secret-of-it")
