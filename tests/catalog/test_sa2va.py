"""Sa2VA's input, its masks and their labels."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalog import Catalog, LiftedFile
from service.catalog.sa2va import Sa2VAInput, Sa2VAOutput, segment_labels

MODEL = Catalog().find("fal-ai/sa2va/8b/image")

SEED: dict[str, Any] = {
    "output": (
        "<p>  A white pickup truck  </p>   [SEG]  is parked on the side of  <p>  the red building  </p>   [SEG] , "
        "creating a unique and eye-catching contrast.<|im_end|>"
    ),
    "masks": [
        {
            "file_size": 15724,
            "height": 1200,
            "file_name": "019c3c1e3c50446e9996f709d36debb4.png",
            "content_type": "image/png",
            "url": "https://v3.fal.media/files/monkey/6ITmhHQJ-69s-UxajrY5T_019c3c1e3c50446e9996f709d36debb4.png",
            "width": 1800,
        },
        {
            "file_size": 14905,
            "height": 1200,
            "file_name": "0a1522ca410942c7ad6c73efa15b3549.png",
            "content_type": "image/png",
            "url": "https://v3.fal.media/files/monkey/IljtMxahoo9-7SUpx0fth_0a1522ca410942c7ad6c73efa15b3549.png",
            "width": 1800,
        },
    ],
}


def masks(output: Any) -> list[tuple[int, str | None, str]]:
    return [(file.index, file.label, file.url) for file in MODEL.lift(output).files]


def test_both_input_fields_are_required() -> None:
    assert Sa2VAInput.model_json_schema()["required"] == ["prompt", "image_url"]


def test_the_seeds_output_is_lifted_exactly() -> None:
    lifted = MODEL.lift(SEED)
    assert lifted.text == SEED["output"]
    labels = ("A white pickup truck", "the red building")
    assert lifted.files == tuple(
        LiftedFile(kind="mask", index=index, label=labels[index], **image) for index, image in enumerate(SEED["masks"])
    )
    assert (lifted.seed, lifted.usage, lifted.timings) == (None, {}, {})


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        ("", []),
        ("<p> truck </p>", []),
        ("[SEG]", [None]),
        ("<p> truck </p> [SEG]", ["truck"]),
        ("<p>truck</p>[SEG]<p>house</p>[SEG]", ["truck", "house"]),
        ("<p> truck </p> [SEG] [SEG]", ["truck", "truck"]),
        ("<p> truck </p> and <p> house </p> [SEG]", ["house"]),
        ("[SEG] <p> truck </p>", [None]),
        ("[SEG] <p> truck </p> [SEG]", [None, "truck"]),
        ("<p> truck [SEG]", [None]),
        ("truck </p> [SEG]", [None]),
        ("<p> a <p> truck </p> [SEG]", ["truck"]),
        ("<p> truck [SEG] </p> [SEG]", [None, "truck [SEG]"]),
        ("<p>\n red\ttruck \u00a0</p>[SEG]", ["red\ttruck"]),
        ("<p></p>[SEG]", [""]),
        ("<p> <b>&amp;</b>\x00 </p>[SEG]", ["<b>&amp;</b>\x00"]),
        ("<P> truck </P> [seg]", []),
    ],
)
def test_the_label_of_a_segment_is_the_nearest_phrase_before_it(answer: str, labels: list[str | None]) -> None:
    assert segment_labels(answer) == labels


@given(st.lists(st.text(st.characters(exclude_characters="<>[]")).map(str.strip), max_size=8))
def test_every_phrase_labels_its_own_mask(phrases: list[str]) -> None:
    answer = " and ".join(f"<p>  {phrase}  </p>   [SEG] " for phrase in phrases)
    urls = [f"https://example.com/{index}.png" for index in range(len(phrases))]
    assert masks({"output": answer, "masks": [{"url": url} for url in urls]}) == list(
        zip(range(len(phrases)), phrases, urls, strict=True)
    )


@given(st.lists(st.sampled_from(["<p>", "</p>", "[SEG]", "a", "b", " "])).map("".join))
def test_a_segment_has_one_label_whatever_the_answer(answer: str) -> None:
    labels = segment_labels(answer)
    assert len(labels) == answer.count("[SEG]")
    assert all(label is None or label in answer for label in labels)


def test_masks_beyond_the_labels_have_none() -> None:
    output = {"output": "<p> truck </p> [SEG]", "masks": ["https://example.com/0", "https://example.com/1"]}
    assert masks(output) == [(0, "truck", "https://example.com/0"), (1, None, "https://example.com/1")]


def test_labels_beyond_the_masks_are_dropped() -> None:
    output = {"output": "<p> truck </p> [SEG] <p> house </p> [SEG]", "masks": [{"url": "https://example.com/0"}]}
    assert masks(output) == [(0, "truck", "https://example.com/0")]


def test_a_mask_keeps_its_label_when_one_before_it_is_broken() -> None:
    output = {"output": "<p> truck </p> [SEG] <p> house </p> [SEG]", "masks": [None, {"url": "https://example.com/1"}]}
    assert masks(output) == [(0, "house", "https://example.com/1")]


def test_the_keys_of_a_mask_object_are_the_labels() -> None:
    named = {"truck": {"url": "https://example.com/0"}, " house ": "https://example.com/1"}
    assert masks({"output": "<p> other </p> [SEG]", "masks": named}) == [
        (0, "truck", "https://example.com/0"),
        (1, " house ", "https://example.com/1"),
    ]


@pytest.mark.parametrize("answer", [None, 1, [], {}])
def test_masks_without_an_answer_have_no_labels(answer: object) -> None:
    assert masks({"output": answer, "masks": ["https://example.com/0"]}) == [(0, None, "https://example.com/0")]


@pytest.mark.parametrize("none", [[], {}, None, "masks", 3])
def test_an_answer_without_masks_is_lifted(none: object) -> None:
    lifted = MODEL.lift({"output": "Nothing to see. [SEG]", "masks": none})
    assert (lifted.text, lifted.files) == ("Nothing to see. [SEG]", ())


def test_a_megabyte_of_marks_is_read_once() -> None:
    assert segment_labels("<p>" * 300_000 + "truck</p>[SEG]") == ["truck"]


def test_the_output_schema_takes_a_list_and_an_object_of_masks() -> None:
    Sa2VAOutput.model_validate(SEED)
    Sa2VAOutput.model_validate({"output": "", "masks": {"truck": {"url": "https://example.com/0"}}})
