"""Dead latents by resampling, and advice on inputs whose mean outweighs their variation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sparse_sae._arguments import conform, require
from sparse_sae._io.arrays import Array


@dataclass(frozen=True)
class Resampling:
    """Give dead latents the directions of badly reconstructed inputs (Bricken et al. 2023, Towards Monosemanticity).

    Inputs are drawn with probability proportional to their squared loss. A dead latent's decoder row becomes the
    unit vector along such an input (less b_dec), its encoder row the same vector with `encoder_scale` times the
    mean norm of living encoder rows, its bias zero; its Adam moments are reset.

    Args:
        at: when, as shares of the run. Published: steps 25k, 50k, 75k and 100k of 200k.
        encoder_scale: see above; published 0.2.
        rows: inputs whose loss is measured each time, at most the tokens of the run / 20. Published: 819,200 of
            8192 a step.

    Which latents are dead is `dead_after` of `train`; published 12,500 steps.

    >>> Resampling().steps(1000)
    {125: 0, 250: 1, 375: 2, 500: 3}
    """

    at: tuple[float, ...] = (0.125, 0.25, 0.375, 0.5)
    encoder_scale: float = 0.2
    rows: int = 819_200

    def __post_init__(self) -> None:
        conform(self)
        shares = bool(self.at) and all(0 < a < 1 for a in self.at)
        require(shares, "at", self.at, "shares of the run between 0 and 1")
        require(self.encoder_scale > 0, "encoder_scale", self.encoder_scale, "a positive number")
        require(self.rows >= 1, "rows", self.rows, "a whole number from 1 on")

    def steps(self, steps: int) -> dict[int, int]:
        """Steps before which latents are resampled, and the number of each occasion."""
        return {max(1, round(a * steps)): i for i, a in enumerate(self.at)}

    def config(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "at": list(self.at)}


def draw_by_loss(
    blocks: Iterable[tuple[Array, Array, Array]], n: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Draw n rows without replacement, with weights loss².

    One pass keeps the n largest of log(u) / weight (Efraimidis & Spirakis 2006), so no more than that is held.

    Args:
        blocks: inputs (b, d_in), targets (b, d_out) and squared errors (b,) of blocks of rows.

    Returns:
        The drawn inputs and targets, (n, d_in) and (n, d_out) or fewer, and the mean (d_in,) of all inputs.
    """
    keys = np.empty(0)
    kept_x = kept_y = np.empty((0, 0))
    total: Any = 0.0
    seen = 0
    for x, y, squared in blocks:
        total, seen = total + x.sum(axis=0, dtype=np.float64), seen + len(x)
        weights = np.maximum(squared.astype(np.float64) ** 2, 1e-300)
        keys = np.concatenate([keys, np.log(rng.random(len(x))) / weights])
        kept_x = np.concatenate([kept_x, x]) if len(kept_x) else x
        kept_y = np.concatenate([kept_y, y]) if len(kept_y) else y
        best = np.argsort(-keys, kind="stable")[:n]
        keys, kept_x, kept_y = keys[best], kept_x[best], kept_y[best]
    return kept_x, kept_y, total / max(1, seen)


def revive(
    params: dict[str, Array],
    dead: Array,
    x: Array,
    y: Array,
    center: Array,
    encoder_scale: float,
    unit_norm: bool,
) -> None:
    """Give dead latents the directions of inputs and targets, in place, as `Resampling` says.

    Args:
        dead: (n,) latents. x, y: (n, d_in) inputs and (n, d_out) targets, one for each.
        center: (d_in,) where inputs are centred; what b_dec does not take away, the bias does.
        unit_norm: decoder rows have unit norm; otherwise the mean norm of living ones.
    """
    dtype = params["W_dec"].dtype
    alive = np.setdiff1d(np.arange(len(params["b_enc"])), dead)
    norms = np.linalg.norm(params["W_enc"][alive], axis=1)
    length = encoder_scale * (float(norms.mean()) if len(alive) else 1.0)
    free = len(alive) and not unit_norm
    scale = float(np.linalg.norm(params["W_dec"][alive], axis=1).mean()) if free else 1.0
    params["W_dec"][dead] = (_unit(y) * scale).astype(dtype)
    params["W_enc"][dead] = (_unit(x - center) * length).astype(dtype)
    params["b_enc"][dead] = -(params["W_enc"][dead] @ center).astype(dtype)


def _unit(rows: Array) -> Array:
    result: Array = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    return result


def mean_to_spread(x: Array) -> float:
    """γ = |mean x| / √(E|x - mean x|²) of rows (n, d): how far the data's mean outweighs its variation.

    >>> round(mean_to_spread(np.array([[3.0, 4.0], [3.0, 6.0]])), 3)
    5.831
    """
    rows = x.astype(np.float64)
    mean = rows.mean(axis=0)
    spread = float(np.sqrt(((rows - mean) ** 2).sum(axis=1).mean()))
    length = float(np.linalg.norm(mean))
    return length / spread if spread > 0 else float("inf") if length > 0 else 0.0


def centering_advice(gamma: float, b_dec_init: str) -> str | None:
    """What to change where γ is large and nothing takes the mean away; None where nothing needs to change."""
    if gamma < 1 or b_dec_init != "zero":
        return None
    return (
        f"the mean of the data is {gamma:.1f} times its spread (γ = |mean| / std), and b_dec_init='zero' leaves it in: "
        "latents whose rows point away from the mean never fire. Use b_dec_init='mean' or 'geometric_median'"
    )
