"""Sparse autoencoders on language-model activations, trained and used on ordinary multicore CPUs.

>>> import sparse_sae
>>> sparse_sae.kernels()["level"] in (*sparse_sae.kernels()["levels"], "reference")
True
"""

from __future__ import annotations

from typing import Any

from . import _kernels
from ._threads import resolve_threads
from .architectures import ARCHITECTURES, L1, AbsTopK, BatchTopK, Gated, JumpReLU, Matryoshka, TopK
from .coders import Coder
from .evaluation.metrics import Metrics, evaluate
from .formats import load
from .sae import SAE
from .training.resampling import Resampling
from .training.trainer import TrainingDiverged, TrainResult, train, train_many
from .transforms import Transform

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
    "TrainResult",
    "TrainingDiverged",
    "Transform",
    "evaluate",
    "kernels",
    "load",
    "train",
    "train_many",
]


def kernels() -> dict[str, Any]:
    """Which compiled kernels run: level, loadable levels, threads, OpenMP, version, compiler, Eigen.

    `screens` lists, for each kind of encode call so far, how long its two screens took and which is used: the machine
    decides, the codes are the same. `SPARSE_SAE_KERNELS` forces a level, `SPARSE_SAE_SCREEN` (float, int8) a screen,
    `OMP_NUM_THREADS` the threads.
    """
    return {
        "level": _kernels.level,
        "levels": _kernels.loadable_levels(),
        "threads": resolve_threads(None),
        "screens": _kernels.screens(),
        **_kernels.build_info,
    }
