"""Which models the catalogue holds, and what adding one takes."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import service.catalog
from service.catalog import Catalog, Lifted, Model, all_models, check_input, discover
from service.errors import UnknownModel

IDS = [
    "fal-ai/flux-vision-upscaler",
    "fal-ai/llava-next",
    "fal-ai/mini-cpm",
    "fal-ai/nemotron-diffusion-vlm",
    "fal-ai/sa2va/8b/image",
]

SIXTH = """
from service.catalog.base import Model
from service.catalog.lifting import lift
MODEL = Model(id="fal-ai/sixth", title="Sixth", lift=lift)
"""


@pytest.fixture
def plug_in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files count as files of the package `service.catalog`."""
    monkeypatch.setattr(service.catalog, "__path__", [*service.catalog.__path__, str(tmp_path)])
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(f"service.catalog.{file.stem}", None)
        vars(service.catalog).pop(file.stem, None)


def test_all_models_are_the_five() -> None:
    assert [model.id for model in all_models()] == IDS


def test_a_sixth_model_is_one_new_file(plug_in_folder: Path) -> None:
    (plug_in_folder / "sixth.py").write_text(SIXTH)
    assert [model.id for model in discover(service.catalog)] == [*IDS, "fal-ai/sixth"]


def test_a_module_without_a_model_is_not_in_the_catalogue(plug_in_folder: Path) -> None:
    (plug_in_folder / "sixth.py").write_text("MODEL = 'a string'")
    assert discover(service.catalog) == all_models()


def test_two_modules_cannot_define_one_model(plug_in_folder: Path) -> None:
    (plug_in_folder / "sixth.py").write_text(SIXTH)
    (plug_in_folder / "seventh.py").write_text(SIXTH)
    with pytest.raises(ValueError, match="fal-ai/sixth"):
        discover(service.catalog)


def test_find_returns_the_model() -> None:
    assert Catalog().find("fal-ai/llava-next").title == "LLaVA v1.6 34B"


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(UnknownModel, match="'fal-ai/none'"):
        Catalog().find("fal-ai/none")


def test_an_unknown_model_of_a_megabyte_is_not_repeated_in_full() -> None:
    with pytest.raises(UnknownModel) as refusal:
        Catalog().find("\x00\ud800" * 500_000)
    assert len(refusal.value.message) < 1000
    assert refusal.value.message.isascii()


def test_an_operators_model_passes_through() -> None:
    model = Catalog(["acme/any"]).find("acme/any")
    assert (model.Input, model.Output, model.title) == (None, None, "acme/any")
    assert model.lift({"text": "hello"}) == Lifted(text="hello")


def test_an_operators_models_follow_the_five() -> None:
    models = Catalog(["acme/b", "acme/a", "acme/b"]).models
    assert [model.id for model in models] == [*IDS, "acme/b", "acme/a"]


def test_an_operator_cannot_switch_off_a_models_validation() -> None:
    assert Catalog(["fal-ai/llava-next"]).models == all_models()


@pytest.mark.parametrize("model", all_models(), ids=lambda model: model.id)
def test_the_schemas_are_valid_and_the_example_fits(model: Model) -> None:
    assert model.Input is not None
    assert model.Output is not None
    Draft202012Validator.check_schema(model.Output.model_json_schema())
    schema = model.Input.model_json_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(model.example)
    check_input(model, dict(model.example))


@pytest.mark.parametrize("model", all_models(), ids=lambda model: model.id)
def test_every_input_field_is_described(model: Model) -> None:
    assert model.Input is not None
    assert all(field.description for field in model.Input.model_fields.values())


def test_the_catalogue_imports_nothing_but_pydantic_and_the_standard_library() -> None:
    program = "import sys; before = set(sys.modules); import service.catalog as c; c.all_models(); "
    program += "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    imported = {name for name in printed.split() if name not in sys.stdlib_module_names and not name.startswith("_")}
    pydantic = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
    assert imported == {"service", *pydantic}
