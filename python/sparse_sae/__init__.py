"""Sparse autoencoders on language-model activations, trained and used on ordinary multicore CPUs.

>>> import sparse_sae
>>> sparse_sae.kernels()["level"] in (*sparse_sae.kernels()["levels"], "reference")
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparse_sae import _kernels
from sparse_sae._threads import resolve_threads
from sparse_sae.architectures import ARCHITECTURES, L1, AbsTopK, BatchTopK, Gated, JumpReLU, Matryoshka, TopK
from sparse_sae.coders import Coder
from sparse_sae.evaluation.metrics import Metrics, evaluate
from sparse_sae.formats import load
from sparse_sae.sae import SAE
from sparse_sae.training.config import TrainConfig
from sparse_sae.training.resampling import Resampling
from sparse_sae.training.trainer import TrainingDiverged, TrainingInterrupted, TrainResult, train, train_many
from sparse_sae.transforms import Transform

if TYPE_CHECKING:  # what `__getattr__` gives
    from sparse_sae import (
        activations as activations,
        architectures as architectures,
        audit as audit,
        browser as browser,
        circuits as circuits,
        data as data,
        evaluation as evaluation,
        formats as formats,
        hub as hub,
        lm as lm,
        match as match,
        probing as probing,
        pursuit as pursuit,
        synthetic as synthetic,
        toy as toy,
        training as training,
    )

__version__ = "0.1.0"

__all__ = [
    "ARCHITECTURES",
    "L1",
    "SAE",
    "AbsTopK",
    "BatchTopK",
    "Coder",
    "Gated",
    "JumpReLU",
    "Matryoshka",
    "Metrics",
    "Resampling",
    "TopK",
    "TrainConfig",
    "TrainResult",
    "TrainingDiverged",
    "TrainingInterrupted",
    "Transform",
    "evaluate",
    "kernels",
    "load",
    "train",
    "train_many",
]


# Imported when they are first named (`sparse_sae.match`), so that importing the package stays quick.
_PARTS = (
    "activations",
    "architectures",
    "audit",
    "browser",
    "circuits",
    "data",
    "evaluation",
    "formats",
    "hub",
    "lm",
    "match",
    "probing",
    "pursuit",
    "synthetic",
    "toy",
    "training",
)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _PARTS:
            import importlib

            return importlib.import_module(f".{name}", __name__)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_PARTS, *(name for name in globals() if name.startswith("__"))])


def kernels() -> dict[str, Any]:
    """Which compiled kernels run: level, loadable levels, threads, OpenMP, version, compiler, Eigen.

    `screens` lists, for each kind of encode call so far, how long each screen took and which is used: the machine
    decides, the codes are the same. `int8` and `amx` say whether it has 8-bit dot products and tiles of a matrix.
    `SPARSE_SAE_KERNELS` forces a level, `SPARSE_SAE_SCREEN` (float, int8, amx) a screen, `OMP_NUM_THREADS` the threads.
    """
    return {
        "level": _kernels.level,
        "levels": _kernels.loadable_levels(),
        "threads": resolve_threads(None),
        "screens": _kernels.screens(),
        **_kernels.build_info,
    }
