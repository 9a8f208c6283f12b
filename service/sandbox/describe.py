"""Imitations of the three models that put a picture into words: the words are measurements."""

from math import ceil
from time import perf_counter
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

from service.sandbox.failures import ModelFailure
from service.sandbox.measures import measure, shrink
from service.sandbox.work import Work

MARK = "[sandbox]"
DEFAULT_STEPS = 256

Text = Annotated[str, StringConstraints(min_length=1)]


class LlavaInput(BaseModel):
    image_url: Text
    prompt: Text
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.2, ge=0)
    top_p: float = Field(default=1, ge=0, le=1)


class MiniCpmInput(BaseModel):
    image_urls: list[Text] = Field(min_length=1, max_length=32)
    prompt: Text


class NemotronInput(BaseModel):
    image_url: Text
    prompt: Text
    max_tokens: int = Field(default=512, ge=1)
    num_inference_steps: int | None = Field(default=None, ge=1)
    inference_steps: int | None = Field(default=None, ge=1)
    block_length: int = Field(default=32, ge=1)
    threshold: float = Field(default=0.9, ge=0, le=1)

    @property
    def blocks(self) -> int:
        return ceil(self.max_tokens / self.block_length)

    @property
    def steps_a_block(self) -> int:
        given = self.num_inference_steps or self.inference_steps
        return given // self.blocks if given else ceil(DEFAULT_STEPS / self.blocks)

    def check_steps(self) -> None:
        """Raise ModelFailure unless the steps that were sent can be shared out evenly over the blocks."""
        given = {steps for steps in (self.num_inference_steps, self.inference_steps) if steps is not None}
        loc = ["body", "num_inference_steps" if self.num_inference_steps is not None else "inference_steps"]
        if len(given) > 1:
            raise ModelFailure(loc, "num_inference_steps and inference_steps differ.", "value_error")
        for steps in given:
            if steps < self.blocks:
                raise ModelFailure(loc, f"Give at least {self.blocks} steps.", "greater_than_equal")
            if steps % self.blocks:
                raise ModelFailure(loc, f"Give a multiple of {self.blocks} steps.", "multiple_of")


class Stopwatch:
    def __init__(self) -> None:
        self._started = self._lap = perf_counter()

    def lap(self) -> float:
        before, self._lap = self._lap, perf_counter()
        return self._lap - before

    def total(self) -> float:
        return perf_counter() - self._started


def llava(input: LlavaInput, work: Work) -> dict[str, Any]:
    picture = work.picture(input.image_url, "image_url")
    words = _words(measure(picture, shrink(picture)).sentences())
    return {"output": " ".join(words[: input.max_tokens]), "partial": len(words) > input.max_tokens}


def mini_cpm(input: MiniCpmInput, work: Work) -> dict[str, Any]:
    texts = [MARK]
    for index, url in enumerate(input.image_urls):
        picture = work.picture(url, "image_urls", index)
        texts.append(f"Picture {index + 1}: {' '.join(measure(picture, shrink(picture)).sentences())}")
    return {"output": " ".join(texts)}


def nemotron(input: NemotronInput, work: Work) -> dict[str, Any]:
    """No part of this runs on a GPU: the transfer that is timed is the copy of the reduced picture."""
    input.check_steps()
    watch = Stopwatch()
    picture = work.picture(input.image_url, "image_url")
    timings = {"image_validation_time": watch.lap()}
    small = shrink(picture)
    timings["preprocessing_time"] = watch.lap()
    small = small.copy()
    timings["gpu_transfer_time"] = watch.lap()
    measures = measure(picture, small)
    timings["generation_time"] = watch.lap()
    words = _words(measures.sentences())[: input.max_tokens]
    output = " ".join(words)
    timings["decode_time"] = watch.lap()
    return {
        "output": output,
        "usage": {
            "prompt_tokens": len(input.prompt.split()),
            "completion_tokens": len(words),
            "num_function_evals": ceil(len(words) / input.block_length) * input.steps_a_block,
        },
        "timings": {"total_time": watch.total(), **timings},
    }


def _words(sentences: list[str]) -> list[str]:
    return [MARK, *" ".join(sentences).split()]
