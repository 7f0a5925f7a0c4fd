"""The fields of `TrainConfig` as arguments of `train`: their types for checkers and editors, a signature for help()."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypedDict

from sparse_sae.coders import Coder, Kind
from sparse_sae.training.config import Precision, TrainConfig
from sparse_sae.training.optim import Center, Decay
from sparse_sae.training.resampling import Resampling
from sparse_sae.transforms import Normalize


class TrainOptions(TypedDict, total=False):
    """The types of `TrainConfig`'s fields that have a default, for type checkers and editors (a test compares them)."""

    batch_size: int | None
    seed: int
    coder: Coder | Kind
    lr: float | None
    schedule: Decay
    warmup: float
    decay: float
    betas: tuple[float, float]
    eps: float
    clip_norm: float
    normalize: Normalize
    b_dec_init: Center
    dead_after: int | None
    resampling: Resampling | None
    dtype: Precision
    part: int | None
    checkpoint_every: int
    log_every: int
    metadata: Mapping[str, Any] | None


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """A function's signature with the fields of `TrainConfig` in place of **options: for help() and notebooks."""
    own = inspect.signature(function)
    parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for f in fields(TrainConfig):
        if f.name not in own.parameters:
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            default = inspect.Parameter.empty if default is MISSING else default
            parameters.append(
                inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=f.type)
            )
    return own.replace(parameters=parameters)
