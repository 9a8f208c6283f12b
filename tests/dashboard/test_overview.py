"""The operator's page: figures of the service, nothing of a tenant, and nothing that could run."""

import re
from uuid import UUID

import httpx
import pytest

from service.app import create_app
from service.context import Context
from service.settings import Settings
from tests import making
from tests.api.asking import in_every_status
from tests.serving import serving


async def test_the_page_lets_nothing_run(nobody: httpx.AsyncClient) -> None:
    response = await nobody.get("/dashboard")
    policy = response.headers["content-security-policy"]
    assert response.status_code == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script|\son\w+=|\sstyle=|javascript:", response.text, re.IGNORECASE)


async def test_its_style_is_a_style(nobody: httpx.AsyncClient) -> None:
    response = await nobody.get("/dashboard/overview.css")
    assert response.headers["content-type"].startswith("text/css")
    assert '<link rel="stylesheet" href="/dashboard/overview.css">' in (await nobody.get("/dashboard")).text


async def test_it_counts_the_work_in_hand(nobody: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    await in_every_status(context, tenant)
    figures = re.findall(r"<dt>([^<]+)</dt><dd>(\d+)</dd>", (await nobody.get("/dashboard")).text)
    assert dict(figures) == {
        "Queued": "1",
        "With the provider": "1",
        "In progress": "1",
        "Submission in doubt": "0",
        "Overdue": "0",
        "File copies owed": "1",
    }


async def test_it_shows_nothing_of_a_tenant(nobody: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job_id = await making.queued(context.db, tenant, input='{"prompt": "a secret"}', tags=["a secret"])
    page = (await nobody.get("/dashboard")).text
    assert "a secret" not in page
    assert str(job_id) not in page


async def test_text_is_shown_as_text(settings: Settings) -> None:
    odd = {"fal_queue_url": "http://127.0.0.1:1/<script>alert(1)</script>"}
    async with serving(create_app(settings.model_copy(update=odd))) as url, httpx.AsyncClient(base_url=url) as client:
        page = (await client.get("/dashboard")).text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("path", ["/dashboard/", "/dashboard/overview.html", "/dashboard/../service"])
async def test_nothing_else_is_served_there(nobody: httpx.AsyncClient, path: str) -> None:
    assert (await nobody.get(path)).status_code in {307, 404}
