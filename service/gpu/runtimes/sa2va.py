"""Sa2VA 8B: its own code through `predict_forward`, one mask for each `[SEG]` of the answer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL.Image import Image
from pydantic import BaseModel, Field

from service.catalog.sa2va import Sa2VAInput, limits
from service.gpu.runtimes.base import Product, Runtime, Watch, check_limits
from service.gpu.runtimes.checkpoints import accepted
from service.gpu.runtimes.devices import Stopwatch, shrinking
from service.gpu.runtimes.files import mask_png
from service.gpu.runtimes.options import RemoteCode
from service.gpu.runtimes.remote import load_remote
from service.gpu.runtimes.watching import Onward, Rows


class Sa2VAOptions(RemoteCode):
    max_new_tokens: int = Field(default=2048, ge=1, description="The longest answer; the input has no word for it.")


def open_runtime(folder: Path, device: str, options: Mapping[str, str]) -> Runtime:
    return Sa2VA(folder, device, Sa2VAOptions.model_validate(options))


class Sa2VA:
    def __init__(self, folder: Path, device: str, options: Sa2VAOptions) -> None:
        self._folder = folder
        self._device = device
        self._options = options
        self._model: Any = None
        self._tokenizer: Any = None

    def load(self) -> None:
        self._model, self._tokenizer = load_remote(self._folder, self._device, self._options)
        # Otherwise the first input does it, with settings that no later one can change.
        prepare = self._model.preparing_for_generation
        prepare(**accepted(prepare, tokenizer=self._tokenizer, max_new_tokens=self._options.max_new_tokens))

    def run(self, input: BaseModel, pictures: Sequence[Image], watch: Watch, *, loaded_seconds: float = 0.0) -> Product:
        import torch

        assert isinstance(input, Sa2VAInput)
        check_limits(limits, input)
        picture = pictures[0]
        stopwatch = Stopwatch(self._device, loaded_seconds)
        watch = Onward(watch)

        def predict(_: str) -> Any:
            arguments = accepted(
                self._model.predict_forward,
                image=picture,
                # Without the mark the model is shown no picture.
                text=f"<image>{input.prompt}",
                tokenizer=self._tokenizer,
                past_text="",
                mask_prompts=None,
            )
            with self._watched(watch):
                return self._model.predict_forward(**arguments)

        with stopwatch.part("generation_time"), torch.inference_mode():
            # Nothing of it can be made smaller; what others left behind may have been in the way.
            prediction = shrinking(predict, ("one picture", "the same again"), self._device, watch.log)
        masks = prediction.get("prediction_masks") or []
        files = []
        with stopwatch.part("mask_time"):
            for done, mask in enumerate(masks):
                watch.step(done, len(masks))
                files.append(mask_png(mask, picture.size))
        # Marks and all, as the model's host gives it; the labels of masks are read out of it.
        output = {"output": prediction["prediction"], "masks": files}
        return Product(output, {"timings": {"total_time": stopwatch.total(), **stopwatch.seconds}})

    @contextmanager
    def _watched(self, watch: Watch) -> Iterator[None]:
        """Asks the watch at each token, through the criteria that `predict_forward` hands on, and before each mask."""
        model = self._model
        most = self._options.max_new_tokens
        rows = Rows([watch], [most + 1])
        criteria = getattr(model, "stop_criteria", None)
        criterion = rows.criterion(prompt_length=0)
        if criteria is not None:
            criteria.append(criterion)
        encoder: Any = getattr(model, "grounding_encoder", None)
        embed = getattr(encoder, "get_sam2_embeddings", None)

        def watched_embed(*arguments: Any, **named: Any) -> Any:
            if 0 in rows.cancelled:
                raise rows.cancelled[0]
            watch.step(0, None)
            assert embed is not None
            return embed(*arguments, **named)

        if embed is not None:
            encoder.get_sam2_embeddings = watched_embed
        try:
            yield
        finally:
            if criteria is not None:
                criteria.remove(criterion)
            if embed is not None:
                del encoder.get_sam2_embeddings
        if 0 in rows.cancelled:
            raise rows.cancelled[0]
