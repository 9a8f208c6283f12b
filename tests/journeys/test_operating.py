"""What an operator decides: keys and what they may do, models without code, settings that are wrong."""

import pytest

from tests.journeys.conftest import UNKNOWN_MODEL, create_key
from tests.journeys.driver import Driver, assert_refused, exactly, listed, sample_input
from tests.journeys.running import Service
from tests.stand_in import Outcome, Script, StandIn
from tests.stand_in.outputs import LLAVA
from tests.stand_in.server import eventually


def test_a_key_may_do_only_what_its_scopes_say(service: Service, fal: StandIn, tag: str) -> None:
    with service.client(create_key(service, "readers", "read")) as http:
        assert http.get("/v1/jobs").status_code == 200
        assert_refused(http.post("/v1/jobs", json={"model": LLAVA, "input": sample_input(LLAVA, tag)}), 403)
    with service.client(create_key(service, "writers", "submit")) as http:
        assert http.post("/v1/jobs", json={"model": LLAVA, "input": sample_input(LLAVA, tag)}).status_code == 202
        assert_refused(http.get("/v1/jobs"), 403)


def test_two_keys_of_a_tenant_see_the_same_jobs(service: Service, tag: str) -> None:
    with service.client(create_key(service, "shared")) as one, service.client(create_key(service, "shared")) as two:
        request_id = Driver(one).post(tag)["request_id"]
        assert Driver(two).job(request_id)["request_id"] == request_id


def test_a_revoked_key_opens_nothing_any_more(service: Service) -> None:
    key = create_key(service, "leavers")
    with service.client(key) as http:
        assert http.get("/v1/jobs").status_code == 200
        service.run("keys", "revoke", key.partition(":")[0], "--data", str(service.data))
        eventually(lambda: http.get("/v1/jobs").status_code == 401, within=10)


def test_keys_are_listed_without_their_secrets(service: Service) -> None:
    identifier, _, secret = create_key(service, "listed").partition(":")
    printed = service.run("keys", "list", "--data", str(service.data))
    assert identifier in printed
    assert secret not in printed


def test_a_model_without_code_is_passed_through(client: Driver, fal: StandIn, tag: str) -> None:
    given, output = {"anything": [1, {"at": f"tag:{tag}"}], "none": None}, b'{"echo": [1.0, null], "url": "x"}'
    fal.script(tag, Script(outcome=lambda _: Outcome(output)))
    answer = client.http.post("/v1/jobs", json={"model": UNKNOWN_MODEL, "input": given})
    assert answer.status_code == 202, answer.text
    assert client.ended(answer.json()["request_id"])["status"] == "completed"
    assert exactly(client.result(answer.json()["request_id"]).content) == exactly(output)
    assert [submit.model for submit in fal.submits_of(tag)] == [UNKNOWN_MODEL]
    assert UNKNOWN_MODEL in {model["id"] for model in listed(client.get("/v1/models"))}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ROUNDTRIP_FAL_QUEUE_URL", "queue"),
        ("ROUNDTRIP_FAL_JWKS_URL", "ftp://keys.example/"),
        ("ROUNDTRIP_PUBLIC_URL", "here"),
        ("ROUNDTRIP_DATABASE_URL", "mysql://somewhere/a"),
        ("ROUNDTRIP_BROKER_URL", "carrier-pigeon://loft"),
        ("ROUNDTRIP_ADMIN_KEY", "admin"),
        ("ROUNDTRIP_ALLOW_PRIVATE_NETWORKS", "perhaps"),
        ("ROUNDTRIP_ARTIFACTS_URL", "ftp://store.example/"),
        ("ROUNDTRIP_POLL_SECONDS", "-1"),
    ],
)
def test_a_wrong_setting_ends_the_program_with_one_line_that_names_it(service: Service, name: str, value: str) -> None:
    ended = service.try_running("up", "--port", "0", "--data", str(service.data.parent / "never"), **{name: value})
    assert ended.returncode != 0
    [line] = ended.stderr.strip().splitlines()
    assert name in line
