"""Loading a checkpoint from a local folder, all of its weights and nothing else, or not at all."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.gpu.runtimes.base import CannotLoad, DeviceLost, OutOfMemory
from service.gpu.runtimes.devices import told_apart

# Buffers that libraries once saved and now compute.
_HARMLESS = re.compile(r"(position_ids|rotary_emb\.inv_freq|num_batches_tracked)$")


@contextmanager
def loading(what: Path) -> Iterator[None]:
    """Whatever is wrong while loading is a CannotLoad whose words name the folder."""
    try:
        with told_apart():
            _quieten()
            yield
    except (CannotLoad, OutOfMemory, DeviceLost):
        raise
    except ImportError as error:
        raise CannotLoad(f"{what}: {error}. Which libraries a model needs is in docs/gpu-models.md") from error
    except AttributeError as error:
        # The usual one: code for transformers 4 whose constructor does not call post_init.
        raise CannotLoad(f"{what}: its code does not fit {_versions()} ({error}); see docs/gpu-models.md") from error
    except Exception as error:
        raise CannotLoad(f"{what}: {type(error).__name__}: {error}") from error


def load_weights(load: Callable[..., Any], folder: Path, **arguments: Any) -> Any:
    """`load` is a `from_pretrained`; a weight that is missing would otherwise be a random one."""
    model, report = load(
        folder,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # They are in the report then, by name, instead of an error without one.
        **arguments,
    )
    check_report(folder, report)
    return model.eval()


def check_report(folder: Path, report: Mapping[str, Any]) -> None:
    problems = []
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        names = sorted(str(each) for each in report.get(kind) or () if not _HARMLESS.search(str(each)))
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{kind.replace('_', ' ')}: {', '.join(names[:3])}{more}")
    if problems:
        raise CannotLoad(f"{folder} does not hold the weights that its configuration names ({'; '.join(problems)})")


def accepted(call: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that the callable takes; releases of a model differ in what that is."""
    parameters = inspect.signature(call).parameters.values()
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return arguments
    names = {each.name for each in parameters}
    return {name: value for name, value in arguments.items() if name in names}


def dtype_argument(dtype: Any) -> dict[str, Any]:
    """transformers renamed it in 4.56."""
    import transformers

    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if release >= (4, 56) else "torch_dtype": dtype}


def placement(device: str) -> dict[str, Any]:
    """Straight onto one device, or over all of them; without accelerate only onto the CPU."""
    if device == "cpu":
        return {}
    return {"device_map": "auto" if device == "auto" else {"": device}}


def _quieten() -> None:
    """Bars and hints are for people at a terminal, and some hints quote what a client asked."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _versions() -> str:
    import torch
    import transformers

    return f"transformers {transformers.__version__} with torch {torch.__version__}"
