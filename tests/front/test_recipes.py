"""`docs/fal-clients.md`: every block of code on the page, run as it stands, against an installation behind HTTPS."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.picture import draw
from tests.front.running import HERE, WithSandbox, clean_environment, require_node
from tests.journeys.running import ROOT

PAGE = (ROOT / "docs" / "fal-clients.md").read_text()
BLOCKS = re.findall(r"^```(\S[^\n]*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PICTURE = """
import { readFileSync } from "node:fs";
globalThis.File ??= (await import("node:buffer")).File; // Debian's Node 18 has it there only.
const picture = readFileSync("picture.png");
"""


def blocks(kind: str) -> list[str]:
    return [text for named, text in BLOCKS if named == kind]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder as a user has it, with a picture in it."""
    (tmp_path / "picture.png").write_bytes(draw())
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    return tmp_path


@pytest.fixture
def environment(sandboxed: WithSandbox) -> dict[str, str]:
    certificate = sandboxed.settings["SSL_CERT_FILE"]
    trusted = {"SSL_CERT_FILE": certificate, "NODE_EXTRA_CA_CERTS": certificate, "CURL_CA_BUNDLE": certificate}
    return clean_environment() | trusted | {"ROUNDTRIP_KEY": sandboxed.admin_key}


def run(sandboxed: WithSandbox, place: Path, environment: dict[str, str], command: list[str], text: str) -> str:
    public = sandboxed.settings["ROUNDTRIP_PUBLIC_URL"]
    text = text.replace("https://roundtrip.example", public).replace("http://127.0.0.1:8000", sandboxed.url)
    text = text.replace("roundtrip.example", public.removeprefix("https://"))
    done = subprocess.run(
        [*command, text], cwd=place, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_is_run_whole() -> None:
    kinds = {"js", "js before-1.10", "sh", "python", "python plain-http"}
    assert {named for named, _ in BLOCKS} == kinds
    assert [len(blocks(kind)) for kind in ("js", "sh", "python")] == [2, 2, 2]


def javascript(sandboxed: WithSandbox, place: Path, environment: dict[str, str], text: str) -> str:
    require_node()
    command = ["node", "--input-type=module", "-e"]
    return run(sandboxed, place, environment, command, text)


def test_javascript(sandboxed: WithSandbox, place: Path, environment: dict[str, str]) -> None:
    recipe, call = blocks("js")
    said = javascript(sandboxed, place, environment, recipe + PICTURE + call)
    assert "COMPLETED" in said
    assert "[sandbox]" in said


@pytest.mark.parametrize("package", ["@fal-ai/client", "fal-client-1.9"])
def test_javascript_before_1_10(sandboxed: WithSandbox, place: Path, environment: dict[str, str], package: str) -> None:
    [recipe] = blocks("js before-1.10")
    call = blocks("js")[1]
    said = javascript(sandboxed, place, environment, recipe.replace("@fal-ai/client", package) + PICTURE + call)
    assert "[sandbox]" in said


@pytest.mark.parametrize("number", [0, 1])
def test_python(sandboxed: WithSandbox, place: Path, environment: dict[str, str], number: int) -> None:
    program = place / "program.py"
    program.write_text(blocks("python")[number].replace("https://roundtrip.example", _public(sandboxed)))
    said = run(sandboxed, place, environment, ["bash", "-euc"], f"{blocks('sh')[0]}\n{sys.executable} program.py")
    assert "[sandbox]" in said


def test_python_over_plain_http(sandboxed: WithSandbox, place: Path, environment: dict[str, str]) -> None:
    [text] = blocks("python plain-http")
    said = run(sandboxed, place, environment | {"FAL_KEY": sandboxed.admin_key}, [sys.executable, "-c"], text)
    assert "[sandbox]" in said


def test_curl(sandboxed: WithSandbox, place: Path, environment: dict[str, str]) -> None:
    said = run(sandboxed, place, environment, ["bash", "-euc"], blocks("sh")[1])
    assert f'"status_url":"{_public(sandboxed)}/fal/queue/fal-ai/llava-next/requests/' in said


def _public(sandboxed: WithSandbox) -> str:
    return str(sandboxed.settings["ROUNDTRIP_PUBLIC_URL"])
