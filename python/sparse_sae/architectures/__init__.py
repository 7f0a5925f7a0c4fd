"""The architectures: one file each, and one line each in the registry."""

from __future__ import annotations

from typing import Any

from .base import Architecture, Batch, Codes, Gradients
from .topk import TopK

ARCHITECTURES: dict[str, type[Architecture]] = {a.name: a for a in (TopK,)}

__all__ = ["ARCHITECTURES", "Architecture", "Batch", "Codes", "Gradients", "TopK", "from_config"]


def from_config(config: dict[str, Any]) -> Architecture:
    """The architecture that `Architecture.config` describes.

    >>> from_config({"name": "topk", "k": 8}).k
    8
    """
    values = dict(config)
    name = values.pop("name", None)
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture: got {name!r}, expected one of {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name](**values)
