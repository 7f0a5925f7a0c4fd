"""What architectures with a sparsity penalty share: its strength over a run, and norms that weigh it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparse_sae import _kernels
from sparse_sae._arguments import require
from sparse_sae.activations import Activation
from sparse_sae.architectures.base import Architecture, Batch, Gradients, annealed
from sparse_sae.codes import Array, Params

# Of the control loop, per step: how fast the coefficient follows log(L0 / target), and how much of that ratio
# acts at once. Codes answer the coefficient with a lag of some hundred steps; these values damp the loop.
_GAIN, _PROPORTIONAL, _LIMIT = 0.015, 0.7, 1.0
_SMOOTHING = 0.1
SAMPLE_ROWS = 2048
_BLOCK = 1024  # latents whose products with a sample are held at once


@dataclass(frozen=True)
class Penalised(Architecture):
    """An architecture whose sparsity comes from a penalty.

    Args:
        coefficient: weight of the penalty beside the reconstruction loss |x - x̂|² / Var; with target_l0, the
            weight to begin with.
        target_l0: raise or lower the coefficient during training until this many latents are active on
            average; None keeps it. With a target, biases start where each latent fires on the same share of
            rows, target_l0 of them on each; the papers start with half of all active, and in a short run the
            penalty that must bring L0 down from there shrinks features before they have formed.
        warmup: share of the run over which the penalty rises from zero.
        aux_k, aux_coefficient: AuxK for dead latents, as in `TopK`; 0 switches it off.
    """

    coefficient: float = 1.0
    target_l0: float | None = None
    warmup: float = 0.05
    aux_k: int | None = None
    aux_coefficient: float = 1 / 32

    def check(self, d_sae: int) -> None:
        if not self.coefficient > 0 or not math.isfinite(self.coefficient):
            raise ValueError(f"coefficient: got {self.coefficient}, expected a positive number")
        if self.target_l0 is not None and not 0 < self.target_l0 <= d_sae:
            raise ValueError(
                f"target_l0: got {self.target_l0}, expected None or a number up to d_sae = {d_sae}"
            )
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup: got {self.warmup}, expected a share of the run, 0 to 1")
        if self.aux_k is not None and self.aux_k < 0:
            raise ValueError(
                f"aux_k: got {self.aux_k}, expected a number of latents, 0 (off) or None (d_in / 2)"
            )
        require(self.aux_coefficient >= 0, "aux_coefficient", self.aux_coefficient, "a weight from 0 on")

    @property
    def settled(self) -> float:
        return self.warmup

    def init(self, params: Params, x: Array) -> None:
        """penalty: the coefficient the control has reached, and a running mean of log(L0 / target)."""
        if self.target_l0 is not None:
            params["penalty"] = np.array([self.coefficient, 0], params["W_enc"].dtype)

    def penalty(self, params: Params, batch: Batch) -> float:
        """The coefficient at this point of the run."""
        value = self.coefficient
        if self.target_l0 is not None:
            value = float(params["penalty"][0]) * math.exp(_PROPORTIONAL * float(params["penalty"][1]))
        return annealed(0.0, value, batch.progress, self.warmup)

    def end_of_step(self, params: Params, gradients: Gradients, batch: Batch) -> None:
        """Follow the target."""
        if self.target_l0 is None:
            return
        l0 = max(1, len(gradients.codes.indices)) / len(batch.x)
        state = params["penalty"]
        state[1] += _SMOOTHING * (np.clip(math.log(l0 / self.target_l0), -_LIMIT, _LIMIT) - state[1])
        if batch.progress >= self.warmup:
            state[0] *= math.exp(_GAIN * float(state[1]))

    def trained(self, params: Params) -> tuple[Activation, Params]:
        """Without the state of the control."""
        return self.activation, {name: value for name, value in params.items() if name != "penalty"}


def starting_bias(params: Params, x: Array, active: float) -> Array:
    """(d_sae,) biases with which each latent is positive on the same share of rows of a sample of inputs, `active`
    of them on each (at most half).
    """
    sample, w = np.ascontiguousarray(x[:SAMPLE_ROWS]), params["W_enc"]
    share = min(0.5, active / len(w))
    bias = np.empty(len(w), w.dtype)
    for first in range(0, len(w), 4096):  # (rows, d_sae) may be too large to hold
        pre = _kernels.matmul_nt(sample, w[first : first + 4096])
        bias[first : first + 4096] = -np.quantile(pre, 1 - share, axis=0)
    return bias


def quantile_of_products(x: Array, w: Array, bias: Array, share: float) -> float:
    """The value that this share of all entries of x @ w.T + bias lies below, interpolated as `numpy.quantile` does.

    Only entries that may be above it are held: about 1 - share of len(x) · len(w), and a block of latents' more.
    """
    n = len(x) * len(w)
    place = (n - 1) * share
    below = int(place)
    kept = n - below  # the largest entries, of which the smallest two enclose the value
    largest = np.empty(0, w.dtype)
    for first in range(0, len(w), _BLOCK):
        part = slice(first, first + _BLOCK)
        pre = _kernels.matmul_nt(x, w[part])
        pre += bias[part]
        largest = np.concatenate([largest, pre.ravel()])
        if len(largest) > kept:
            largest = np.partition(largest, len(largest) - kept)[len(largest) - kept :]
    low, high = np.sort(np.partition(largest, 1)[:2]) if len(largest) > 1 else (largest[0], largest[0])
    gap, t = high - low, place - below
    return float(low + gap * w.dtype.type(t) if t < 0.5 else high - gap * w.dtype.type(1 - t))


def decoder_norms(w: Array, sources: tuple[int, ...]) -> Array:
    """(d_sae, sources) norms of decoder rows by source; one column where there is one source."""
    ends = np.cumsum(sources or (w.shape[1],))
    parts = np.split(w, ends[:-1], axis=1)
    return np.stack([np.sqrt(np.einsum("md,md->m", p, p)) for p in parts], axis=1)


def along(by_norm: Array, norms: Array) -> Array:
    """`Gradients.along_dec` for a loss whose derivative by the sum of each latent's norms is by_norm (d_sae,)."""
    result: Array = by_norm[:, None] / np.maximum(norms, np.finfo(norms.dtype).tiny)
    return result[:, 0] if result.shape[1] == 1 else result
