"""Tiny checkpoints, made once a session, for the tests of `.venv-gpu` (see tests/runtimes/test_with_torch.py)."""

import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

# The suite of the ordinary environment starts these tests in the other one.
collect_ignore_glob = ["test_*.py"] if find_spec("torch") is None else []

# Read when torch and transformers are imported: one thread, as other tests run beside these; nothing is asked of a hub;
# modules of remote code go into a fresh folder, which is removed when the session's process ends.
_hub = tempfile.TemporaryDirectory(prefix="roundtrip-hub-")
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = _hub.name
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

MakeFolder = Callable[[], Path]


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.models.tiny_llava import save_llava

    return save_llava(tmp_path_factory.mktemp("tiny") / "llava")


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory, llava_folder: Path) -> Path:
    from tests.models.tiny_flux import save_controlnet, save_flux, save_safety

    folder = tmp_path_factory.mktemp("upscaler")
    save_flux(folder / "flux")
    save_controlnet(folder / "controlnet")
    save_safety(folder / "safety")
    (folder / "captioner").symlink_to(llava_folder)
    return folder


@pytest.fixture(scope="session")
def minicpm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.models.tiny_remote import save_remote

    return save_remote("minicpm", tmp_path_factory.mktemp("tiny") / "minicpm")


@pytest.fixture(scope="session")
def sa2va_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.models.tiny_remote import save_remote

    return save_remote("sa2va", tmp_path_factory.mktemp("tiny") / "sa2va")


@pytest.fixture(scope="session")
def nemotron_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.models.tiny_remote import save_remote

    return save_remote("nemotron", tmp_path_factory.mktemp("tiny") / "nemotron")


@pytest.fixture
def picture() -> Image.Image:
    """Dark on the left, bright on the right, wider than high."""
    picture = Image.new("RGB", (75, 40), (20, 30, 40))
    picture.paste((230, 220, 90), (45, 0, 75, 40))
    return picture
