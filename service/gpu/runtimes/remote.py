"""Models that bring their own Python code: from a sealed local folder, and with the flag that says so, only."""

from pathlib import Path
from typing import Any

from service.gpu.runtimes.checkpoints import dtype_argument, load_weights, loading, placement
from service.gpu.runtimes.devices import precision
from service.gpu.runtimes.options import RemoteCode
from service.gpu.runtimes.snapshots import check_code


def load_remote(folder: Path, device: str, options: RemoteCode, **arguments: Any) -> tuple[Any, Any]:
    """The model and its tokenizer. Raises CannotLoad."""
    check_code(folder, options.trust_remote_code, options.revision)
    with loading(folder):
        from transformers import AutoModel, AutoTokenizer

        # Said to each of them: one that is not told asks on standard input and waits for an answer.
        trusted: dict[str, Any] = {"trust_remote_code": True}
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, **trusted)
        model = load_weights(
            AutoModel.from_pretrained,
            folder,
            **trusted,
            **dtype_argument(precision(options.dtype, device)),
            **placement(device),
            **arguments,
        )
    return model, tokenizer
