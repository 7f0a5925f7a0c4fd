"""What a graph explains: a token's logit, a difference of two, a feature, any function of the logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sparse_sae.circuits.frozen import Frozen
from sparse_sae.circuits.rows import Row, feature_row, logit_row

_MAX_LOGITS, _PROBABILITY = 10, 0.95


@dataclass(frozen=True)
class Logit:
    """A token's logit minus the mean of all; a text of one token, or its number. position: after which token."""

    token: str | int
    position: int = -1


@dataclass(frozen=True)
class LogitDifference:
    """The logit of one token minus that of another."""

    token: str | int
    other: str | int
    position: int = -1


@dataclass(frozen=True)
class Feature:
    """The pre-activation of a latent of a layer's transcoder at a position."""

    layer: int
    position: int
    latent: int


@dataclass(frozen=True)
class LogitFunction:
    """Any scalar function of the logits (V,), by its gradient at the prompt's own logits."""

    function: Callable[[Tensor], Tensor]
    label: str = "function of the logits"
    position: int = -1


Target: TypeAlias = Logit | LogitDifference | Feature | LogitFunction | str | int
_KINDS = (Logit, LogitDifference, Feature, LogitFunction, str, int)


@dataclass(frozen=True)
class Asked:
    """A target made ready: its row, its weight in influence, what is written on it.

    gradient: (V,) with respect to the logits, None for a feature. function: what is asked, where it is not linear.
    """

    row: Row
    weight: float
    label: str
    value: float
    layer: int
    latent: int
    gradient: Tensor | None = None
    function: Callable[[Tensor], Tensor] | None = None


def rows_of(frozen: Frozen, targets: Sequence[Target] | Target | None, tokenizer: Any = None) -> list[Asked]:
    """The rows of the targets; of the likeliest tokens where there are none."""
    if targets is None:
        probability = frozen.logits(-1).softmax(-1)
        top = probability.topk(min(_MAX_LOGITS, len(probability)))
        count = int((top.values.cumsum(0) < _PROBABILITY).sum()) + 1
        return [_asked(frozen, Logit(int(i)), tokenizer) for i in top.indices[:count]]
    several = [targets] if isinstance(targets, _KINDS) else list(targets)
    if not several:
        raise ValueError("targets: none given; name at least one, or pass None for the likeliest tokens")
    several = [Logit(t) if isinstance(t, str | int) else t for t in several]
    for target in several:
        if not isinstance(target, _KINDS):
            raise TypeError(
                f"targets: got {target!r}, expected a token's text or number, Logit, LogitDifference, Feature or "
                "LogitFunction"
            )
    return [_asked(frozen, target, tokenizer) for target in several]


def _asked(f: Frozen, target: Any, tokenizer: Any) -> Asked:
    n = f.n_positions
    if not -n <= target.position < n:
        raise ValueError(f"position: got {target.position}, expected {-n} to {n - 1}")
    position = target.position % n
    logits, end = f.logits(position), f.transformer.n_layers
    if isinstance(target, Feature):
        row = feature_row(f, target.layer, position, target.latent)
        t = f.transcoders[target.layer]
        read = f.transformer.mlp_in(f.seen, target.layer) if t.normed else f.seen.mid[target.layer]
        value = float(t.W_enc[target.latent] @ read[position] + t.b_enc[target.latent])
        return Asked(row, 1.0, f"L{target.layer}/{target.latent}", value, target.layer, target.latent)
    if isinstance(target, LogitFunction):
        with torch.enable_grad():
            own = logits.clone().requires_grad_(True)
            result = target.function(own)
            if not isinstance(result, Tensor) or result.numel() != 1 or not result.requires_grad:
                raise ValueError("function: expected one number that depends on the logits it is given")
            (gradient,) = torch.autograd.grad(result.sum(), own)
        value = float(gradient @ logits)  # the linear function whose terms the row holds
        row = logit_row(f, gradient, position)
        return Asked(row, 1.0, target.label, value, end, -1, gradient, target.function)
    gradient = torch.zeros_like(logits)
    token = _token(f, target.token, tokenizer)
    gradient[token] = 1
    name = repr(target.token if tokenizer is None else tokenizer.decode([token]))
    if isinstance(target, LogitDifference):
        other = _token(f, target.other, tokenizer)
        gradient[other] -= 1
        label = f"{name} minus {target.other if tokenizer is None else tokenizer.decode([other])!r}"
        return Asked(
            logit_row(f, gradient, position), 1.0, label, float(gradient @ logits), end, -1, gradient
        )
    gradient -= 1 / len(gradient)
    probability = float(logits.softmax(-1)[token])
    return Asked(
        logit_row(f, gradient, position), probability, name, float(gradient @ logits), end, token, gradient
    )


def _token(f: Frozen, token: str | int, tokenizer: Any) -> int:
    if isinstance(token, str):
        if tokenizer is None:
            raise ValueError(f"target {token!r}: the model has no tokenizer; give the token's number")
        ids = [int(i) for i in tokenizer(token, add_special_tokens=False)["input_ids"]]
        if len(ids) != 1:
            raise ValueError(
                f"target {token!r}: {len(ids)} tokens {ids}, expected one; name one of them by number"
            )
        token = ids[0]
    if not 0 <= token < f.transformer.d_vocab:
        raise ValueError(f"target: token {token}, expected 0 to {f.transformer.d_vocab - 1}")
    return token
