"""The architectures: one file each, and one line each in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .._arguments import known_names
from ..codes import Codes
from .base import Architecture, Batch, Gradients
from .batch_topk import BatchTopK
from .gated import Gated
from .jump_relu import JumpReLU
from .matryoshka import Matryoshka
from .pursuit import Pursuit
from .relu_l1 import L1
from .topk import AbsTopK, TopK

ARCHITECTURES: dict[str, type[Architecture]] = {
    TopK.name: TopK,
    AbsTopK.name: AbsTopK,
    BatchTopK.name: BatchTopK,
    Matryoshka.name: Matryoshka,
    JumpReLU.name: JumpReLU,
    Gated.name: Gated,
    L1.name: L1,
    Pursuit.name: Pursuit,
}

__all__ = [
    "ARCHITECTURES",
    "L1",
    "AbsTopK",
    "Architecture",
    "Batch",
    "BatchTopK",
    "Codes",
    "Gated",
    "Gradients",
    "JumpReLU",
    "Matryoshka",
    "Pursuit",
    "TopK",
    "from_config",
]


def from_config(config: Mapping[str, Any]) -> Architecture:
    """The architecture that `Architecture.config` describes.

    >>> from_config({"name": "topk", "k": 8}).k
    8
    """
    values = dict(config)
    name = values.pop("name", None)
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture: got {name!r}, expected one of {', '.join(sorted(ARCHITECTURES))}")
    known_names(f"architecture {name}", values, [field.name for field in fields(ARCHITECTURES[name])])
    return ARCHITECTURES[name](**values)
