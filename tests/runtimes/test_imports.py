"""What the ordinary environment needs of the runtimes: to import them, and nothing that only a GPU machine has."""

import subprocess
import sys

import pytest

from service.catalog import all_models
from service.gpu.runtimes import MODULES

HEAVY = {"torch", "transformers", "diffusers", "accelerate", "safetensors", "tokenizers", "huggingface_hub"}
PROGRAM = """
import importlib, pkgutil, sys
import service.gpu.runtimes as runtimes
for module in pkgutil.iter_modules(runtimes.__path__, "service.gpu.runtimes."):
    importlib.import_module(module.name)
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_every_model_of_the_catalogue_has_a_runtime() -> None:
    assert set(MODULES) == {model.id for model in all_models()}


def test_importing_them_loads_no_torch() -> None:
    printed = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    assert not HEAVY & set(printed.split())


@pytest.mark.parametrize("model", all_models(), ids=lambda model: model.id)
def test_the_catalogues_example_is_within_the_limits(model) -> None:  # type: ignore[no-untyped-def]
    assert model.limits(model.Input.model_validate(model.example)) == []
