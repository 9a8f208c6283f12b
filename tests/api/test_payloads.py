"""Every address of the API and of the dashboard, opened by those who may not see what is behind it.

The addresses are those of the application itself, so that one which is added tomorrow is tried tomorrow.
"""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import product
from uuid import UUID

import httpx
import pytest
from starlette.routing import BaseRoute, Mount, Route

from service.app import routes
from service.catalog.base import Lifted, LiftedFile
from service.context import Context
from service.jobs import endings
from tests import making
from tests.api.asking import is_problem, picture, store_copy
from tests.conftest import MakeClient
from tests.dashboard.looking import key_of, signed_in

SA2VA = "fal-ai/sa2va/8b/image"

# All that is in the jobs: each of it is looked for in every answer.
PROMPT, TEXT, LABEL, NAME, WORDS = "secret-prompt", "secret-output", "secret-label", "secret-name", "secret-words"
ADDRESS, PICTURE, SOURCE = "secret-address", "secret-picture", "secret-source"
TAG, VALUE = "secret-tag", "secret-value"
SECRETS = (PROMPT, TEXT, LABEL, NAME, WORDS, ADDRESS, PICTURE, SOURCE, TAG, VALUE)
# What a client says of a job.
DESCRIBED = {"tags": [TAG], "metadata": json.dumps({"customer": VALUE})}

# Streams do not end by themselves, and `wait` is not asked for.
STREAMS = {"/v1/jobs/{request_id}/stream", "/dashboard/live"}
OPEN_TO_ALL = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/.well-known/", "/files/", "/shared/", "/webhooks/")


def paths(among: Sequence[BaseRoute], before: str = "") -> Iterator[tuple[str, str]]:
    """Each method with its address, as it stands in the map."""
    for route in among:
        if isinstance(route, Mount):
            yield from paths(route.routes, before + route.path)
        elif isinstance(route, Route):
            for method in sorted((route.methods or set()) - {"HEAD", "OPTIONS"}):
                yield method, before + route.path


ALL = [(method, path) for method, path in paths(routes) if path not in STREAMS]
READS = [path for method, path in ALL if method == "GET" and not path.startswith(OPEN_TO_ALL)]
CHANGES = [(method, path) for method, path in ALL if method != "GET" and path.startswith("/v1/jobs/{request_id}")]


def filled(path: str, job_id: UUID, report_id: int = 0) -> str:
    """With what the address is of. What is not known here is a word that names nothing."""
    known = {
        "{request_id}": str(job_id),
        "{job_id}": str(job_id),
        "{index:int}": "0",
        "{report_id:int}": str(report_id),
        "{model:path}": SA2VA,
        "{app:path}": SA2VA,
    }
    for name, value in known.items():
        path = path.replace(name, value)
    while "{" in path:
        head, _, rest = path.partition("{")
        inside, _, tail = rest.partition("}")
        path = head + ("1" if inside.endswith(":int") else "none") + tail
    return path


@pytest.fixture
async def completed(context: Context, tenant: UUID) -> UUID:
    """A job whose every part has something to hide."""
    db = context.db
    claim = await making.submitted(
        db,
        tenant,
        model=SA2VA,
        input=json.dumps({"image_url": f"https://example.com/{PICTURE}.png", "prompt": PROMPT}),
        webhook_url=f"https://hooks.example/{ADDRESS}?token={ADDRESS}",
        **DESCRIBED,
    )
    body = json.dumps({"output": TEXT, "masks": [{"url": f"https://example.com/{SOURCE}.png"}]}).encode()
    files = [
        LiftedFile("mask", 0, f"https://example.com/{SOURCE}.png", label=LABEL, file_name=f"{NAME}.png"),
        LiftedFile("image", 0, f"https://example.com/{SOURCE}-2.png", file_name=f"{NAME}-2.png"),
    ]
    said = making.heard(body, headers=json.dumps({"request_id": "r", "x": WORDS}))
    await endings.settle(
        db, claim.job_id, claim.attempt, making.completed(body), said, "webhook", Lifted(text=TEXT, files=files)
    )
    for kind in ("mask", "image"):
        await store_copy(context, claim.job_id, kind, 0, picture(255))
    return claim.job_id


@pytest.fixture
async def broken(context: Context, tenant: UUID) -> UUID:
    """A job that failed with words that quote its input."""
    asked = json.dumps({"image_url": PICTURE, "prompt": PROMPT})
    claim = await making.submitted(context.db, tenant, input=asked, **DESCRIBED)
    assert await making.settle(context.db, claim, making.failed(f"{WORDS}: {PROMPT}"), making.heard(WORDS.encode()))
    return claim.job_id


@pytest.fixture
async def report_id(context: Context, completed: UUID) -> int:
    [report] = await making.reports(context.db, completed)
    return int(report["id"])


def hides_all(answer: httpx.Response) -> bool:
    """No byte of a payload in the body or the headers, nor any of a picture."""
    told = answer.content + b"".join(name + value for name, value in answer.headers.raw)
    assert [secret for secret in SECRETS if secret.encode() in told] == [], answer.text
    assert not answer.headers.get("content-type", "").startswith("image/")
    return True


@pytest.fixture
async def watcher(make_client: MakeClient) -> httpx.AsyncClient:
    return await make_client("ours", ("metrics",))


async def test_the_secrets_are_there_to_be_seen(
    client: httpx.AsyncClient, completed: UUID, broken: UUID, report_id: int
) -> None:
    """Else the tests below could not fail."""
    asked = [f"/v1/jobs/{completed}", f"/v1/jobs/{broken}", "/v1/jobs", f"/v1/jobs/{completed}/evidence"]
    told = "".join([(await client.get(path)).text for path in asked])
    assert [secret for secret in SECRETS if secret not in told] == []


async def test_a_key_for_figures_sees_nothing_of_what_is_in_jobs(
    api: str, watcher: httpx.AsyncClient, completed: UUID, broken: UUID, report_id: int
) -> None:
    shown = set()
    async with signed_in(api, key_of(watcher)) as looking:
        for path, job_id, client in product(READS, (completed, broken), (watcher, looking)):
            answer = await client.get(filled(path, job_id, report_id))
            assert answer.status_code in {200, 303, 400, 401, 403, 404, 410, 422}, path
            assert hides_all(answer), path
            if answer.status_code == 200:
                shown.add(path)
    # It is no use to hide all by showing nothing.
    assert {"/v1/jobs", "/v1/jobs/{request_id}", "/dashboard", "/dashboard/jobs"} <= shown


async def test_a_key_for_figures_sees_how_jobs_go(
    watcher: httpx.AsyncClient, completed: UUID, broken: UUID, report_id: int
) -> None:
    job = (await watcher.get(f"/v1/jobs/{completed}")).json()
    assert (job["status"], job["input"], job["output"]) == ("completed", None, None)
    assert (job["tags"], job["metadata"]) == (None, None)
    assert job["webhook_url"] == "https://hooks.example"
    assert job["timings"]["total_seconds"] is not None
    # How many there are, and how large, is a figure; what they are called and what is in them is not.
    [mask] = job["masks"]
    assert (mask["width"], mask["file_size"] is not None, mask["url"], mask["label"]) == (8, True, None, None)
    failed = (await watcher.get(f"/v1/jobs/{broken}")).json()
    assert (failed["error"]["type"], failed["error"]["status"]) == ("model_error", 500)
    listed = (await watcher.get("/v1/jobs?status=failed")).json()["jobs"]
    assert [each["request_id"] for each in listed] == [str(broken)]
    assert (await watcher.get("/v1/stats")).json()["groups"]
    for part in ("timings", "attempts", "events", "evidence", "callback"):
        assert (await watcher.get(f"/v1/jobs/{completed}/{part}")).status_code == 200
    for part in ("result", "masks", "masks/0", "images", "overlay", f"evidence/{report_id}"):
        assert is_problem(await watcher.get(f"/v1/jobs/{completed}/{part}"), 403)


@pytest.mark.parametrize(
    "query",
    ["q=secret", "mask_label=secret-label", "mask_area_min=0.1", f"tag={TAG}", f"metadata.customer={VALUE}"],
)
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/stats", "/v1/jobs/export"])
async def test_a_key_for_figures_does_not_search_for_what_it_may_not_see(
    watcher: httpx.AsyncClient, completed: UUID, path: str, query: str
) -> None:
    assert is_problem(await watcher.get(f"{path}?{query}"), 403)


async def test_the_changes_of_a_job_are_streamed_without_what_is_in_it(
    watcher: httpx.AsyncClient, completed: UUID, broken: UUID
) -> None:
    for job_id in (completed, broken):
        answer = await watcher.get(f"/v1/jobs/{job_id}/stream")
        assert "event: end" in answer.text
        assert hides_all(answer)


async def test_a_key_for_figures_changes_nothing(watcher: httpx.AsyncClient, completed: UUID) -> None:
    assert CHANGES
    for method, path in CHANGES:
        assert is_problem(await watcher.request(method, filled(path, completed)), 403), path


async def test_a_key_that_may_submit_sees_nothing_by_repeating_or_ending(
    make_client: MakeClient, broken: UUID, context: Context, tenant: UUID
) -> None:
    client = await make_client("ours", ("submit",))
    claim = await making.submitted(context.db, tenant, input=json.dumps({"prompt": PROMPT}), **DESCRIBED)
    assert hides_all(await client.post(f"/v1/jobs/{claim.job_id}/cancel"))
    for _ in range(2):
        answer = await client.post(f"/v1/jobs/{broken}/retry")
        assert answer.status_code in {200, 202}
        assert hides_all(answer)


@pytest.fixture
async def stranger_looking(api: str, make_client: MakeClient) -> AsyncIterator[httpx.AsyncClient]:
    """Another tenant's person at the dashboard, who may do everything but administer."""
    key = key_of(await make_client("theirs", ("read", "submit")))
    async with signed_in(api, key) as client:
        yield client


async def test_another_tenant_sees_nothing_at_any_address(
    make_client: MakeClient,
    stranger_looking: httpx.AsyncClient,
    completed: UUID,
    broken: UUID,
    report_id: int,
) -> None:
    by_key = await make_client("theirs", ("read", "submit"))
    for path, job_id, client in product(READS, (completed, broken), (by_key, stranger_looking)):
        answer = await client.get(filled(path, job_id, report_id))
        assert answer.status_code < 500, path
        assert hides_all(answer), path
        # Nor which jobs there are, but for what was asked.
        assert str(broken if job_id == completed else completed) not in answer.text, path


async def test_without_a_session_no_page_shows_anything(
    nobody: httpx.AsyncClient, completed: UUID, broken: UUID, report_id: int
) -> None:
    for path in (path for path in READS if path.startswith("/dashboard")):
        answer = await nobody.get(filled(path, completed, report_id))
        assert hides_all(answer), path
        assert str(broken) not in answer.text, path
