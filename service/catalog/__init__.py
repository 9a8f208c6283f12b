"""The catalogue of models: every module of this package that defines `MODEL`, and what an operator adds."""

import importlib
import pkgutil
import sys
from collections.abc import Iterable
from functools import cache
from types import ModuleType

from service.catalog.base import Lifted, LiftedFile, Model
from service.catalog.lifting import lift
from service.catalog.rewriting import with_stored_files
from service.catalog.validation import check_content, check_input, check_numbers, problems_of
from service.errors import UnknownModel

__all__ = [
    "Catalog",
    "Lifted",
    "LiftedFile",
    "Model",
    "all_models",
    "check_content",
    "check_input",
    "check_numbers",
    "discover",
    "lift",
    "problems_of",
    "with_stored_files",
]


def discover(package: ModuleType) -> tuple[Model, ...]:
    """Import every module of the package and collect their models, by ID."""
    found: dict[str, Model] = {}
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        model = getattr(importlib.import_module(info.name), "MODEL", None)
        if not isinstance(model, Model):
            continue
        if model.id in found:
            raise ValueError(f"{info.name} defines {model.id}, which another module of {package.__name__} defines")
        found[model.id] = model
    return tuple(found[model_id] for model_id in sorted(found))


@cache
def all_models() -> tuple[Model, ...]:
    return discover(sys.modules[__name__])


class Catalog:
    """The models of this package, then those that an operator registered by ID alone."""

    def __init__(self, extra_ids: Iterable[str] = ()) -> None:
        self._models = {model.id: model for model in all_models()}
        for model_id in extra_ids:
            self._models.setdefault(model_id, Model(id=model_id, title=model_id, lift=lift))

    @property
    def models(self) -> tuple[Model, ...]:
        return tuple(self._models.values())

    def find(self, model_id: str) -> Model:
        """Raises UnknownModel."""
        model = self._models.get(model_id)
        if model is None:
            # The ID is a client's text of any length and content.
            raise UnknownModel(
                f"There is no model {model_id[:100]!r} in the catalogue; GET /v1/models lists those that are, and the "
                "operator can add one to ROUNDTRIP_MODELS."
            )
        return model
