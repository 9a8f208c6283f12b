"""compose.yaml and the Dockerfile, as far as they can be checked where there is no Docker engine."""

import os
import re
import shutil
import subprocess
import tomllib

import pytest

from scripts.setup import UV
from service.cli import main
from service.sandbox.config import PREFIX, SandboxConfig
from service.settings import Settings, load_settings
from service.watchdog import GRACE_SECONDS
from tests.deployment import compose
from tests.deployment.compose import ROOT, SANDBOX, VALKEY, VARIABLES, Json, VariableMissing

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = sorted(compose.ours())
ALL = sorted(compose.services())


def copied() -> list[str]:
    """What the Dockerfile takes from the checkout."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source.removeprefix("./") for line in lines for source in line.split()[:-1]]


def depended_on(service: Json) -> dict[str, str]:
    return {name: how["condition"] for name, how in service.get("depends_on", {}).items()}


def settings_of(model: type, prefix: str) -> set[str]:
    fields = model.model_fields  # type: ignore[attr-defined]
    return {field.validation_alias or f"{prefix}{name.upper()}" for name, field in fields.items()}


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_that_the_program_takes(name: str) -> None:
    command, *arguments = compose.ours()[name]["command"]
    main.commands[command].make_context(command, [str(word) for word in arguments])


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_of_the_process_that_gets_it(name: str) -> None:
    given = {word for word in compose.ours(VARIABLES | SANDBOX)[name]["environment"] if not word.startswith("AWS_")}
    known = settings_of(SandboxConfig, PREFIX) if name == "sandbox" else settings_of(Settings, "ROUNDTRIP_")
    assert given <= known


@pytest.mark.parametrize("variables", [{}, VALKEY, SANDBOX], ids=["rabbitmq", "valkey", "sandbox"])
@pytest.mark.parametrize("name", [name for name in OURS if name != "sandbox"])
def test_the_environment_of_each_process_makes_settings(
    name: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in os.environ:
        if variable.startswith(("ROUNDTRIP_", "FAL_")):
            monkeypatch.delenv(variable)
    for variable, value in compose.ours(VARIABLES | variables)[name]["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = load_settings()
    assert settings.require_database_url().endswith("@postgres:5432/roundtrip")
    assert (settings.require_broker_url() == VALKEY["ROUNDTRIP_BROKER_URL"]) is (variables is VALKEY)
    assert settings.uses_real_fal


@pytest.mark.parametrize("missing", VARIABLES)
def test_what_has_no_safe_default_has_to_be_set(missing: str) -> None:
    with pytest.raises(VariableMissing, match=f"^{missing}: set it"):
        compose.read({name: value for name, value in VARIABLES.items() if name != missing})


@pytest.mark.parametrize("secret", ["POSTGRES_PASSWORD", "BROKER_PASSWORD", "ROUNDTRIP_ADMIN_KEY", "FAL_KEY"])
def test_no_process_gets_a_secret_that_is_not_its_own(secret: str) -> None:
    holders = {name for name, service in compose.services().items() if VARIABLES[secret] in str(service)}
    backend = {"api", "worker", "beat", "migrate"}
    assert (
        holders
        <= {
            "POSTGRES_PASSWORD": backend | {"postgres"},
            "BROKER_PASSWORD": backend | {"rabbitmq", "valkey"},
            "ROUNDTRIP_ADMIN_KEY": {"migrate"},
            "FAL_KEY": backend,
        }[secret]
    )


@pytest.mark.parametrize("name", ALL)
def test_what_a_service_waits_for_can_come(name: str) -> None:
    services = compose.services()
    for other, condition in depended_on(services[name]).items():
        needed = services[other]
        assert set(needed.get("profiles", [])) <= set(services[name].get("profiles", []))
        assert condition != "service_healthy" or "healthcheck" in needed
        assert condition != "service_completed_successfully" or needed["restart"].startswith("on-failure")


def test_no_process_runs_before_the_schema_is_there() -> None:
    for name in ("api", "worker", "beat"):
        assert depended_on(compose.services()[name])["migrate"] == "service_completed_successfully"
    assert depended_on(compose.services()["migrate"]) == {"postgres": "service_healthy"}


def test_a_watchdog_can_end_its_process_and_another_takes_its_place() -> None:
    for name in ("worker", "beat"):
        assert compose.services()[name]["init"] is True
        assert compose.services()[name]["restart"] == "unless-stopped"
        assert float(compose.services()[name]["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS


def test_only_the_proxy_can_be_reached_from_outside_and_by_default_from_this_host_only() -> None:
    published = {name: service["ports"] for name, service in compose.services().items() if "ports" in service}
    assert published == {"proxy": ["127.0.0.1:8000:8000"]}


def test_every_volume_that_is_mounted_is_declared_and_used() -> None:
    mounts = [mount for service in compose.services().values() for mount in service.get("volumes", [])]
    assert {mount.partition(":")[0] for mount in mounts} == set(compose.read()["volumes"])


def test_processes_that_share_files_share_one_volume() -> None:
    assert all("data:/var/lib/roundtrip" in compose.services()[name]["volumes"] for name in ("api", "worker"))
    assert "/var/lib/roundtrip" in DOCKERFILE


def test_valkey_keeps_what_it_is_given_and_evicts_nothing() -> None:
    words = " ".join(compose.services()["valkey"]["command"])
    assert "--appendonly yes" in words
    assert "--maxmemory-policy noeviction" in words


def test_the_proxy_leads_to_the_port_that_the_api_serves() -> None:
    api = compose.services()["api"]
    content = compose.read()["configs"]["caddyfile"]["content"]
    assert f"dynamic a api {api['command'][-1]} " in content
    assert f":{api['command'][-1]}/readyz" in api["healthcheck"]["test"][-1]


def test_everything_that_the_image_is_made_of_is_here_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied()) == kept
    assert all((ROOT / source).exists() for source in copied())
    assert set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied())
    assert PROJECT["project"]["readme"] in copied()


def test_the_image_is_built_by_the_same_uv_as_the_checkout_and_starts_the_program() -> None:
    assert f"pip install --no-cache-dir {UV}" in DOCKERFILE
    [entry] = re.findall(r'^ENTRYPOINT \["(\w+)"\]$', DOCKERFILE, re.MULTILINE)
    assert entry in PROJECT["project"]["scripts"]


def test_the_image_runs_as_an_ordinary_user() -> None:
    *_, final = DOCKERFILE.split("\nFROM ")
    assert re.findall(r"^USER (\w+)$", final, re.MULTILINE) == ["roundtrip"]


def test_docker_itself_reads_the_file() -> None:
    if not docker("compose", "version"):
        pytest.skip("docker compose is not installed: compose.yaml was read by our own parser only")
    assert docker("compose", "--profile", "valkey", "--profile", "sandbox", "config", "--quiet")


def docker(*arguments: str) -> bool:
    """Whether there is such a thing and it ends well; what it says is shown when the test fails."""
    if shutil.which("docker") is None:
        return False
    environment = {"PATH": os.environ["PATH"], **VARIABLES}
    return subprocess.run(["docker", *arguments], cwd=ROOT, env=environment, check=False).returncode == 0
