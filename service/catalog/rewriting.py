"""Pointing an output at the stored copies of its files."""

from collections.abc import Mapping
from typing import Any


def with_stored_files(output: Any, stored: Mapping[str, str]) -> Any:
    """A copy of the output in which every string that is a key of `stored` is replaced by its value.

    It does not recurse, since an output may be nested deeper than Python's stack.
    """
    root = [output]
    unfinished: list[list[Any] | dict[str, Any]] = [root]
    while unfinished:
        container: Any = unfinished.pop()
        for key, value in container.items() if isinstance(container, dict) else enumerate(container):
            if isinstance(value, str):
                container[key] = stored.get(value, value)
            elif isinstance(value, (dict, list)):
                container[key] = value.copy()
                unfinished.append(container[key])
    return root[0]
