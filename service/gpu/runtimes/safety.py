"""Whether a picture is safe for work: a classifier beside the pipeline, which has no such part of its own."""

from pathlib import Path
from typing import Any

from PIL.Image import Image

from service.gpu.runtimes.base import CannotLoad
from service.gpu.runtimes.checkpoints import load_weights, loading

# Of `Falconsai/nsfw_image_detection`, whose labels are `normal` and `nsfw`.
UNSAFE = "nsfw"


class SafetyChecker:
    """Small enough to stay on the CPU's float32 wherever it runs."""

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._device = device
        self._model: Any = None
        self._processor: Any = None
        self._unsafe = 0

    def load(self) -> None:
        if not self._folder.is_dir():
            raise CannotLoad(f"{self._folder} is not a folder: name a classifier, or say that nothing is checked")
        with loading(self._folder):
            from transformers import AutoImageProcessor, AutoModelForImageClassification

            self._processor = AutoImageProcessor.from_pretrained(
                self._folder, local_files_only=True, trust_remote_code=False
            )
            model = load_weights(AutoModelForImageClassification.from_pretrained, self._folder, trust_remote_code=False)
            self._model = model.to(self._device)
        labels = {str(label).lower(): index for index, label in self._model.config.id2label.items()}
        if UNSAFE not in labels:
            raise CannotLoad(f"{self._folder} knows {', '.join(sorted(labels))}, and no label {UNSAFE!r}")
        self._unsafe = int(labels[UNSAFE])

    def score(self, picture: Image) -> float:
        """The probability, 0 to 1, that it is not safe."""
        import torch

        prepared = self._processor(images=picture, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            probabilities = self._model(**prepared).logits.float().softmax(dim=-1)
        return float(probabilities[0, self._unsafe])
