"""LLaVA-NeXT's own classes, small: answers, sampling, the context, and batches that answer as single inputs do."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from service.gpu.runtimes import Batching, Call, Cancelled, InputRefused, OutOfMemory, Product
from service.gpu.runtimes.llava import Llava
from tests.models.tiny_llava import CONTEXT
from tests.models.witness import LLAVA, Witness, asked, loaded, raising, run

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (9, 9, 9), (250, 250, 250)]
PROMPTS = ["what?", "who drew this? a dog, a truck or a house?", "red", "describe the image in one short sentence."]


@pytest.fixture(scope="module")
def runtime(llava_folder: Path) -> Llava:
    runtime = loaded(LLAVA, llava_folder)
    assert isinstance(runtime, Llava)
    return runtime


def pictures(count: int) -> list[Image.Image]:
    """Of different shapes and colours."""
    return [Image.new("RGB", (30 + 25 * index, 90 - 7 * index), COLOURS[index % 6]) for index in range(count)]


def texts(results: list[Product | Exception]) -> list[str]:
    assert all(isinstance(each, Product) for each in results), results
    return [each.output["output"] for each in results if isinstance(each, Product)]


def test_the_answer_is_what_generate_says_without_us(runtime: Llava, picture: Image.Image) -> None:
    answered = run(runtime, asked(LLAVA, temperature=0, max_tokens=12), picture).output
    processor, model = runtime._processor, runtime._model
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is in this picture?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    prepared = processor(images=[picture], text=[text], return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**prepared, max_new_tokens=12, do_sample=False)
    bare = processor.tokenizer.decode(ids[0, prepared["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answered == {"output": bare.strip(), "partial": False}


def test_pixels_and_prompt_decide_the_answer(runtime: Llava) -> None:
    black, white = (Image.new("RGB", (60, 60), colour) for colour in ("black", "white"))
    answers = {
        run(runtime, asked(LLAVA, temperature=0, prompt=prompt), each).output["output"]
        for prompt in PROMPTS[:2]
        for each in (black, white)
    }
    assert len(answers) == 4


def test_sampling_follows_the_seed_that_an_operator_sets(llava_folder: Path, picture: Image.Image) -> None:
    def answer(**options: str) -> str:
        text: str = run(loaded(LLAVA, llava_folder, **options), asked(LLAVA, temperature=1.5), picture).output["output"]
        return text

    assert answer(seed="1") == answer(seed="1") != answer(seed="2")


def test_no_more_than_the_most_tokens(runtime: Llava, picture: Image.Image) -> None:
    witness = Witness()
    notes = run(runtime, asked(LLAVA, max_tokens=3, temperature=0), picture, witness=witness).notes
    assert notes["usage"]["completion_tokens"] == 3
    assert notes["finish_reason"] == "length"
    assert witness.steps == [(1, 3), (2, 3), (3, 3)]


def test_timings_add_up_to_less_than_the_whole(runtime: Llava, picture: Image.Image) -> None:
    timings = runtime.run(asked(LLAVA), [picture], Witness(), loaded_seconds=5.0).notes["timings"]
    total = timings.pop("total_time")
    assert set(timings) == {"preprocessing_time", "gpu_transfer_time", "generation_time", "decode_time"}
    assert total >= 5.0 + sum(timings.values())


def test_what_does_not_fit_the_context_is_refused(runtime: Llava, picture: Image.Image) -> None:
    used = run(runtime, asked(LLAVA, max_tokens=1), picture).notes["usage"]["prompt_tokens"]
    with pytest.raises(InputRefused) as refusal:
        run(runtime, asked(LLAVA, max_tokens=CONTEXT - used + 1), picture)
    assert refusal.value.detail[0]["loc"] == ["body", "max_tokens"]
    assert f"at most {CONTEXT - used}" in refusal.value.detail[0]["msg"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"temperature": -0.1}, "temperature"), ({"top_p": 0.0}, "top_p"), ({"prompt": "see <image> there"}, "prompt")],
)
def test_what_generate_would_raise_for_is_refused_in_words(
    runtime: Llava, picture: Image.Image, fields: dict[str, object], field: str
) -> None:
    with pytest.raises(InputRefused) as refusal:
        run(runtime, asked(LLAVA, **fields), picture)
    assert refusal.value.detail[0]["loc"] == ["body", field]


def test_a_batch_answers_as_single_inputs_do(runtime: Llava) -> None:
    calls = [
        Call(asked(LLAVA, temperature=0, prompt=PROMPTS[index % 4], max_tokens=5 + index), [each], Witness())
        for index, each in enumerate(pictures(10))
    ]
    singly = [runtime.run(call.input, call.pictures, Witness()) for call in calls]
    together = runtime.run_many(calls)
    assert texts(together) == texts(list(singly))
    assert [each.notes["batch"] for each in together if isinstance(each, Product)] == [8] * 8 + [2] * 2
    for one, other in zip(singly, together, strict=True):
        assert isinstance(other, Product)
        assert other.notes["usage"] == one.notes["usage"]


def test_in_a_batch_one_is_cancelled_one_refused_and_the_others_answered(runtime: Llava) -> None:
    inputs = [asked(LLAVA, temperature=0, prompt=prompt, max_tokens=20) for prompt in PROMPTS]
    inputs[1] = asked(LLAVA, temperature=0, max_tokens=CONTEXT)
    watches = [Witness(), Witness(), Witness(cancel_at=2), Witness()]
    calls = [Call(input, [each], watch) for input, each, watch in zip(inputs, pictures(4), watches, strict=True)]
    results = runtime.run_many(calls)
    assert [type(each) for each in results] == [Product, InputRefused, Cancelled, Product]
    alone = [runtime.run(calls[place].input, calls[place].pictures, Witness()).output for place in (0, 3)]
    assert [each.output for each in results if isinstance(each, Product)] == alone
    assert len(watches[2].steps) == 2


def test_inputs_with_other_settings_share_no_batch(runtime: Llava) -> None:
    assert isinstance(runtime, Batching)
    keys = {
        runtime.batch_key(Call(asked(LLAVA, **fields), [], Witness()))
        for fields in ({"max_tokens": 5}, {"max_tokens": 9, "prompt": "other"}, {"temperature": 0}, {"top_p": 0.5})
    }
    assert len(keys) == 3


def test_a_batch_that_does_not_fit_into_memory_is_halved(runtime: Llava) -> None:
    """The language model raises torch's own error until at most two inputs share a batch."""
    calls = [
        Call(asked(LLAVA, temperature=0, prompt=PROMPTS[index % 4], max_tokens=5), [each], Witness())
        for index, each in enumerate(pictures(5))
    ]
    expected = texts(runtime.run_many(calls))

    def hook(_module: object, _arguments: object, named: dict[str, torch.Tensor]) -> None:
        if named["inputs_embeds"].shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    handle = runtime._model.model.language_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        assert texts(runtime.run_many(calls)) == expected
    finally:
        handle.remove()
    assert any("out of memory with 5 inputs" in line for line in calls[0].watch.lines)  # type: ignore[attr-defined]


def test_what_does_not_fit_alone_is_tried_twice_and_fails(runtime: Llava, picture: Image.Image) -> None:
    hook, passes = raising(lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), 99)
    handle = runtime._model.model.language_model.register_forward_pre_hook(hook)
    try:
        with pytest.raises(OutOfMemory, match=r"2\.00 GiB"):
            run(runtime, asked(LLAVA), picture)
    finally:
        handle.remove()
    assert passes == [2]
    assert run(runtime, asked(LLAVA), picture).output["output"]
