"""Nemotron's `generate`, with its bare assertions, through a folder that brings its own code."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from service.gpu.runtimes import Cancelled, OutOfMemory
from service.gpu.runtimes.nemotron import Nemotron
from tests.models.witness import NEMOTRON, Witness, asked, loaded, raising, run

PARTS = {"image_validation_time", "preprocessing_time", "gpu_transfer_time", "generation_time", "decode_time"}


@pytest.fixture(scope="module")
def runtime(nemotron_folder: Path) -> Nemotron:
    runtime = loaded(NEMOTRON, nemotron_folder)
    assert isinstance(runtime, Nemotron)
    return runtime


def test_usage_and_timings_are_the_seeds(runtime: Nemotron, picture: Image.Image) -> None:
    output = runtime.run(asked(NEMOTRON, max_tokens=64), [picture], Witness(), loaded_seconds=2.5).output
    assert set(output["timings"]) == PARTS | {"total_time"}
    assert output["timings"]["image_validation_time"] == 2.5
    assert output["timings"]["total_time"] >= sum(output["timings"][name] for name in PARTS)
    assert set(output["usage"]) == {"prompt_tokens", "completion_tokens", "num_function_evals"}
    assert 0 < output["usage"]["completion_tokens"] <= 64
    prepared = runtime._prepare("what is in this picture?", picture)
    assert output["usage"]["prompt_tokens"] == prepared["input_ids"].shape[1]


def test_pixels_and_prompt_decide_the_answer(runtime: Nemotron, picture: Image.Image) -> None:
    bright = Image.new("RGB", (50, 50), "white")
    outputs = [
        run(runtime, asked(NEMOTRON, max_tokens=32, prompt=prompt), each).output["output"]
        for prompt in ("what?", "who?")
        for each in (picture, bright)
    ]
    assert len(set(outputs)) == 4


@given(
    max_tokens=st.integers(1, 70),
    block_length=st.integers(8, 40),
    steps=st.none() | st.integers(1, 300),
    alias=st.booleans(),
)
def test_whatever_the_schema_lets_in_the_models_assertions_do_too(
    runtime: Nemotron, max_tokens: int, block_length: int, steps: int | None, alias: bool
) -> None:
    fields: dict[str, int] = {"max_tokens": max_tokens, "block_length": block_length}
    if steps is not None:
        fields["inference_steps" if alias else "num_inference_steps"] = steps
    blocks = -(-max_tokens // block_length)
    try:
        input = asked(NEMOTRON, **fields)
    except ValidationError:
        assert steps is not None
        assert steps < blocks or steps % blocks
        return
    usage = run(runtime, input, Image.new("RGB", (8, 8))).output["usage"]
    assert usage["completion_tokens"] <= max_tokens
    bound = blocks * (min(input.steps // blocks, block_length) + 1)
    # A second go, where tokens were left undecoded, has a step for each token.
    assert usage["num_function_evals"] <= bound + blocks * (block_length + 1)


def test_unchecked_steps_would_end_in_a_bare_assertion(runtime: Nemotron, picture: Image.Image) -> None:
    """The stand-in is as strict as the real one, so the test above means something."""
    unchecked = asked(NEMOTRON, max_tokens=64).model_copy(update={"num_inference_steps": 63})
    unchecked.model_fields_set.add("num_inference_steps")
    with pytest.raises(AssertionError, match=r"^$"):
        run(runtime, unchecked, picture)


def test_tokens_left_undecoded_are_decoded_by_a_second_go(runtime: Nemotron, picture: Image.Image) -> None:
    witness = Witness()
    input = asked(NEMOTRON, max_tokens=64, num_inference_steps=8, threshold=0.999)
    product = run(runtime, input, picture, witness=witness)
    assert product.notes["masked"] > 0
    assert product.notes["left_masked"] == 0
    assert "once more with 64" in witness.lines[0]
    assert product.output["usage"]["num_function_evals"] > 8 + 2


def test_or_they_are_left_out(nemotron_folder: Path, picture: Image.Image) -> None:
    runtime = loaded(NEMOTRON, nemotron_folder, retry_masked="no")
    witness = Witness()
    product = run(
        runtime, asked(NEMOTRON, max_tokens=64, num_inference_steps=8, threshold=0.999), picture, witness=witness
    )
    left = product.notes["left_masked"]
    assert left == product.notes["masked"] > 0
    assert witness.lines == [f"{left} tokens were left undecoded and are left out"]
    assert product.output["usage"]["num_function_evals"] == 8 + 2
    assert isinstance(runtime, Nemotron)
    assert runtime._tokenizer.decode([runtime._mask]) not in product.output["output"]


def test_the_watch_is_told_of_every_evaluation_and_can_end_it(runtime: Nemotron, picture: Image.Image) -> None:
    witness = Witness()
    input = asked(NEMOTRON, max_tokens=32, threshold=0.0)
    usage = run(runtime, input, picture, witness=witness).output["usage"]
    assert len(witness.steps) == usage["num_function_evals"]
    ended = Witness(cancel_at=1)
    with pytest.raises(Cancelled):
        run(runtime, asked(NEMOTRON, max_tokens=64), picture, witness=ended)
    assert len(ended.steps) == 1
    assert run(runtime, input, picture).output["usage"] == usage


def test_a_release_with_fewer_parameters_is_called_with_fewer(
    runtime: Nemotron, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text siblings' newer `generate` knows neither steps nor shift_logits."""
    real = runtime._model.generate
    seen = []

    def newer(prompt_ids, max_new_tokens, block_length, threshold, pixel_values, image_sizes, eos_token_id):  # type: ignore[no-untyped-def]
        seen.append(image_sizes.tolist())
        return real(
            prompt_ids, max_new_tokens, max_new_tokens, block_length, False, threshold, pixel_values=pixel_values
        )

    monkeypatch.setattr(runtime._model, "generate", newer)
    assert run(runtime, asked(NEMOTRON, max_tokens=32), picture).output["output"]
    assert seen == [[[40, 75]]]


def test_memory_is_sought_once_more(runtime: Nemotron, picture: Image.Image) -> None:
    hook, passes = raising(lambda: torch.OutOfMemoryError("CUDA out of memory."), 1)
    handle = runtime._model.encoder.register_forward_pre_hook(hook)
    try:
        assert run(runtime, asked(NEMOTRON, max_tokens=32, threshold=0.0), picture).output["output"]
        hook, _ = raising(lambda: torch.OutOfMemoryError("CUDA out of memory."), 99)
        handle.remove()
        handle = runtime._model.encoder.register_forward_pre_hook(hook)
        with pytest.raises(OutOfMemory):
            run(runtime, asked(NEMOTRON, max_tokens=32), picture)
    finally:
        handle.remove()
    assert passes[0] > 2
