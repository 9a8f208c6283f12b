"""The document says what the service does, and every reply is as the document says."""

import json
import re
from typing import Any
from uuid import UUID

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_pydantic import OpenAPI
from starlette.routing import Mount, Route

from service.api import openapi
from service.app import routes
from service.context import Context
from tests import making
from tests.api.asking import JOB, in_every_status, picture, with_files

DOCUMENT: dict[str, Any] = json.loads(openapi.document())
CONVERTER = re.compile(r":[a-z]+}")


def served() -> set[tuple[str, str]]:
    """Every method and path of /v1 and of health."""
    found: set[tuple[str, str]] = set()
    for route in routes:
        for inner in route.routes if isinstance(route, Mount) else [route]:
            assert isinstance(inner, Route)
            path = (route.path if isinstance(route, Mount) else "") + inner.path
            path = CONVERTER.sub("}", path).rstrip("/")
            found |= {(method.lower(), path) for method in inner.methods or () if method != "HEAD"}
    return {(method, path) for method, path in found if path.startswith("/v1/") or path in {"/healthz", "/readyz"}}


def fits(name: str, value: Any) -> bool:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(value)
    return True


def test_it_is_openapi() -> None:
    assert OpenAPI.model_validate(DOCUMENT).info.title == "Roundtrip"


def test_it_names_every_route_and_no_other() -> None:
    named = {(method, path) for path, item in DOCUMENT["paths"].items() for method in item}
    assert named == served()


def test_every_reference_leads_somewhere() -> None:
    for reference in re.findall(r'"\$ref":\s*"([^"]+)"', json.dumps(DOCUMENT)):
        assert reference.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"], reference


def test_every_schema_is_one() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        Draft202012Validator.check_schema({**schema, "components": DOCUMENT["components"]}), name


def test_every_parameter_of_a_path_is_described() -> None:
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            described = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
            assert described == set(re.findall(r"{(\w+)}", path))


async def test_anybody_may_read_it(nobody: httpx.AsyncClient) -> None:
    response = await nobody.get("/openapi.json")
    assert (response.status_code, response.json()) == (200, DOCUMENT)


async def test_a_job_in_every_status_is_as_described(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    for job_id in (await in_every_status(context, tenant)).values():
        assert fits("Job", (await client.get(f"/v1/jobs/{job_id}")).json())
        for part, name in (("events", "Event"), ("attempts", "Attempt"), ("masks", "Mask"), ("images", "Image")):
            listed = (await client.get(f"/v1/jobs/{job_id}/{part}")).json()[part]
            assert all(fits(name, each) for each in listed)
        assert fits("Timings", (await client.get(f"/v1/jobs/{job_id}/timings")).json())
    assert fits("JobPage", (await client.get("/v1/jobs?limit=3")).json())


async def test_the_catalogue_is_as_described(client: httpx.AsyncClient) -> None:
    assert all(fits("ModelCard", model) for model in (await client.get("/v1/models")).json()["models"])


async def test_every_example_of_the_catalogue_is_a_request(client: httpx.AsyncClient) -> None:
    for model in (await client.get("/v1/models")).json()["models"]:
        request = {"model": model["id"], "input": model["example"]}
        assert fits("JobRequest", request)
        Draft202012Validator(model["input_schema"]).validate(model["example"])
        assert (await client.post("/v1/jobs", json=request)).status_code == 202


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/jobs/none", None, 404),
        ("GET", "/v1/jobs?limit=x", None, 422),
        ("POST", "/v1/jobs", b"{", 400),
        ("POST", "/v1/jobs", b"{}", 422),
        ("GET", "/nothing", None, 404),
        ("PUT", "/v1/jobs", None, 405),
    ],
)
async def test_every_error_is_as_described(
    client: httpx.AsyncClient, method: str, path: str, body: bytes | None, status: int
) -> None:
    response = await client.request(method, path, content=body)
    assert response.status_code == status
    assert fits("Problem", response.json())


def allowed(method: str, path: str) -> set[str]:
    return set(DOCUMENT["paths"][path][method]["responses"])


async def test_every_answer_has_a_documented_status(client: httpx.AsyncClient, context: Context, tenant: UUID) -> None:
    job_id = await with_files(context, tenant)
    live = await making.submitted(context.db, tenant)
    for method, path in sorted(served()):
        for request_id in (job_id, live.job_id, "none"):
            url = path.format(request_id=request_id, index=0, report_id=1, model="fal-ai/llava-next", bulk_id=job_id)
            if method == "get" and path.endswith("/stream") and request_id == live.job_id:
                continue  # it lasts as long as the job
            body = picture() if path == "/v1/files" else json.dumps(JOB).encode()
            response = await client.request(method, url, content=body if method == "post" else None)
            documented = allowed(method, path)
            assert str(response.status_code) in documented or "default" in documented, (method, url)
