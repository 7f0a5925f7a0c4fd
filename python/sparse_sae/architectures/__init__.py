"""The architectures: one file each, and one line each in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sparse_sae._arguments import known_names, one_of
from sparse_sae.architectures.base import Architecture, Batch, Gradients
from sparse_sae.architectures.batch_topk import BatchTopK
from sparse_sae.architectures.gated import Gated
from sparse_sae.architectures.jump_relu import JumpReLU
from sparse_sae.architectures.matryoshka import Matryoshka
from sparse_sae.architectures.ortho import OrtSAE
from sparse_sae.architectures.pursuit import Pursuit
from sparse_sae.architectures.relu_l1 import L1
from sparse_sae.architectures.topk import AbsTopK, TopK
from sparse_sae.codes import Codes

ARCHITECTURES: dict[str, type[Architecture]] = {
    TopK.name: TopK,
    AbsTopK.name: AbsTopK,
    BatchTopK.name: BatchTopK,
    Matryoshka.name: Matryoshka,
    OrtSAE.name: OrtSAE,
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
    "OrtSAE",
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
    one_of("architecture", name, sorted(ARCHITECTURES))
    known_names(f"architecture {name}", values, [field.name for field in fields(ARCHITECTURES[name])])
    return ARCHITECTURES[name](**values)
