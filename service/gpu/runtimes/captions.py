"""Who writes the caption that guides an enlargement: a vision model in this process, or a server beside it."""

from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

from service.gpu.runtimes.base import CannotLoad, Watch
from service.gpu.runtimes.chat_server import ChatServer
from service.gpu.runtimes.checkpoints import dtype_argument, load_weights, loading, placement
from service.gpu.runtimes.devices import precision
from service.gpu.runtimes.watching import Rows

PROMPT = "Describe this image in two sentences: subject, setting, materials, light and style."
TOKENS = 100


class Captioner(Protocol):
    def load(self) -> None: ...

    def describe(self, picture: Image, watch: Watch) -> str: ...


class ServedCaptioner:
    def __init__(self, server: ChatServer) -> None:
        self._server = server

    def load(self) -> None:
        self._server.open()

    def describe(self, picture: Image, watch: Watch) -> str:
        return self._server.ask([picture], PROMPT, {"max_tokens": TOKENS, "temperature": 0.0}, watch).text


class LocalCaptioner:
    """Any model that transformers itself knows as image-text-to-text, LLaVA-NeXT for one."""

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        self._folder = folder
        self._device = device
        self._dtype = dtype
        self._model: Any = None
        self._processor: Any = None

    def load(self) -> None:
        if not self._folder.is_dir():
            raise CannotLoad(f"{self._folder} is not a folder: name a model for captions, or a server (server_url)")
        with loading(self._folder):
            from transformers import AutoModelForImageTextToText, AutoProcessor

            self._processor = AutoProcessor.from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False
            )
            self._model = load_weights(
                AutoModelForImageTextToText.from_pretrained,
                self._folder,
                trust_remote_code=False,
                **dtype_argument(precision(self._dtype, self._device)),
                **placement(self._device),
            )

    def describe(self, picture: Image, watch: Watch) -> str:
        import torch

        content = [{"type": "image"}, {"type": "text", "text": PROMPT}]
        text = self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        prepared = self._processor(images=[picture], text=[text], return_tensors="pt").to(self._model.device)
        prepared["pixel_values"] = prepared["pixel_values"].to(self._model.dtype)
        length = prepared["input_ids"].shape[1]
        rows = Rows([watch], [TOKENS])
        with torch.inference_mode():
            ids = self._model.generate(
                **prepared,
                max_new_tokens=TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                stopping_criteria=[rows.criterion(length)],
            )
        if rows.cancelled:
            raise rows.cancelled[0]
        caption: str = self._processor.tokenizer.decode(ids[0, length:], skip_special_tokens=True)
        return caption.strip()
