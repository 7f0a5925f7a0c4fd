"""Dead latents by resampling, and advice on inputs whose mean outweighs their variation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._io.arrays import Array

if TYPE_CHECKING:
    from ..data.sources import Source
    from .run import Run


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
        object.__setattr__(self, "at", tuple(float(a) for a in self.at))
        if not self.at or not all(0 < a < 1 for a in self.at):
            raise ValueError(f"at: got {self.at}, expected shares of the run between 0 and 1")
        if not self.encoder_scale > 0:
            raise ValueError(f"encoder_scale: got {self.encoder_scale}, expected a positive number")
        if self.rows < 1:
            raise ValueError(f"rows: got {self.rows}, expected a positive number")

    def steps(self, steps: int) -> dict[int, int]:
        """Steps before which latents are resampled, and the number of each occasion."""
        return {max(1, round(a * steps)): i for i, a in enumerate(self.at)}

    def config(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "at": list(self.at)}

    def apply(self, run: Run, source: Source, occasion: int) -> int:
        """Resample the dead latents of a run, in place; returns how many."""
        options = run.options
        dead = np.flatnonzero(run.tokens_since_fired >= options.dead_after)
        if not len(dead):
            return 0
        rng = np.random.default_rng([options.seed, 2, occasion])
        limit = max(min(self.rows, options.n_tokens // 20), 4 * len(dead))
        rows, targets, center = self._draw(run, source, rng, len(dead), limit, occasion)
        params = run.params
        dead = dead[: len(rows)]
        dtype = params["W_dec"].dtype
        alive = np.setdiff1d(np.arange(options.d_sae), dead)
        norms = np.linalg.norm(params["W_enc"][alive], axis=1)
        length = self.encoder_scale * (float(norms.mean()) if len(alive) else 1.0)
        scale = 1.0 if run.architecture.unit_norm or not len(alive) else float(
            np.linalg.norm(params["W_dec"][alive], axis=1).mean()
        )  # fmt: skip
        params["W_dec"][dead] = (_unit(targets) * scale).astype(dtype)
        params["W_enc"][dead] = (_unit(rows - center) * length).astype(dtype)
        # Where b_dec does not centre the input, the bias does.
        params["b_enc"][dead] = -(params["W_enc"][dead] @ center).astype(dtype)
        run.architecture.revive(params, dead)
        run.adam.forget(dead)
        run.tokens_since_fired[dead] = 0
        return len(dead)

    @staticmethod
    def _draw(
        run: Run, source: Source, rng: np.random.Generator, n: int, limit: int, occasion: int
    ) -> tuple[Array, Array, Array]:
        """n inputs and targets, drawn without replacement with weights loss²; and where inputs are centred.

        One pass keeps the n largest of log(u) / weight (Efraimidis & Spirakis 2006), so no more than that is held.
        """
        keys = np.empty(0)
        kept_x = kept_y = np.empty((0, 0))
        total: Any = 0.0
        seen = 0
        for block in source.blocks(run.options.seed + 1 + occasion, 0):
            block = block[: limit - seen]
            x, y, squared = run.losses(block)
            total, seen = total + x.sum(axis=0, dtype=np.float64), seen + len(x)
            weights = np.maximum(squared.astype(np.float64) ** 2, 1e-300)
            keys = np.concatenate([keys, np.log(rng.random(len(x))) / weights])
            kept_x = np.concatenate([kept_x, x]) if len(kept_x) else x
            kept_y = np.concatenate([kept_y, y]) if len(kept_y) else y
            best = np.argsort(-keys, kind="stable")[:n]
            keys, kept_x, kept_y = keys[best], kept_x[best], kept_y[best]
            if seen >= limit:
                break
        center = np.zeros(kept_x.shape[1]) if run.coder.reads_all else total / max(1, seen)
        return kept_x, kept_y, center


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
