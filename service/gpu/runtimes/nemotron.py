"""Nemotron diffusion VLM: its own code through `generate`, which decodes blocks of tokens by diffusion."""

import importlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import BaseModel, Field

from service.catalog.nemotron import NemotronInput, limits
from service.gpu.runtimes.base import CannotLoad, Product, Runtime, Watch, check_limits
from service.gpu.runtimes.checkpoints import accepted, loading
from service.gpu.runtimes.devices import Stopwatch, shrinking
from service.gpu.runtimes.options import RemoteCode
from service.gpu.runtimes.remote import load_remote
from service.gpu.runtimes.shims import fit_transformers
from service.gpu.runtimes.snapshots import check_code
from service.gpu.runtimes.watching import first_module, told_of_passes

MASK_TOKEN = 100
# Of which a forward pass is one evaluation, in the order in which they are looked for.
COUNTED = ("diffusion_head", "lm_head", "encoder")


class NemotronOptions(RemoteCode):
    retry_masked: bool = Field(
        default=True, description="Whether an answer with tokens left undecoded is made anew, with a step a token."
    )


def open_runtime(folder: Path, device: str, options: Mapping[str, str]) -> Runtime:
    return Nemotron(folder, device, NemotronOptions.model_validate(options))


class Nemotron:
    def __init__(self, folder: Path, device: str, options: NemotronOptions) -> None:
        self._folder = folder
        self._device = device
        self._options = options
        self._model: Any = None
        self._tokenizer: Any = None
        self._process: Callable[..., Any]
        self._mask = MASK_TOKEN

    def load(self) -> None:
        check_code(self._folder, self._options.trust_remote_code, self._options.revision)
        with loading(self._folder):
            fit_transformers()
            self._process = _message_processor(self._folder)
        self._model, self._tokenizer = load_remote(self._folder, self._device, self._options)
        mask = getattr(self._model.config, "mask_token_id", None)
        self._mask = MASK_TOKEN if mask is None else int(mask)

    def run(self, input: BaseModel, pictures: Sequence[Image], watch: Watch, *, loaded_seconds: float = 0.0) -> Product:
        import torch

        assert isinstance(input, NemotronInput)
        check_limits(limits, input)
        stopwatch = Stopwatch(self._device, loaded_seconds)
        with stopwatch.part("preprocessing_time"):
            prepared = self._prepare(input.prompt, pictures[0])
        with stopwatch.part("gpu_transfer_time"):
            ids = prepared["input_ids"].to(self._model.device)
            pixels = prepared["pixel_values"].to(self._model.device, dtype=self._model.dtype)
        length = input.blocks * input.block_length

        def generate(steps: int) -> tuple[list[int], int]:
            arguments = accepted(
                self._model.generate,
                max_new_tokens=length,
                steps=steps,
                block_length=input.block_length,
                shift_logits=False,
                threshold=input.threshold,
                causal_context=True,
                temperature=0,
                pixel_values=pixels,
                image_sizes=prepared["image_sizes"],
                eos_token_id=self._tokenizer.eos_token_id,
            )
            most = input.blocks * (min(steps // input.blocks, input.block_length) + 1)
            with told_of_passes(first_module(self._model, *COUNTED), watch, most):
                returned, evaluations = self._model.generate(ids, **arguments)
            return returned[0, ids.shape[1] :].tolist(), int(evaluations)

        def generate_in_memory(steps: int) -> tuple[list[int], int]:
            # A try that failed for others' leftovers; nothing of the run itself can be made smaller.
            return shrinking(lambda _: generate(steps), ("its tokens", "the same again"), self._device, watch.log)

        with stopwatch.part("generation_time"), torch.inference_mode():
            answer, evaluations = generate_in_memory(input.steps)
            kept, left = self._kept(answer, input.max_tokens)
            masked = left
            if left and self._options.retry_masked and input.steps < length:
                # A threshold lets blocks end undecoded when there are fewer steps than tokens.
                watch.log(f"{left} tokens were left undecoded after {input.steps} steps; once more with {length}")
                answer, more = generate_in_memory(length)
                evaluations += more
                kept, left = self._kept(answer, input.max_tokens)
        if left:
            watch.log(f"{left} tokens were left undecoded and are left out")
        with stopwatch.part("decode_time"):
            shown = [token for token in kept if token != self._mask]
            text = self._tokenizer.decode(shown, skip_special_tokens=True).strip()
        output = {
            "output": text,
            "usage": {
                "prompt_tokens": int(ids.shape[1]),
                "completion_tokens": len(kept),
                "num_function_evals": evaluations,
            },
            "timings": {
                "total_time": stopwatch.total(),
                "image_validation_time": loaded_seconds,
                **stopwatch.seconds,
            },
        }
        return Product(output, {"masked": masked, "left_masked": left})

    def _prepare(self, prompt: str, picture: Image) -> Any:
        """By the snapshot's own function, which opens the picture itself: a local file, never the client's address."""
        with tempfile.TemporaryDirectory(prefix="roundtrip-") as folder:
            path = Path(folder) / "picture.png"
            picture.save(path, compress_level=1)
            content = [
                {"type": "image_url", "image_url": {"url": str(path)}},
                {"type": "text", "text": prompt},
            ]
            messages = [{"role": "user", "content": content}]
            return self._process(self._tokenizer, messages, add_generation_prompt=True, enable_thinking=False)

    def _kept(self, answer: list[int], most: int) -> tuple[list[int], int]:
        """Up to the end mark and the most tokens that were asked for; and how many of these are still masked."""
        answer = answer[:most]
        end = self._tokenizer.eos_token_id
        if end in answer:
            answer = answer[: answer.index(end) + 1]
        return answer, answer.count(self._mask)


def _message_processor(folder: Path) -> Callable[..., Any]:
    """`process_messages` of the snapshot's `image_processing.py`, which imports its neighbours by their bare names."""
    name = "image_processing"
    if not (folder / f"{name}.py").is_file():
        raise CannotLoad(f"{folder} has no {name}.py")
    before = sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        process: Callable[..., Any] = importlib.import_module(name).process_messages
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)
        if before is not None:
            sys.modules[name] = before
    return process
