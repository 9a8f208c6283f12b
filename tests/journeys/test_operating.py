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


def at_home(service: Service, *arguments: str) -> str:
    return service.run(*arguments, "--data", str(service.data))


def test_a_tenant_says_what_becomes_of_a_doubt(service: Service) -> None:
    create_key(service, "thrifty")
    at_home(service, "tenants", "set", "thrifty", "--on-doubt", "fail")
    lines = [line.split() for line in at_home(service, "tenants", "list").splitlines()]
    assert ["thrifty", "fail"] in [line[:2] for line in lines]
    refused = service.try_running("tenants", "set", "nobody", "--on-doubt", "fail", "--data", str(service.data))
    assert (refused.returncode, refused.stderr) == (1, "roundtrip: there is no tenant nobody\n")


def test_a_webhook_is_listed_and_replayed(service: Service, client: Driver, fal: StandIn, tag: str) -> None:
    request_id = client.ended(client.post(tag)["request_id"])["request_id"]
    heading, line = at_home(service, "webhooks", "list", "--job", request_id).splitlines()
    assert heading.split()[:5] == ["ID", "RECEIVED", "SOURCE", "VERDICT", "BYTES"]
    report_id = line.split()[0]
    shown = at_home(service, "webhooks", "replay", report_id)
    assert "completed, HTTP 200" in shown
    assert "today     duplicate" in shown
    refused = service.try_running("webhooks", "replay", report_id, "--apply", "--data", str(service.data))
    assert (refused.returncode, refused.stderr) == (1, "roundtrip: nothing was applied\n")
    assert service.try_running("webhooks", "replay", "999999999", "--data", str(service.data)).returncode == 1


def test_a_provider_is_paused_and_resumed_by_hand(service: Service, client: Driver, fal: StandIn, tag: str) -> None:
    assert at_home(service, "providers", "list") == "No provider is paused.\n"
    at_home(service, "providers", "pause", "fal", "--reason", "Moving house.")
    try:
        assert "Moving house." in at_home(service, "providers", "list")
        request_id = client.post(tag)["request_id"]
        eventually(lambda: client.job(request_id)["status"] == "queued", within=30)
        at_home(service, "jobs", "end", request_id)
        assert client.job(request_id)["status"] == "cancelled"
        assert fal.submits_of(tag) == []
    finally:
        at_home(service, "providers", "resume", "fal")
    again = service.try_running("providers", "resume", "fal", "--data", str(service.data))
    assert (again.returncode, again.stderr) == (1, "roundtrip: fal is not paused\n")
    refused = service.try_running("jobs", "end", request_id, "--data", str(service.data))
    assert refused.returncode == 1
