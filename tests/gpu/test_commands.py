"""The commands about GPU workers, and a worker on a machine of its own."""

from pathlib import Path

import pytest

from service.local.directory import DataDirectory
from tests.gpu.working import MODEL, body, picture, rows, working
from tests.journeys.driver import Driver, parsed
from tests.journeys.running import Service
from tests.stand_in.server import eventually

pytestmark = pytest.mark.timeout(180)


def test_a_worker_elsewhere_needs_two_addresses_and_a_key_that_was_let_in(
    service: Service, client: Driver, tmp_path: Path
) -> None:
    running = DataDirectory(service.data).published()
    assert running is not None
    settings = {"ROUNDTRIP_BROKER_URL": running["broker_url"], "ROUNDTRIP_PUBLIC_URL": service.url}
    elsewhere = tmp_path / "elsewhere"
    with working(service, settings=settings, data=elsewhere, name="elsewhere") as worker:
        eventually(lambda: "is this worker's key registered" in worker.child.log.read_text(), within=30, every=0.1)
        made = client.http.post("/v1/jobs", json=body(image_url=picture()))
        request_id = parsed(made)["request_id"]
        client.reaches(request_id, "submitted")
        public, key_id = service.run("gpu-keys", "show", "--data", str(elsewhere)).split()
        assert public in worker.child.log.read_text()
        added = service.run("gpu-keys", "add", public, "--name", "elsewhere", "--data", str(service.data))
        assert added.strip() == key_id
        assert client.ended(request_id, within=60)["status"] == "completed"
        listed = service.run("gpu-keys", "list", "--data", str(service.data))
        assert [line.split()[1] for line in listed.splitlines() if key_id in line] == ["elsewhere"]
        service.run("gpu-keys", "revoke", key_id, "--data", str(service.data))
        assert service.try_running("gpu-keys", "revoke", key_id, "--data", str(service.data)).returncode == 1
    mode = (elsewhere / "gpu-worker" / "key").stat().st_mode
    assert mode & 0o077 == 0


def test_what_is_wrong_is_said_in_one_line(service: Service, tmp_path: Path) -> None:
    for arguments, line in [
        (("gpu-worker", "--model", "a/b", "--data", str(tmp_path / "no")), "ROUNDTRIP_BROKER_URL is not set, and no"),
        (("gpu-keys", "add", "AAAA", "--name", "x", "--data", str(service.data)), "the public key has not 32 bytes"),
        (("routes", "set", "nobody", "--prefer", "gpu", "--data", str(service.data)), "there is no tenant nobody"),
        (("routes", "set", "x", "--prefer", "fal", "--spill-seconds", "3"), "--spill-seconds goes with --prefer gpu"),
        (("routes", "set", "x", "--model", "fal-ai/lava", "--prefer", "gpu", "--alone"), "There is no model 'fal-ai/l"),
    ]:
        done = service.try_running(*arguments)
        assert done.returncode in {1, 2}, done.stdout + done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith(f"roundtrip: {line}")


def test_a_key_may_begin_with_a_dash(service: Service) -> None:
    for public in (f"-Z{'A' * 41}", f"--{'A' * 41}"):
        key_id = service.run("gpu-keys", "add", public, "--name", "dashed", "--data", str(service.data)).strip()
        service.run("gpu-keys", "revoke", key_id, "--data", str(service.data))


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked at in /proc")
def test_no_process_of_a_worker_can_be_asked_for_what_it_was_started_with(service: Service) -> None:
    running = DataDirectory(service.data).published()
    assert running is not None
    secrets = {
        "ROUNDTRIP_DATABASE_URL": running["database_url"],
        "ROUNDTRIP_ADMIN_KEY": "a:" + 20 * "b",
        "FAL_KEY": "c:d",
    }
    with working(service, settings=secrets, name="discreet") as worker:
        for pid in (worker.child.pid, worker.model_process()):
            begun_with = Path(f"/proc/{pid}/environ").read_text()
            assert "ROUNDTRIP_BROKER_URL" in begun_with
            assert [name for name in secrets if f"{name}=" in begun_with] == []


def test_draining_says_first_what_it_would_do(service: Service, client: Driver) -> None:
    data = ("--data", str(service.data))
    service.run("providers", "pause", "fal", *data)
    try:
        made = client.http.post("/v1/jobs", json=body(provider="auto"))
        request_id = parsed(made)["request_id"]
        rows(service, "DELETE FROM gpu_workers")  # Those of earlier tests were heard of a moment ago.
        previewed = service.try_running("providers", "drain", "fal", *data)
        assert "1 would go to gpu; --yes does it." in previewed.stdout
        assert f"No GPU worker of {MODEL} was heard of" in previewed.stderr
        with working(service, name="at-work"):
            assert "was heard of" not in service.try_running("providers", "drain", "fal", *data).stderr
        assert client.job(request_id)["provider"] == "fal"
        assert "1 went to gpu." in service.run("providers", "drain", "fal", "--yes", *data)
        client.reaches(request_id, "submitted")
        job = client.job(request_id)
        assert (job["provider"], job["provider_reason"]) == ("gpu", "an operator drained fal")
        with working(service, name="drained-to"):
            assert client.ended(request_id, within=60)["status"] == "completed"
    finally:
        service.run("providers", "resume", "fal", *data)
