"""LLaVA v1.6 34B: transformers' own classes in this process, or an OpenAI-compatible server beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import BaseModel, Field

from service.catalog.llava import LlavaInput, limits
from service.gpu.runtimes.base import Call, InputRefused, OutOfMemory, Product, Runtime, Watch, check_limits
from service.gpu.runtimes.chat_server import ChatServer
from service.gpu.runtimes.checkpoints import dtype_argument, load_weights, loading, placement
from service.gpu.runtimes.devices import Stopwatch, precision, release, told_apart
from service.gpu.runtimes.options import Options, Server
from service.gpu.runtimes.snapshots import check_snapshot
from service.gpu.runtimes.watching import Rows


class LlavaOptions(Options, Server):
    batch: int = Field(default=8, ge=1, description="The most inputs that are generated together.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable, for tests.")
    attention: str = Field(default="sdpa", description="The attention implementation of transformers.")


def open_runtime(folder: Path, device: str, options: Mapping[str, str]) -> Runtime:
    parsed = LlavaOptions.model_validate(options)
    return ServedLlava(ChatServer(parsed)) if parsed.server_url else Llava(folder, device, parsed)


class Llava:
    def __init__(self, folder: Path, device: str, options: LlavaOptions) -> None:
        self._folder = folder
        self._device = device
        self._options = options
        self._model: Any = None
        self._processor: Any = None

    def load(self) -> None:
        check_snapshot(self._folder, self._options.revision)
        with loading(self._folder):
            from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

            processor: Any = LlavaNextProcessor.from_pretrained(self._folder, local_files_only=True)
            model = load_weights(
                LlavaNextForConditionalGeneration.from_pretrained,
                self._folder,
                attn_implementation=self._options.attention,
                **dtype_argument(precision(self._options.dtype, self._device)),
                **placement(self._device),
            )
        self.adopt(model, processor)

    def adopt(self, model: Any, processor: Any) -> None:
        """Take a model that is there already, as `bench/gpu.py` makes one without weights on disk."""
        # Answers have to end at the same place in all rows of a batch.
        processor.tokenizer.padding_side = "left"
        if processor.tokenizer.pad_token is None:
            processor.tokenizer.pad_token = processor.tokenizer.eos_token
        self._model, self._processor = model, processor

    def run(self, input: BaseModel, pictures: Sequence[Image], watch: Watch, *, loaded_seconds: float = 0.0) -> Product:
        result = self.run_many([Call(input, pictures, watch, loaded_seconds)])[0]
        if isinstance(result, Exception):
            raise result
        return result

    @property
    def most(self) -> int:
        return self._options.batch

    def batch_key(self, call: Call) -> object:
        asked = _asked(call)
        return (asked.temperature, asked.top_p)

    def run_many(self, calls: Sequence[Call]) -> list[Product | Exception]:
        results: dict[int, Product | Exception] = {}
        sound: list[int] = []
        for index, call in enumerate(calls):
            try:
                check_limits(limits, call.input)
            except InputRefused as refused:
                results[index] = refused
            else:
                sound.append(index)
        for start in range(0, len(sound), self._options.batch):
            part = sound[start : start + self._options.batch]
            results.update(zip(part, self._shrinking([calls[index] for index in part]), strict=True))
        return [results[index] for index in range(len(calls))]

    def _shrinking(self, calls: Sequence[Call], again: bool = True) -> list[Product | Exception]:
        """Halves of a batch that does not fit into memory; what is alone is tried a second time."""
        try:
            with told_apart():
                return self._generate(calls)
        except OutOfMemory as error:
            words = str(error)
        # Out here the error is gone, whose frames hold the tensors.
        release(self._device)
        for call in calls:
            call.watch.log(f"out of memory with {len(calls)} inputs together: {words}")
        if len(calls) == 1:
            return self._shrinking(calls, again=False) if again else [OutOfMemory(words)]
        half = len(calls) // 2
        return [*self._shrinking(calls[:half]), *self._shrinking(calls[half:])]

    def _generate(self, calls: Sequence[Call]) -> list[Product | Exception]:
        """The calls' settings are equal."""
        import torch

        watches = [Stopwatch(self._device, call.loaded_seconds) for call in calls]
        watch = watches[0]
        with watch.part("preprocessing_time"):
            prepared = self._processor(
                images=[call.pictures[0] for call in calls],
                text=[self._template(_asked(call).prompt) for call in calls],
                padding=True,
                return_tensors="pt",
            )
        refused = self._refused(calls, prepared["attention_mask"].sum(dim=1).tolist())
        if refused:
            keep = [index for index in range(len(calls)) if index not in refused]
            rest = iter(self._generate([calls[index] for index in keep]) if keep else [])
            return [refused[index] if index in refused else next(rest) for index in range(len(calls))]
        with watch.part("gpu_transfer_time"):
            placed = prepared.to(self._model.device)
            placed["pixel_values"] = placed["pixel_values"].to(self._model.dtype)
        most = [_asked(call).max_tokens for call in calls]
        rows = Rows([call.watch for call in calls], most)
        prompt_length = placed["input_ids"].shape[1]
        if self._options.seed is not None:
            torch.manual_seed(self._options.seed)
        with watch.part("generation_time"), torch.inference_mode():
            ids = self._model.generate(
                **placed,
                max_new_tokens=max(most),
                stopping_criteria=[rows.criterion(prompt_length)],
                pad_token_id=self._processor.tokenizer.pad_token_id,
                **sampling(_asked(calls[0])),
            )
        with watch.part("decode_time"):
            answers = [self._answer(row, most[index]) for index, row in enumerate(ids[:, prompt_length:].tolist())]
        sent = placed["attention_mask"].sum(dim=1).tolist()
        results: list[Product | Exception] = []
        for index, (text, tokens, ended) in enumerate(answers):
            if index in rows.cancelled:
                results.append(rows.cancelled[index])
                continue
            notes = {
                "finish_reason": "stop" if ended else "length",
                "usage": {"prompt_tokens": sent[index], "completion_tokens": tokens},
                "timings": {"total_time": watches[index].total(), **watch.seconds},
                "batch": len(calls),
            }
            results.append(Product({"output": text, "partial": False}, notes))
        return results

    def _template(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        rendered: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return rendered

    def _refused(self, calls: Sequence[Call], prompt_tokens: Sequence[int]) -> dict[int, Exception]:
        context = self._model.config.get_text_config().max_position_embeddings
        refused: dict[int, Exception] = {}
        for index, (call, tokens) in enumerate(zip(calls, prompt_tokens, strict=True)):
            if tokens + _asked(call).max_tokens > context:
                room = max(context - tokens, 0)
                refused[index] = InputRefused(
                    "max_tokens",
                    f"Input should be at most {room}: image and prompt take {tokens} of the {context} tokens there are",
                    "less_than_equal",
                )
        return refused

    def _answer(self, ids: list[int], most: int) -> tuple[str, int, bool]:
        """Text, tokens with the one that ended it, and whether one did."""
        ids = ids[:most]
        ends = self._model.generation_config.eos_token_id
        marks = set(ends if isinstance(ends, list) else [ends])
        end = next((place for place, each in enumerate(ids) if each in marks), None)
        kept = ids if end is None else ids[: end + 1]
        text: str = self._processor.tokenizer.decode(kept, skip_special_tokens=True)
        return text.strip(), len(kept), end is not None


class ServedLlava:
    """The same model in a server that batches by itself, for many calls at a time from as many threads."""

    def __init__(self, server: ChatServer) -> None:
        self._server = server

    def load(self) -> None:
        self._server.open()

    def run(self, input: BaseModel, pictures: Sequence[Image], watch: Watch, *, loaded_seconds: float = 0.0) -> Product:
        call = Call(input, pictures, watch, loaded_seconds)
        check_limits(limits, input)
        asked = _asked(call)
        answer = self._server.ask(
            pictures,
            asked.prompt,
            {"max_tokens": asked.max_tokens, "temperature": asked.temperature, "top_p": asked.top_p},
            watch,
        )
        return Product({"output": answer.text, "partial": False}, answer.notes(loaded_seconds))


def sampling(asked: LlavaInput) -> dict[str, Any]:
    if asked.temperature == 0:
        # The checkpoint's own defaults may name sampling settings, which mean nothing then and are warned of.
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {"do_sample": True, "temperature": asked.temperature, "top_p": asked.top_p, "top_k": 0}


def _asked(call: Call) -> LlavaInput:
    assert isinstance(call.input, LlavaInput)
    return call.input
