"""TopK and AbsTopK, with AuxK and Multi-TopK (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparse_sae import _kernels, activations, selection
from sparse_sae.architectures.auxiliary import aux_size, auxiliary
from sparse_sae.architectures.base import (
    Architecture,
    Batch,
    Block,
    Gradients,
    annealed,
    gradients,
    reconstruction,
)
from sparse_sae.codes import Array, Codes, Params, divided, stack


@dataclass(frozen=True)
class TopK(Architecture):
    """z = ReLU(TopK(W_enc (x - b_dec) + b_enc)),  x̂ = W_dec z + b_dec.

    L = |x - x̂|² / Var + aux_coefficient · |e - ê|² / |e|² + multi_coefficient · L(multi_k), where e = x - x̂ is
    held fixed and ê = W_dec z_aux decodes the aux_k largest pre-activations of dead latents (AuxK, section 2.3).

    Args:
        k: active latents per row.
        aux_k: dead latents that model the error, per row; None takes half of d_in; 0 switches AuxK off.
        aux_coefficient: weight of the auxiliary loss (the paper's 1/32).
        multi_k: also reconstruct from the multi_k largest (Multi-TopK, section 5.3 of the paper; it uses 4 k);
            0 switches it off.
        multi_coefficient: weight of that reconstruction (the paper's 1/8).
        start_k: train with this k at first, going down (or up) to k; 0 switches annealing off.
        anneal: share of the run that annealing takes.

    >>> TopK(k=32).config()["name"]
    'topk'
    """

    k: int = 32
    aux_k: int | None = None
    aux_coefficient: float = 1 / 32
    multi_k: int = 0
    multi_coefficient: float = 1 / 8
    start_k: int = 0
    anneal: float = 0.1

    name: ClassVar[str] = "topk"
    competes: ClassVar[bool] = True
    absolute: ClassVar[bool] = False

    def check(self, d_sae: int) -> None:
        self.activation.check(d_sae)
        for name in ("aux_coefficient", "multi_coefficient"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a weight from 0 on")
        if self.aux_k is not None and self.aux_k < 0:
            raise ValueError(
                f"aux_k: got {self.aux_k}, expected a number of latents, 0 (off) or None (d_in / 2)"
            )
        if self.multi_k and not self.k < self.multi_k <= d_sae:
            raise ValueError(
                f"multi_k: got {self.multi_k}, expected 0 (off) or more than k = {self.k}, up to d_sae"
            )
        if not 0 <= self.start_k <= d_sae:
            raise ValueError(f"start_k: got {self.start_k}, expected 0 (off) or a k up to d_sae = {d_sae}")
        if not 0 <= self.anneal <= 1:
            raise ValueError(f"anneal: got {self.anneal}, expected a share of the run, 0 to 1")

    @property
    def settled(self) -> float:
        return self.anneal if self.start_k not in (0, self.k) else 0.0

    @property
    def activation(self) -> activations.Activation:
        return activations.AbsTopK(self.k) if self.absolute else activations.TopK(self.k)

    def select(self, params: Params, batch: Batch, k: int) -> Codes:
        """The codes of a training batch, k a row."""
        codes, batch.counts["screen_fallbacks"] = selection.top(
            params, batch.x, k, None, None, self.absolute, batch.num_threads
        )
        return codes

    def _aux_k(self, batch: Batch) -> int:
        """Latents a row that AuxK trains in this step; 0: none."""
        return aux_size(batch, self.aux_k) if self.aux_coefficient else 0

    def _select_with_dead(self, params: Params, batch: Batch, k: int) -> tuple[Codes, Codes | None]:
        """The codes, and those of dead latents for AuxK where one pass over the dictionary gives both."""
        aux_k = self._aux_k(batch)
        if not aux_k or self.absolute or type(self).select is not TopK.select:
            return self.select(params, batch, k), None
        found = _kernels.encode_topk_aux(
            batch.x, params["W_enc"], params["b_enc"], k, batch.dead, aux_k, num_threads=batch.num_threads
        )
        batch.counts["screen_fallbacks"] = found[6]
        return divided(stack(Codes(*found[:3]), Codes(*found[3:6])), len(batch.x))

    def k_now(self, batch: Batch) -> int:
        """k at this point of the run."""
        return round(annealed(self.start_k or self.k, self.k, batch.progress, self.anneal))

    def step(self, params: Params, batch: Batch) -> Gradients:
        k = self.k_now(batch)
        codes, dead_codes = self._select_with_dead(params, batch, k)
        blocks, squared, value, error, output = self.fit(params, batch, codes)
        parts = {"reconstruction": value}
        if self.multi_k > k:
            wide = self.select(params, batch, self.multi_k)
            more, _, value, _, output_wide = self.fit(params, batch, wide, self.multi_coefficient)
            blocks += more
            output = output + output_wide
            parts["multi"] = value
        aux = auxiliary(
            params,
            batch,
            error,
            self.aux_k,
            self.aux_coefficient,
            absolute=self.absolute,
            codes=dead_codes,
            out=error,
        )
        if aux is not None:
            blocks.append(aux[0])
            parts["aux"] = aux[1]
        return gradients(params, batch, blocks, codes=codes, squared=squared, parts=parts, output=output)

    def fit(
        self, params: Params, batch: Batch, codes: Codes, coefficient: float = 1.0
    ) -> tuple[list[Block], Array, float, Array, Array]:
        """Reconstruct the batch: blocks of gradients, squared errors, loss, error y - ŷ, gradient of the output."""
        # Where AuxK follows, the error lies below the gradient, and AuxK's gradient will lie where the error was: what
        # `gradients` then joins is one array already.
        places = np.empty((2 if self._aux_k(batch) else 1, *batch.y.shape), batch.y.dtype)
        out, dz, squared, loss = reconstruction(
            codes, params, batch.y, batch.variance, batch.num_threads, coefficient, places[0]
        )
        unscaled = out.dtype.type(-len(out) * batch.variance / (2 * coefficient))
        error = np.multiply(out, unscaled, out=places[1] if len(places) > 1 else None)
        return [Block(codes, dz, out)], squared, loss, error, out


@dataclass(frozen=True)
class AbsTopK(TopK):
    """TopK by magnitude: codes keep their sign, so that one latent serves a direction and its opposite (Zhu et
    al. 2025, arXiv 2510.00404).

    >>> AbsTopK(k=8).config()["name"]
    'abstopk'
    """

    name: ClassVar[str] = "abstopk"
    absolute: ClassVar[bool] = True
