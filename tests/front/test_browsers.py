"""Pages of other origins: allowed by the operator, or not at all."""

from collections.abc import AsyncIterator

import httpx
import pytest

from service.app import create_app
from service.front.browsers import HEADERS
from service.front.hints import TIMEOUT_HEADERS
from service.jobs.hints import SENT_ON
from service.settings import Settings, SettingsError, load_settings
from tests.serving import serving

PAGE = "https://app.example"
ASKED = ", ".join(HEADERS)


@pytest.fixture
async def open_to_page(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings.model_copy(update={"cors_origins": (PAGE,)}))
    async with serving(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


def preflight(origin: str, method: str = "POST", headers: str = ASKED) -> dict[str, str]:
    return {"origin": origin, "access-control-request-method": method, "access-control-request-headers": headers}


def test_a_page_may_send_whatever_goes_on_to_the_provider() -> None:
    assert {*SENT_ON, *TIMEOUT_HEADERS} <= set(HEADERS)


@pytest.mark.parametrize("path", ["/fal/proxy", "/fal/queue/a/b", "/fal/cdn/uploads/x", "/v1/jobs"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_a_page_that_is_allowed_may_send_fals_headers(
    open_to_page: httpx.AsyncClient, path: str, method: str
) -> None:
    response = await open_to_page.options(path, headers=preflight(PAGE, method))
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert set(HEADERS) <= set(response.headers["access-control-allow-headers"].lower().split(", "))


async def test_and_may_read_the_requests_name(open_to_page: httpx.AsyncClient) -> None:
    response = await open_to_page.get("/fal/queue/a/b/requests/x/status", headers={"origin": PAGE})
    assert response.status_code == 401
    assert response.headers["access-control-allow-origin"] == PAGE
    assert {"x-fal-request-id", "x-fal-error-type"} <= set(
        response.headers["access-control-expose-headers"].split(", ")
    )


@pytest.mark.parametrize("origin", ["https://other.example", "null", "https://app.example.evil", "http://app.example"])
async def test_another_page_may_not(open_to_page: httpx.AsyncClient, origin: str) -> None:
    refused = await open_to_page.options("/fal/proxy", headers=preflight(origin))
    response = await open_to_page.get("/healthz", headers={"origin": origin})
    assert refused.status_code == 400
    assert all("access-control-allow-origin" not in each.headers for each in (refused, response))


async def test_no_page_may_unless_it_was_named(nobody: httpx.AsyncClient) -> None:
    response = await nobody.options("/fal/proxy", headers=preflight(PAGE))
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "value", ["app.example", "https://", "https://a.example/path", "ftp://a.example", "https://a/?b"]
)
def test_an_origin_has_a_form(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ROUNDTRIP_CORS_ORIGINS", f"https://ok.example,{value}")
    with pytest.raises(SettingsError, match="ROUNDTRIP_CORS_ORIGINS must be"):
        load_settings()


def test_origins_are_listed_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDTRIP_CORS_ORIGINS", "https://a.example, http://localhost:3000")
    assert load_settings().cors_origins == ("https://a.example", "http://localhost:3000")
