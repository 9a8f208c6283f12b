"""Rules of the house that no type checker sees."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.jobs.diagram import markdown
from service.jobs.lifecycle import Status
from service.settings import Settings

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for room in ("service", "tasks", "migrations") for path in (ROOT / room).rglob("*.py"))
SEAMS = {
    "service/network.py": {"httpx.AsyncClient", "aiohttp.ClientSession"},
    "service/db.py": {"asyncpg.connect", "asyncpg.create_pool"},
    "service/jobs/waiting.py": {"asyncpg.connect"},
}
GUARDED = re.compile(
    r"httpx\.(AsyncClient|Client|get|post|stream|request)|aiohttp\.ClientSession|asyncpg\.(connect|create_pool)"
    r"|(urllib\.request\.)?urlopen|socket\.create_connection"
)
# The sandbox stands in for somebody else's machine, and `local` looks after processes.
ELSEWHERE = ("service/sandbox/", "service/local/")
VAGUE = {"util", "utils", "helper", "helpers", "common", "misc", "stuff", "tools", "manager", "managers", "core", "lib"}
CHANGES = re.compile(r"\b(UPDATE|INSERT INTO|DELETE FROM)\s+(live_jobs|outcomes|results|jobs)\b", re.IGNORECASE)
STATUS_WORD = re.compile(rf"'({'|'.join(status.value for status in Status)})'")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_imports_run_one_way() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_network_and_the_database_are_reached_at_their_seams_only() -> None:
    for path in SOURCES:
        name = name_of(path)
        if not name.startswith(ELSEWHERE):
            used = {call for call in calls(path) if GUARDED.fullmatch(call)}
            assert used <= SEAMS.get(name, set()), name


def test_a_job_is_changed_in_five_files_sent_by_one_filled_in_by_one_and_removed_in_one() -> None:
    at_work = [path for path in SOURCES if not name_of(path).startswith("migrations/")]
    changing = {name_of(path) for path in at_work if CHANGES.search(path.read_text())}
    assert changing == {
        "service/jobs/due.py",
        "service/jobs/endings.py",
        "service/jobs/routing.py",
        "service/jobs/runs.py",
        "service/jobs/store.py",
        "service/jobs/turns.py",
        "service/retention/removing.py",
        "service/stats/counting.py",
    }


@pytest.mark.parametrize("name", [f"service/jobs/{each}.py" for each in ("store", "endings", "due", "turns", "runs")])
def test_no_statement_spells_a_status(name: str) -> None:
    """They come from `lifecycle.MOVES`, so that there is one table of what may become of a job."""
    assert STATUS_WORD.findall((ROOT / name).read_text()) == []


def test_the_picture_of_the_states_is_current() -> None:
    assert (ROOT / "docs" / "job-states.md").read_text() == markdown()


def test_every_setting_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    names = [field.validation_alias or f"ROUNDTRIP_{name.upper()}" for name, field in Settings.model_fields.items()]
    assert [name for name in names if f"`{name}`" not in readme] == []


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [name_of(path) for path in SOURCES if path.stem.strip("_") in VAGUE] == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        path for path in SOURCES if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert [name_of(path) for path in silent] == []


@pytest.mark.parametrize("program", ["service.app", "tasks.app"])
def test_no_decoder_is_loaded_where_secrets_are(program: str) -> None:
    """What strangers made is decoded in child processes; and the library takes 8 MB in each process that loads it."""
    look = f"import sys, {program}; print([name for name in ('PIL', 'numpy', 'pycocotools') if name in sys.modules])"
    addresses = {
        "ROUNDTRIP_DATABASE_URL": "postgresql://nobody@127.0.0.1/x",
        "ROUNDTRIP_BROKER_URL": "redis://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, env=os.environ | addresses, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
