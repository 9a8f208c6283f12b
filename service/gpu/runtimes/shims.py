"""What Nemotron's code expects of transformers and later releases of version 5 have renamed or removed."""

import functools
import inspect
from collections.abc import Callable
from typing import Any


def fit_transformers() -> None:
    """Give the names back and take the old keywords; a release that still has them is left as it is."""
    from transformers import masking_utils
    from transformers.utils import generic

    if not hasattr(masking_utils, "sdpa_mask_older_torch"):
        masking_utils.sdpa_mask_older_torch = masking_utils.sdpa_mask
    if not hasattr(generic, "check_model_inputs"):
        generic.check_model_inputs = _undecorated
    for name in ("create_causal_mask", "create_sliding_window_causal_mask"):
        made = getattr(masking_utils, name)
        if "input_embeds" not in inspect.signature(made).parameters:
            setattr(masking_utils, name, _with_old_keywords(made))


def _undecorated(function: Any = None, **_: Any) -> Any:
    """In place of a decorator that is used both bare and with arguments."""
    return function if function is not None else lambda decorated: decorated


def _with_old_keywords(make: Callable[..., Any]) -> Callable[..., Any]:
    known = set(inspect.signature(make).parameters)

    @functools.wraps(make)
    def make_with_old_keywords(*arguments: Any, **named: Any) -> Any:
        if "input_embeds" in named:
            named["inputs_embeds"] = named.pop("input_embeds")
        return make(*arguments, **{name: value for name, value in named.items() if name in known})

    # Its signature says so, so that it is not wrapped again.
    parameters = [*inspect.signature(make).parameters.values()]
    parameters.append(inspect.Parameter("input_embeds", inspect.Parameter.KEYWORD_ONLY, default=None))
    order = sorted(parameters, key=lambda each: each.kind)
    make_with_old_keywords.__signature__ = inspect.Signature(order)  # type: ignore[attr-defined]
    return make_with_old_keywords
