"""MiniCPM-V 2.6: its own code through `chat`, or an OpenAI-compatible server beside the worker."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import BaseModel, Field

from service.catalog.minicpm import MiniCPMInput, limits
from service.gpu.runtimes.base import InputRefused, Product, Runtime, Watch, check_limits
from service.gpu.runtimes.chat_server import ChatServer
from service.gpu.runtimes.checkpoints import accepted
from service.gpu.runtimes.devices import Stopwatch, shrinking
from service.gpu.runtimes.options import RemoteCode, Server
from service.gpu.runtimes.remote import load_remote
from service.gpu.runtimes.watching import first_module, told_of_passes

CONTEXT = 32_768
# Of the largest picture, 1344 x 1344.
MOST_PICTURE_TOKENS = 640
# The whole picture and up to nine cut-outs of it; with fewer, less is seen and less memory is needed.
SLICES = (9, 4, 1)


class MiniCPMOptions(RemoteCode, Server):
    sampling: bool = Field(default=True, description="Whether to sample; otherwise three beams are searched.")
    max_new_tokens: int = Field(default=2048, ge=1, description="The longest answer; the input has no word for it.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable, for tests.")


def open_runtime(folder: Path, device: str, options: Mapping[str, str]) -> Runtime:
    parsed = MiniCPMOptions.model_validate(options)
    return ServedMiniCPM(parsed) if parsed.server_url else MiniCPM(folder, device, parsed)


class MiniCPM:
    def __init__(self, folder: Path, device: str, options: MiniCPMOptions) -> None:
        self._folder = folder
        self._device = device
        self._options = options
        self._model: Any = None
        self._tokenizer: Any = None

    def load(self) -> None:
        # Its model card allows sdpa and flash attention, and no eager one.
        self._model, self._tokenizer = load_remote(
            self._folder, self._device, self._options, attn_implementation="sdpa"
        )

    def run(self, input: BaseModel, pictures: Sequence[Image], watch: Watch, *, loaded_seconds: float = 0.0) -> Product:
        import torch

        asked = _checked(input)
        options = self._options
        stopwatch = Stopwatch(self._device, loaded_seconds)
        with stopwatch.part("preprocessing_time"):
            tokens = len(self._tokenizer(asked.prompt)["input_ids"]) + MOST_PICTURE_TOKENS * len(pictures)
            # Its code cuts what is too long without a word.
            room = CONTEXT - options.max_new_tokens
            if tokens > room:
                raise InputRefused("prompt", f"Images and prompt take up to {tokens} tokens, of {room} that there are")

        def chat(slices: int) -> str:
            arguments = accepted(
                self._model.chat,
                image=None,
                msgs=[{"role": "user", "content": [*pictures, asked.prompt]}],
                tokenizer=self._tokenizer,
                sampling=options.sampling,
                stream=False,
                max_new_tokens=options.max_new_tokens,
                max_inp_length=room,
                max_slice_nums=slices,
            )
            # `chat` has no hook of its own, so a part that is passed once a token tells of it.
            with told_of_passes(first_module(self._model, "llm"), watch, options.max_new_tokens):
                answer: str = self._model.chat(**arguments)
            return answer

        if options.seed is not None:
            torch.manual_seed(options.seed)
        with stopwatch.part("generation_time"), torch.inference_mode():
            text = shrinking(chat, SLICES, self._device, watch.log)
        return Product({"output": text}, {"timings": {"total_time": stopwatch.total(), **stopwatch.seconds}})


class ServedMiniCPM:
    def __init__(self, options: MiniCPMOptions) -> None:
        self._options = options
        self._server = ChatServer(options)

    def load(self) -> None:
        self._server.open()

    def run(self, input: BaseModel, pictures: Sequence[Image], watch: Watch, *, loaded_seconds: float = 0.0) -> Product:
        asked = _checked(input)
        # The settings that its own code samples with.
        settings = {"temperature": 0.7, "top_p": 0.8, "top_k": 100, "repetition_penalty": 1.05}
        if not self._options.sampling:
            settings = {"temperature": 0.0}
        settings["max_tokens"] = self._options.max_new_tokens
        answer = self._server.ask(pictures, asked.prompt, settings, watch)
        return Product({"output": answer.text}, answer.notes(loaded_seconds))


def _checked(input: BaseModel) -> MiniCPMInput:
    assert isinstance(input, MiniCPMInput)
    check_limits(limits, input)
    return input
