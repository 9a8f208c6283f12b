"""Folders of models that bring their own code, with the call interfaces of the real ones: see `remote/`."""

import importlib.util
import json
import shutil
import sys
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from service.gpu.runtimes.snapshots import seal
from tests.models.tiny_tokenizer import train

REMOTE = Path(__file__).parent / "remote"
REVISION = "0123456789abcdef0123456789abcdef01234567"
CLASSES = {"minicpm": "TinyMiniCPM", "sa2va": "TinySa2VA", "nemotron": "TinyNemotron"}
MARKS = {"minicpm": (), "sa2va": ("[SEG]", "<p>", "</p>"), "nemotron": ()}

_number = count()


def save_remote(family: str, folder: Path, *, sealed: bool = True, post_init: bool = True) -> Path:
    """The folder's name has to be new: code is cached by it."""
    shutil.copytree(REMOTE / family, folder, ignore=shutil.ignore_patterns("__pycache__"))
    name = CLASSES[family]
    modeling = folder / "modeling_tiny.py"
    code = modeling.read_text()
    tokenizer = train(*MARKS[family])
    tokenizer.save_pretrained(folder)
    package = _imported(folder)
    torch.manual_seed(11)
    config = getattr(sys.modules[f"{package.__name__}.configuration_tiny"], f"{name}Config")(vocab_size=len(tokenizer))
    config.auto_map = {"AutoConfig": f"configuration_tiny.{name}Config", "AutoModel": f"modeling_tiny.{name}"}
    config.architectures = [name]
    getattr(sys.modules[f"{package.__name__}.modeling_tiny"], name)(config).save_pretrained(folder)
    # Saving by a class that is no automatic one leaves out where its code is.
    written = json.loads((folder / "config.json").read_text())
    written["auto_map"] = config.auto_map
    (folder / "config.json").write_text(json.dumps(written))
    if not post_init:
        modeling.write_text(code.replace("        self.post_init()\n", ""))
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)
    if sealed:
        seal(folder, f"tiny/{family}", REVISION)
    return folder


def without_a_weight(folder: Path, name: str) -> Path:
    path = folder / "model.safetensors"
    weights: dict[str, Any] = load_file(path)
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def _imported(folder: Path) -> ModuleType:
    """The folder's code as a package, as the library will import it."""
    if (folder / "image_processing.py").exists():
        from service.gpu.runtimes.shims import fit_transformers

        fit_transformers()
    package = ModuleType(f"tiny_remote_{next(_number)}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    for name in ("configuration_tiny", "modeling_tiny"):
        importlib.import_module(f"{package.__name__}.{name}")
    return package
