"""One table of inputs for all five: payloads in the model's own schema, from which the catalogue lifts its facts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from service.catalog import Catalog
from service.gpu.runtimes import ProducedFile, Runtime
from tests.models.witness import FLUX, LLAVA, MINICPM, NEMOTRON, SA2VA, URL, Witness, asked, loaded

TABLE: list[tuple[str, dict[str, Any]]] = [
    (LLAVA, {}),
    (LLAVA, {"max_tokens": 1, "temperature": 0, "top_p": 0.5}),
    (MINICPM, {}),
    (MINICPM, {"image_urls": [URL, URL, URL]}),
    (SA2VA, {"prompt": "what?"}),
    (SA2VA, {"prompt": "please segment both"}),
    (NEMOTRON, {"max_tokens": 40}),
    (NEMOTRON, {"max_tokens": 64, "inference_steps": 16, "threshold": 0.3, "block_length": 16}),
    (FLUX, {}),
    (FLUX, {"upscale_factor": 1, "creativity": 0, "guidance": 20, "steps": 4, "seed": 7}),
]


@dataclass(frozen=True)
class Runtimes:
    folders: dict[str, Path]
    opened: dict[str, Runtime]

    def of(self, model: str) -> Runtime:
        if model not in self.opened:
            options = {"tile": "64", "overlap": "16"} if model == FLUX else {}
            self.opened[model] = loaded(model, self.folders[model], **options)
        return self.opened[model]


@pytest.fixture(scope="module")
def runtimes(
    llava_folder: Path, minicpm_folder: Path, sa2va_folder: Path, nemotron_folder: Path, flux_folder: Path
) -> Runtimes:
    folders = (llava_folder, minicpm_folder, sa2va_folder, nemotron_folder, flux_folder)
    return Runtimes(dict(zip((LLAVA, MINICPM, SA2VA, NEMOTRON, FLUX), folders, strict=True)), {})


def posted(value: Any) -> Any:
    """As the worker posts it: files stored, and their places in the store instead."""
    if isinstance(value, ProducedFile):
        return {
            "url": f"https://example.com/{value.file_name}",
            "content_type": value.content_type,
            "file_name": value.file_name,
            "file_size": len(value.content),
            "width": value.width,
            "height": value.height,
        }
    if isinstance(value, dict):
        return {name: posted(each) for name, each in value.items()}
    return [posted(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("model", "fields"), TABLE, ids=lambda each: each if isinstance(each, str) else None)
def test_a_payload_is_in_the_models_schema(
    runtimes: Runtimes, picture: Image.Image, model: str, fields: dict[str, Any]
) -> None:
    input = asked(model, **fields)
    pictures = [picture] * len(getattr(input, "image_urls", [URL]))
    product = runtimes.of(model).run(input, pictures, Witness())
    known = Catalog().find(model)
    assert known.Output is not None
    # JSON and nothing else: no number of numpy's, no tensor.
    payload = json.loads(json.dumps(posted(product.output), allow_nan=False))
    assert set(payload) == set(known.Output.model_fields)
    known.Output.model_validate(payload, strict=True)
    lifted = known.lift(payload)
    assert lifted.text is not None
    assert len(lifted.files) == len(payload.get("masks", [])) + ("image" in payload)
    json.dumps(product.notes, allow_nan=False)
    timings = product.output.get("timings", {}) if model == NEMOTRON else product.notes["timings"]
    assert timings["total_time"] >= sum(seconds for name, seconds in timings.items() if name != "total_time") > 0


def test_the_labels_of_masks_are_lifted_in_order(runtimes: Runtimes, picture: Image.Image) -> None:
    product = runtimes.of(SA2VA).run(asked(SA2VA, prompt="please segment both"), [picture], Witness())
    lifted = Catalog().find(SA2VA).lift(posted(product.output))
    assert [(file.index, file.label, file.width, file.height) for file in lifted.files] == [
        (0, "the dark part", 75, 40),
        (1, "the bright part", 75, 40),
    ]
