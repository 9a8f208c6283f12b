"""What the service says about itself: health, its interface, its models."""

import httpx
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from tests.journeys.driver import Driver, Json, assert_refused, listed, sample_input
from tests.journeys.running import Service
from tests.stand_in.outputs import MODELS, NEMOTRON, UPSCALER

PATHS = (
    "/v1/jobs",
    "/v1/jobs/batch",
    "/v1/jobs/{request_id}",
    "/v1/jobs/{request_id}/result",
    "/v1/jobs/{request_id}/masks",
    "/v1/jobs/{request_id}/masks/{index}",
    "/v1/jobs/{request_id}/timings",
    "/v1/jobs/{request_id}/events",
    "/v1/jobs/{request_id}/attempts",
    "/v1/jobs/{request_id}/cancel",
    "/v1/jobs/{request_id}/retry",
    "/v1/models",
    "/healthz",
    "/readyz",
)


def input_schema(client: Driver, model: str) -> Json:
    described = client.get(f"/v1/models/{model}").json()
    [schema] = [value for name, value in described.items() if "input" in name and isinstance(value, dict)]
    found: Json = schema
    return found


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
def test_it_is_open_to_anybody(service: Service, path: str) -> None:
    assert httpx.get(f"{service.url}{path}", trust_env=False).status_code == 200


def test_the_interface_is_described(client: Driver) -> None:
    described = client.get("/openapi.json").json()
    assert described["openapi"].startswith("3.")
    assert set(PATHS) <= set(described["paths"])


def test_an_absent_path_says_so(client: Driver) -> None:
    assert_refused(client.http.get("/v1/nothing"), 404)


def test_a_wrong_method_says_so(client: Driver) -> None:
    assert_refused(client.http.delete("/v1/jobs"), 405)


def test_the_five_models_are_in_the_catalogue(client: Driver) -> None:
    assert set(MODELS) <= {model["id"] for model in listed(client.get("/v1/models"))}


@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_json_schemas(client: Driver, model: str) -> None:
    described = client.get(f"/v1/models/{model}").json()
    assert described["id"] == model
    schemas = [value for name, value in described.items() if "schema" in name]
    assert len(schemas) == 2
    for schema in schemas:
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("model", MODELS)
def test_a_models_schema_takes_what_the_model_takes(client: Driver, model: str) -> None:
    schema = Draft202012Validator(input_schema(client, model))
    assert schema.is_valid(sample_input(model, "x"))
    assert not schema.is_valid({})
    assert not schema.is_valid([])


def test_a_schema_knows_the_limits_and_defaults(client: Driver) -> None:
    schema = Draft202012Validator(input_schema(client, UPSCALER))
    assert not schema.is_valid(sample_input(UPSCALER, "x", upscale_factor=5))
    assert not schema.is_valid(sample_input(UPSCALER, "x", steps=3))
    assert input_schema(client, UPSCALER)["properties"]["upscale_factor"]["default"] == 2
    assert input_schema(client, NEMOTRON)["properties"]["max_tokens"]["default"] == 512


def test_a_model_that_is_not_there_is_absent(client: Driver) -> None:
    for model in ("fal-ai/none", "fal-ai/sa2va", "fal-ai/sa2va/8b/image/more", "x"):
        assert_refused(client.http.get(f"/v1/models/{model}"), 404)
