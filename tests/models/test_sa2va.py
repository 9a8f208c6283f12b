"""Sa2VA's `predict_forward`, through a folder that brings its own code with the real call interface."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.catalog.sa2va import segment_labels
from service.gpu.runtimes import Cancelled, InputRefused, OutOfMemory, ProducedFile
from service.gpu.runtimes.files import mask_png
from service.gpu.runtimes.sa2va import Sa2VA
from tests.models.witness import SA2VA, Witness, asked, loaded, run

BOTH = "please segment both"


@pytest.fixture(scope="module")
def runtime(sa2va_folder: Path) -> Sa2VA:
    runtime = loaded(SA2VA, sa2va_folder)
    assert isinstance(runtime, Sa2VA)
    return runtime


def opened(file: ProducedFile) -> Image.Image:
    return Image.open(io.BytesIO(file.content))


def test_masks_are_grey_pngs_of_the_pictures_size_in_the_answers_order(runtime: Sa2VA, picture: Image.Image) -> None:
    output = run(runtime, asked(SA2VA, prompt=BOTH), picture).output
    assert segment_labels(output["output"]) == ["the dark part", "the bright part"]
    dark, bright = (np.asarray(opened(file)) for file in output["masks"])
    left = np.zeros((40, 75), dtype=bool)
    left[:, :45] = True
    assert (dark == np.where(left, 255, 0)).all()
    assert (bright == np.where(left, 0, 255)).all()
    for file in output["masks"]:
        mask = opened(file)
        assert (mask.mode, mask.format, mask.size) == ("L", "PNG", picture.size)
        assert (file.width, file.height, file.content_type) == (75, 40, "image/png")
        name, _, ending = file.file_name.partition(".")
        assert len(name) == 32
        assert int(name, 16) >= 0
        assert ending == "png"
    assert len({file.file_name for file in output["masks"]}) == 2


def test_a_bright_picture_turns_the_order_round(runtime: Sa2VA) -> None:
    picture = Image.new("RGB", (33, 21), "white")
    picture.paste("black", (0, 0, 8, 21))
    output = run(runtime, asked(SA2VA, prompt=BOTH), picture).output
    assert segment_labels(output["output"]) == ["the bright part", "the dark part"]
    assert [np.asarray(opened(file)).mean() > 127 for file in output["masks"]] == [True, False]


def test_the_marks_stay_in_the_answer(runtime: Sa2VA, picture: Image.Image) -> None:
    assert run(runtime, asked(SA2VA, prompt="please segment it"), picture).output["output"] == (
        "<p> the dark part </p> [SEG] .<|im_end|>"
    )


def test_an_answer_without_masks_is_one(runtime: Sa2VA, picture: Image.Image) -> None:
    output = run(runtime, asked(SA2VA, prompt="what?"), picture).output
    assert output["masks"] == []
    assert output["output"].startswith("dark ")


def test_the_picture_is_shown_to_the_language_model(runtime: Sa2VA, picture: Image.Image) -> None:
    """The prompt as it comes holds no mark for a picture, and then none would be looked at."""
    darker = picture.point(lambda value: value // 2)
    answers = {run(runtime, asked(SA2VA, prompt="what?"), each).output["output"] for each in (picture, darker)}
    assert len(answers) == 2


def test_a_prompt_that_holds_the_mark_is_refused(runtime: Sa2VA, picture: Image.Image) -> None:
    with pytest.raises(InputRefused, match="<image>"):
        run(runtime, asked(SA2VA, prompt="an <image> here"), picture)


def test_steps_go_up_over_tokens_and_masks(runtime: Sa2VA, picture: Image.Image) -> None:
    witness = Witness()
    run(runtime, asked(SA2VA, prompt=BOTH), picture, witness=witness)
    done = [step for step, _ in witness.steps]
    assert done == sorted(set(done))
    assert len(done) > 20


@pytest.mark.parametrize("cancel_at", [0, 4, "masks"])
def test_it_can_be_ended_at_a_token_and_between_masks(
    runtime: Sa2VA, picture: Image.Image, cancel_at: int | str
) -> None:
    whole = Witness()
    expected = run(runtime, asked(SA2VA, prompt=BOTH), picture, witness=whole).output["output"]
    # At the end stand, for each of two masks, the one before it is drawn and the one before it is written.
    count = len(whole.steps) - 3 if cancel_at == "masks" else cancel_at
    assert isinstance(count, int)
    witness = Witness(cancel_at=count)
    with pytest.raises(Cancelled):
        run(runtime, asked(SA2VA, prompt=BOTH), picture, witness=witness)
    assert len(witness.steps) == count
    # Nothing of the ended run is left on the model.
    assert list(runtime._model.stop_criteria) == []
    assert run(runtime, asked(SA2VA, prompt=BOTH), picture).output["output"] == expected


def test_the_longest_answer_is_the_operators_to_set(sa2va_folder: Path, picture: Image.Image) -> None:
    short = loaded(SA2VA, sa2va_folder, max_new_tokens="3")
    whole = loaded(SA2VA, sa2va_folder)
    answers = [run(each, asked(SA2VA, prompt=BOTH), picture).output["output"] for each in (short, whole)]
    assert len(answers[0]) < len(answers[1])


def test_memory_is_sought_once_more(runtime: Sa2VA, picture: Image.Image) -> None:
    passes = 0

    def hook(*_: object) -> None:
        nonlocal passes
        passes += 1
        raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = runtime._model.embed.register_forward_pre_hook(hook)
    try:
        with pytest.raises(OutOfMemory):
            run(runtime, asked(SA2VA), picture)
    finally:
        handle.remove()
    assert passes == 2
    assert list(runtime._model.stop_criteria) == []


def test_a_mask_of_another_size_is_not_passed_on() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\).*5 x 3"):
        mask_png(np.zeros((1, 3, 4), dtype=bool), (5, 3))
