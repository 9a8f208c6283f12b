"""MiniCPM-V's `chat`, through a folder that brings its own code with the real call interface."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from service.gpu.runtimes import Cancelled, InputRefused, OutOfMemory
from service.gpu.runtimes.minicpm import MiniCPM
from tests.models.witness import MINICPM, URL, Witness, asked, loaded, raising, run

BLACK, WHITE = (Image.new("RGB", (40, 30), colour) for colour in ("black", "white"))


@pytest.fixture(scope="module")
def runtime(minicpm_folder: Path) -> MiniCPM:
    runtime = loaded(MINICPM, minicpm_folder, sampling="no")
    assert isinstance(runtime, MiniCPM)
    return runtime


def answer(runtime: MiniCPM, *pictures: Image.Image, prompt: str = "compare") -> str:
    text: str = run(runtime, asked(MINICPM, image_urls=[URL] * len(pictures), prompt=prompt), *pictures).output[
        "output"
    ]
    return text


def test_every_picture_its_place_and_the_prompt_decide_the_answer(runtime: MiniCPM) -> None:
    asked_for = [(BLACK,), (WHITE,), (BLACK, WHITE), (WHITE, BLACK), (BLACK, WHITE, WHITE)]
    answers = [answer(runtime, *pictures) for pictures in asked_for] + [answer(runtime, BLACK, prompt="other")]
    assert len(set(answers)) == len(answers)


def test_sampling_is_what_the_model_does_unless_told_otherwise(minicpm_folder: Path, runtime: MiniCPM) -> None:
    sampled = [answer(loaded(MINICPM, minicpm_folder, seed=seed), BLACK) for seed in ("1", "1", "2")]  # type: ignore[arg-type]
    assert sampled[0] == sampled[1] != sampled[2]
    assert answer(runtime, BLACK) == answer(runtime, BLACK) not in sampled


def test_the_watch_is_told_of_every_token_and_can_end_it(runtime: MiniCPM) -> None:
    witness = Witness()
    run(runtime, asked(MINICPM), BLACK, witness=witness)
    assert [done for done, _ in witness.steps] == list(range(len(witness.steps)))
    assert len(witness.steps) > 5
    ended = Witness(cancel_at=3)
    with pytest.raises(Cancelled):
        run(runtime, asked(MINICPM), BLACK, witness=ended)
    assert len(ended.steps) == 3
    again = Witness()
    run(runtime, asked(MINICPM), BLACK, witness=again)
    assert again.steps == witness.steps


def test_what_would_be_cut_without_a_word_is_refused(runtime: MiniCPM) -> None:
    with pytest.raises(InputRefused, match="tokens"):
        answer(runtime, BLACK, prompt="a dog " * 20_000)


def test_more_pictures_than_fit_are_refused(runtime: MiniCPM) -> None:
    with pytest.raises(InputRefused, match="at most 16"):
        answer(runtime, *[BLACK] * 17)


def test_memory_is_sought_by_looking_less_closely(runtime: MiniCPM, picture: Image.Image) -> None:
    hook, passes = raising(lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB."), 1)
    handle = runtime._model.vpm.register_forward_pre_hook(hook)
    witness = Witness()
    try:
        run(runtime, asked(MINICPM), picture, witness=witness)
    finally:
        handle.remove()
    assert passes == [2]
    assert witness.lines == ["out of memory with 9: CUDA out of memory. Tried to allocate 1.00 GiB."]


def test_three_sizes_are_tried_before_it_fails(runtime: MiniCPM, picture: Image.Image) -> None:
    hook, passes = raising(lambda: torch.OutOfMemoryError("CUDA out of memory."), 99)
    handle = runtime._model.vpm.register_forward_pre_hook(hook)
    try:
        with pytest.raises(OutOfMemory):
            run(runtime, asked(MINICPM), picture)
    finally:
        handle.remove()
    assert passes == [3]
