"""JumpReLU, with a threshold of its own for each latent, by two published recipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import numpy as np

from sparse_sae import _kernels, activations, selection
from sparse_sae.architectures.auxiliary import auxiliary
from sparse_sae.architectures.base import Batch, Block, Gradients, gradients, reconstruction
from sparse_sae.architectures.penalty import (
    SAMPLE_ROWS,
    Penalised,
    along,
    decoder_norms,
    quantile_of_products,
    starting_bias,
)
from sparse_sae.codes import Array, Codes, Params

Recipe: TypeAlias = Literal["step", "tanh"]
_FOLLOW = 0.02  # of log(L0 / target), per step, added to log θ


@dataclass(frozen=True)
class JumpReLU(Penalised):
    """z = π · 1[π > θ] with π = W_enc (x - b_dec) + b_enc,  x̂ = W_dec z + b_dec.

    A threshold's gradient is a stated pseudo-gradient: the step is given the slope of a ramp of width ε =
    `bandwidth` around θ, so that with K = 1[|π - θ| < ε/2, π > 0]
        ∂z/∂θ = -θ/ε K    and    ∂1[π > θ]/∂θ = -1/ε K.

    "step" (Rajamanoharan et al. 2024, arXiv 2407.14435; Gemma Scope): L = |x - x̂|² / Var + coefficient · L0.
    Unit-norm decoder rows; W_enc and b_enc learn from active latents only.

    "tanh" (Anthropic, January 2025 update): L = |x - x̂|² / Var + coefficient · Σ_j tanh(tanh_scale · z_j |W_dec,j|) +
    preact_coefficient · Σ_j ReLU(θ_j - π_j) |W_dec,j|, the last of which gives every silent latent a gradient.
    Free decoder norms; pseudo-gradients also reach W_enc and b_enc (∂z/∂π = 1[π > θ] + θ/ε K). Starts with b_enc
    set so that each latent fires on the same share of rows, target_l0 (or 32) of them on each.

    Pre-activations are in units of the normalised input (E|x|² = d_in), and so are ε and θ. log θ is what is
    trained.

    Args:
        recipe: "step" or "tanh".
        coefficient: price of an active latent, as a share of the variance; with target_l0, what it begins with is
            coefficient · 32 / target_l0, since the fewer there are the more each is worth.
        bandwidth: ε. Published: 0.001 √d_in (step), 2 (tanh), for runs of billions of tokens.
        start_threshold: θ at the start; None: for "step" so high that target_l0 latents of a row are active (32
            without a target), for "tanh" 1. Published: 0.001 √d_in (step), from where L0 has to fall for most of a
            short run, and 0.1 (tanh).
        tanh_scale, preact_coefficient: see above. Published: 4, and 3e-6 beside |x - x̂|², that is 3e-6 / Var. A
            latent that fires no more has only this gradient, and for about 1,000 steps Adam weighs it against the
            larger ones it had before; a short run needs more of it.

    For target_l0, warmup, aux_k and aux_coefficient see `Penalised`.

    >>> JumpReLU(target_l0=32).config()["name"]
    'jumprelu'
    """

    coefficient: float = 0.003
    warmup: float = 0.1
    recipe: Recipe = "step"
    bandwidth: float = 1.0
    start_threshold: float | None = None
    tanh_scale: float = 4.0
    preact_coefficient: float = 3e-5

    name: ClassVar[str] = "jumprelu"

    @property
    def unit_norm(self) -> bool:
        return self.recipe == "step"

    def check(self, d_sae: int) -> None:
        super().check(d_sae)
        for field in ("bandwidth", "start_threshold", "tanh_scale"):
            if getattr(self, field) is not None and not getattr(self, field) > 0:
                raise ValueError(f"{field}: got {getattr(self, field)}, expected a positive number")
        if self.preact_coefficient < 0:
            raise ValueError(
                f"preact_coefficient: got {self.preact_coefficient}, expected a number from 0 on"
            )

    def init(self, params: Params, x: Array) -> None:
        """log_threshold; for "tanh" also the scale of W_dec, and b_enc from a sample of inputs.

        The published W_enc, d_in / d_sae times W_dec, is as small as one short run's learning rate: the first steps
        overwrite it, all rows in much the same direction, and most latents never fire again.
        """
        super().init(params, x)
        if self.target_l0 is not None:
            params["penalty"][0] *= 32 / self.target_l0
        active = self.target_l0 or 32
        if self.recipe == "tanh":
            # the mean norm of a row drawn from U(-1/√n, 1/√n)
            params["W_dec"] *= params["W_dec"].dtype.type(3**-0.5)
            theta = self.start_threshold or 1.0
            params["b_enc"][:] = theta + starting_bias(params, x, active)
        else:
            theta = self.start_threshold or starting_threshold(params, x, active)
        params["log_threshold"] = np.full_like(params["b_enc"], np.log(theta))

    @staticmethod
    def threshold(params: Params) -> Array:
        """(d_sae,) θ, in training and afterwards."""
        return params["threshold"] if "threshold" in params else np.exp(params["log_threshold"])

    @property
    def activation(self) -> activations.Activation:
        return activations.JumpReLU()

    def encode(self, params: Params, x: Array, center: Array | None = None, *, num_threads: int = 1) -> Codes:
        """Pre-activations above their thresholds."""
        return selection.above(params, self.threshold(params), x, center, None, num_threads)

    def step(self, params: Params, batch: Batch) -> Gradients:
        # The pattern holds what is active and what is in the window below θ.
        threads, m, n_rows = batch.num_threads, len(params["W_enc"]), len(batch.x)
        theta = self.threshold(params)
        dtype = theta.dtype.type
        half = dtype(self.bandwidth / 2)
        near = selection.above(params, np.maximum(theta - half, 0), batch.x, None, None, threads)
        index, pre = near.indices, near.values
        active = pre > theta[index]
        window = (np.abs(pre - theta[index]) < half).astype(pre.dtype) / dtype(self.bandwidth)  # K / ε
        codes = near._replace(values=np.where(active, pre, dtype(0)))
        out, dz, squared, value = reconstruction(codes, params, batch.y, batch.variance, threads)
        error = out * dtype(-n_rows * batch.variance / 2)
        parts = {"reconstruction": value}
        more: dict[str, Array] = {}
        price = self.penalty(params, batch) / n_rows

        def by_latent(values: Array) -> Array:
            return np.asarray(
                _kernels.latent_sums(near.indptr, index, values.astype(pre.dtype), m, num_threads=threads)
            )

        if self.recipe == "step":
            d_pre = np.where(active, dz, dtype(0))
            d_theta = by_latent(-window * (theta[index] * dz + dtype(price)))
            parts["sparsity"] = price * int(active.sum())
        else:
            norms = decoder_norms(params["W_dec"], batch.sources)
            total = norms.sum(axis=1)
            tanh = np.tanh(dtype(self.tanh_scale) * codes.values * total[index])
            slope = dtype(price * self.tanh_scale) * (1 - tanh**2)  # by z |W_dec|
            dz = dz + slope * total[index]
            ramp = theta[index] * window
            d_theta = by_latent(-ramp * dz)
            d_pre = np.where(active, dz, dtype(0)) + ramp * dz
            parts["sparsity"] = price * float(tanh.sum(dtype=np.float64))
            # Σ over silent entries of θ - π is that over all entries, less that over active ones.
            silent = dtype(self.preact_coefficient / n_rows)
            count = n_rows - by_latent(active)
            x_sum = batch.x.sum(axis=0)
            all_pre = params["W_enc"] @ x_sum + n_rows * params["b_enc"]
            below = n_rows * theta - all_pre - by_latent(np.where(active, theta[index] - pre, dtype(0)))
            parts["preact"] = float(silent * (below @ total))
            d_theta = d_theta + silent * total * count
            d_pre = d_pre + np.where(active, (silent * total)[index], dtype(0))
            more["outer_enc"] = -silent * total
            more["along_dec"] = along(by_latent(slope * codes.values) + silent * below, norms)

        blocks = [Block(codes, d_pre, out)]
        aux = auxiliary(params, batch, error, self.aux_k, self.aux_coefficient)
        if aux is not None:
            blocks.append(aux[0])
            parts["aux"] = aux[1]
        result = gradients(
            params,
            batch,
            blocks,
            codes=codes.where(active),
            squared=squared,
            parts=parts,
            output=out,
            vectors={"log_threshold": theta * d_theta},
            **more,
        )
        if result.outer_enc is not None:
            result.d_pre = result.d_pre + n_rows * result.outer_enc
        return result

    def end_of_step(self, params: Params, gradients: Gradients, batch: Batch) -> None:
        """Follow the target: the price slowly, and all thresholds a little at once, which L0 answers immediately."""
        super().end_of_step(params, gradients, batch)
        if self.target_l0 is not None:
            params["log_threshold"] += params["log_threshold"].dtype.type(_FOLLOW) * params["penalty"][1]

    def trained(self, params: Params) -> tuple[activations.Activation, Params]:
        """With `threshold` for log_threshold."""
        params = dict(super().trained(params)[1])
        params["threshold"] = self.threshold(params)
        params.pop("log_threshold", None)
        return self.activation, params

    def rescale(self, params: Params, factor: Array | float) -> None:
        if "threshold" in params:
            params["threshold"] *= np.asarray(factor, params["threshold"].dtype)
        else:
            params["log_threshold"] += np.log(np.asarray(factor, params["log_threshold"].dtype))

    def revive(self, params: Params, latents: Array) -> None:
        others = np.delete(params["log_threshold"], latents)
        params["log_threshold"][latents] = (
            others.mean() if len(others) else np.log(self.start_threshold or 1.0)
        )


def starting_threshold(params: Params, x: Array, active: float) -> float:
    """The threshold, one for all, above which `active` latents (at most half) of a row of a sample are."""
    sample, m = np.ascontiguousarray(x[:SAMPLE_ROWS]), len(params["W_enc"])
    share = 1 - min(0.5, active / m)
    return max(quantile_of_products(sample, params["W_enc"], params["b_enc"], share), 1e-3)
