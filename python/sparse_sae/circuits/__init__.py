"""Circuits: which features make which, as graphs on a prompt.

torch is imported with the first name that is used; it comes with the extra `lm`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "AttributionGraph": "graph",
    "DictionarySet": "dictionaries",
    "Feature": "targets",
    "Frozen": "frozen",
    "Logit": "targets",
    "LogitDifference": "targets",
    "LogitFunction": "targets",
    "attribute": "attribution",
    "freeze": "frozen",
    "graph_of": "attribution",
    "load_graph": "files",
    "places_of": "set_training",
    "save_graph": "files",
    "set_quality": "set_measures",
    "train_set": "set_training",
    "write_neuronpedia": "neuronpedia",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(f"{__name__}.{_PUBLIC[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("torch", "transformers"):
            raise
        raise ImportError(
            f'sparse_sae.circuits.{name} needs the package {error.name!r}: pip install "sparse-sae[lm]"'
        ) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
