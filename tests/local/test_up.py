"""`up` as a whole: the service that it starts, and the one line for everything that keeps it from starting."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from service.local.announcing import example_request
from service.local.environment import environment_of
from service.local.up import Running, running
from service.settings import Settings, load_settings
from tests.stand_in.server import eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    place = Path(tempfile.mkdtemp(prefix="local-up-"))
    place.chmod(0o755)
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("ROUNDTRIP_", "FAL_"))]:
            environment.delenv(name)
        with running(load_settings(data=place / "data"), port=0) as service:
            yield service
    shutil.rmtree(place)


def roundtrip(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("ROUNDTRIP_", "FAL_"))}
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=ours | settings, capture_output=True, text=True, timeout=90, check=False
    )


def test_the_printed_request_works_as_it_is_printed(service: Running) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    done = subprocess.run(["sh", "-c", example_request(service)], capture_output=True, text=True, check=True)
    request_id = json.loads(done.stdout)["request_id"]
    headers = {"authorization": f"Key {service.admin_key}"}
    job = httpx.get(f"{service.url}/v1/jobs/{request_id}?wait=30", headers=headers, trust_env=False, timeout=40).json()
    assert job["status"] == "completed", job


def test_the_admin_key_is_kept_for_this_account_only(service: Running) -> None:
    assert service.first_start
    assert service.admin_key_file is not None
    assert service.admin_key_file.read_text().strip() == service.admin_key
    assert service.admin_key_file.stat().st_mode & 0o777 == 0o600


def test_keys_are_made_listed_and_revoked_beside_the_running_service(service: Running) -> None:
    data = ("--data", str(service.data))
    made = roundtrip("keys", "create", "--tenant", "shop", "--scope", "read", *data).stdout.strip()
    key_id = made.partition(":")[0]
    listed = httpx.get(f"{service.url}/v1/jobs", headers={"authorization": f"Key {made}"}, trust_env=False)
    assert listed.status_code == 200
    assert f"{key_id}   shop     read " in roundtrip("keys", "list", *data).stdout
    assert roundtrip("keys", "revoke", key_id, *data).returncode == 0
    assert "revoked" in roundtrip("keys", "list", *data).stdout
    again = roundtrip("keys", "revoke", key_id, *data)
    assert (again.returncode, again.stderr) == (1, f"roundtrip: there is no valid key {key_id}\n")
    assert roundtrip("keys", "create", "--tenant", "*", *data).returncode == 2


def test_a_second_up_on_the_same_data_is_refused_in_one_line(service: Running) -> None:
    second = roundtrip("up", "--port", "0", "--data", str(service.data))
    assert second.returncode == 2
    assert second.stderr == (
        f"roundtrip: {service.data} is in use by process {os.getpid()}; stop it,"
        " or choose another data directory (--data; with make: DATA=…)\n"
    )


def test_a_request_to_an_api_that_just_died_is_answered_by_the_next_one(service: Running) -> None:
    api = service.supervisor.children["api"]
    first = api.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    eventually(lambda: api.pid != first)
    assert httpx.get(f"{service.url}/healthz", trust_env=False, timeout=60).status_code == 200


def test_a_taken_port_is_refused_in_one_line_before_anything_starts(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = roundtrip("up", "--port", str(port), "--data", str(place / "data"))
    assert refused.returncode == 2
    assert refused.stderr == f"roundtrip: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
    assert not (place / "data" / "servers").exists()


def test_a_database_that_is_away_is_said_in_one_line(place: Path) -> None:
    away = f"postgresql://nobody@/nothing?host={place}"
    refused = roundtrip("up", "--port", "0", "--data", str(place / "data"), ROUNDTRIP_DATABASE_URL=away)
    assert refused.returncode == 1
    assert refused.stderr.startswith("roundtrip: the database (ROUNDTRIP_DATABASE_URL) cannot be used: ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["worker"], "ROUNDTRIP_DATABASE_URL is not set (`roundtrip up` brings its own PostgreSQL)"),
        (
            ["gpu-worker", "--model", "fal-ai/llava-next", "--data", "/nowhere"],
            "ROUNDTRIP_BROKER_URL is not set, and no `roundtrip up` runs on /nowhere",
        ),
    ],
)
def test_what_cannot_run_says_so_in_one_line(command: list[str], line: str) -> None:
    refused = roundtrip(*command)
    assert (refused.returncode, refused.stderr) == (2, f"roundtrip: {line}\n")


def test_a_wrong_setting_is_named_in_one_line(place: Path) -> None:
    refused = roundtrip("up", "--data", str(place / "data"), ROUNDTRIP_PUBLIC_URL="nowhere")
    line = "roundtrip: ROUNDTRIP_PUBLIC_URL must be an http or https address\n"
    assert (refused.returncode, refused.stderr) == (2, line)


def test_settings_reach_the_processes_as_they_were_given() -> None:
    given = Settings(fal_key=SecretStr("id:secret"), models=("a/b", "c/d"), allow_private_networks=True, poll_seconds=2)
    assert environment_of(given) == {
        "FAL_KEY": "id:secret",
        "ROUNDTRIP_MODELS": "a/b,c/d",
        "ROUNDTRIP_ALLOW_PRIVATE_NETWORKS": "true",
        "ROUNDTRIP_POLL_SECONDS": "2.0",
    }
