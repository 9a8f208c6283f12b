"""Which commit a folder is a snapshot of, and whether its code is what somebody has read."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.gpu.runtimes import CannotLoad
from service.gpu.runtimes.snapshots import SEAL, check_code, check_snapshot, revision_of, seal

ONE, OTHER = "1" * 40, "2" * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "modeling.py").write_text("x = 1\n")
    (folder / "part" / "more.py").write_text("y = 1\n")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_sealed_folder_may_run(folder: Path) -> None:
    seal(folder, "some/model", ONE)
    assert check_code(folder, True, None) == ONE
    assert check_code(folder, True, ONE) == ONE
    assert revision_of(folder) == ONE


@pytest.mark.parametrize("name", ["modeling.py", "part/more.py", "config.json", "new.py"])
def test_code_that_changed_after_the_seal_may_not(folder: Path, name: str) -> None:
    seal(folder, "some/model", ONE)
    (folder / name).write_text("z = 1\n")
    with pytest.raises(CannotLoad, match=name):
        check_code(folder, True, None)


def test_code_that_went_away_is_noticed(folder: Path) -> None:
    seal(folder, "some/model", ONE)
    (folder / "part" / "more.py").unlink()
    with pytest.raises(CannotLoad, match=r"part/more\.py"):
        check_code(folder, True, None)


def test_what_python_compiles_is_no_change(folder: Path) -> None:
    seal(folder, "some/model", ONE)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "modeling.py").write_text("")
    assert check_code(folder, True, None) == ONE


@pytest.mark.parametrize("content", ["", "[]", "{", '{"revision": "1"}'])
def test_a_seal_that_is_none_lets_nothing_run(folder: Path, content: str) -> None:
    (folder / SEAL).write_text(content)
    with pytest.raises(CannotLoad):
        check_code(folder, True, None)


def test_the_hubs_own_layouts_tell_the_commit(tmp_path: Path) -> None:
    cached = tmp_path / "models--some--model" / "snapshots" / ONE
    cached.mkdir(parents=True)
    assert revision_of(cached) == ONE
    local = tmp_path / "local"
    notes = local / ".cache" / "huggingface" / "download" / "sub"
    notes.mkdir(parents=True)
    (notes / "config.json.metadata").write_text(f"{ONE}\netag\n1.0\n")
    assert revision_of(local) == ONE
    # Files of two commits are a snapshot of neither.
    (notes / "model.safetensors.metadata").write_text(f"{OTHER}\netag\n1.0\n")
    assert revision_of(local) is None


def test_a_wanted_revision_has_to_be_known(folder: Path) -> None:
    check_snapshot(folder, None)
    with pytest.raises(CannotLoad, match="nobody knows"):
        check_snapshot(folder, ONE)
    seal(folder, "some/model", OTHER)
    with pytest.raises(CannotLoad, match=OTHER):
        check_snapshot(folder, ONE)


def test_the_command_seals(folder: Path) -> None:
    command = [sys.executable, "-m", "service.gpu.runtimes.snapshots", str(folder), "some/model"]
    done = subprocess.run([*command, ONE], capture_output=True, text=True, check=True)
    assert "modeling.py" in done.stdout
    assert check_code(folder, True, ONE) == ONE
    wrong = subprocess.run([*command, "main"], capture_output=True, text=True, check=False)
    assert wrong.returncode != 0
    assert "'main' is no commit" in wrong.stderr
