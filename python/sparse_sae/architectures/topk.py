"""TopK, with AuxK and Multi-TopK (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import _kernels
from .base import Architecture, Array, Batch, Codes, Gradients, Params, reconstruction, stack


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

    >>> TopK(k=32).config()["name"]
    'topk'
    """

    k: int = 32
    aux_k: int | None = None
    aux_coefficient: float = 1 / 32
    multi_k: int = 0
    multi_coefficient: float = 1 / 8

    name: ClassVar[str] = "topk"
    absolute: ClassVar[bool] = False

    def check(self, d_sae: int) -> None:
        """See the base class."""
        if not 1 <= self.k <= d_sae:
            raise ValueError(f"k: got {self.k}, expected 1 to d_sae = {d_sae}")
        if self.aux_k is not None and self.aux_k < 0:
            raise ValueError(f"aux_k: got {self.aux_k}, expected a number of latents, 0 (off) or None (d_in / 2)")
        if self.multi_k and not self.k < self.multi_k <= d_sae:
            raise ValueError(f"multi_k: got {self.multi_k}, expected 0 (off) or more than k = {self.k}, up to d_sae")

    def encode(
        self,
        params: Params,
        x: Array,
        center: Array | None,
        *,
        latents: Array | None = None,
        num_threads: int = 1,
    ) -> Codes:
        """The k largest pre-activations.

        Named latents are given by the positive part of their pre-activations, without the competition of the
        others: that would need all of them. Where a latent is among the k largest, the two agree.
        """
        w, b = params["W_enc"], params["b_enc"]
        if latents is not None and not self.absolute:
            return Codes(
                *_kernels.encode_threshold(x, w, b, None, center=center, latents=latents, num_threads=num_threads)
            )
        k = self.k if latents is None else len(latents)
        return self._top(params, x, k, center, latents, num_threads)

    def _top(
        self, params: Params, x: Array, k: int, center: Array | None, latents: Array | None, num_threads: int
    ) -> Codes:
        found = _kernels.encode_topk(
            x, params["W_enc"], params["b_enc"], k, center=center, latents=latents,
            absolute=self.absolute, relu=not self.absolute, num_threads=num_threads,
        )  # fmt: skip
        return Codes(*found[:3])

    def step(self, params: Params, batch: Batch) -> Gradients:
        """See the base class."""
        codes = self._top(params, batch.x, self.k, None, None, batch.num_threads)
        out, dz, squared, loss = reconstruction(codes, params, batch)
        parts = {"reconstruction": loss}
        blocks, dzs, outs = [codes], [dz], [out]
        b_dec = out.sum(axis=0)
        if self.multi_k:
            wide = self._top(params, batch.x, self.multi_k, None, None, batch.num_threads)
            out_m, dz_m, _, loss_m = reconstruction(wide, params, batch)
            scale = out_m.dtype.type(self.multi_coefficient)
            blocks, dzs, outs = [*blocks, wide], [*dzs, dz_m * scale], [*outs, out_m * scale]
            b_dec = b_dec + outs[-1].sum(axis=0)
            parts["multi"] = loss_m
            loss += self.multi_coefficient * loss_m
        aux = auxiliary(self, params, batch, out, self.aux_k, self.aux_coefficient)
        if aux is not None:
            aux_codes, out_a, dz_a, loss_a = aux
            blocks, dzs, outs = [*blocks, aux_codes], [*dzs, dz_a], [*outs, out_a]
            parts["aux"] = loss_a
            loss += loss_a
        all_codes = stack(*blocks)
        all_dz = np.concatenate(dzs)
        return Gradients(
            loss=loss,
            parts=parts,
            codes=codes,
            squared=squared,
            indptr=all_codes.indptr,
            indices=all_codes.indices,
            z=all_codes.values,
            dz=all_dz,
            out=np.concatenate(outs) if len(outs) > 1 else out,
            b_dec=b_dec,
            d_pre=_kernels.latent_sums(
                all_codes.indptr, all_codes.indices, all_dz, len(params["W_enc"]), num_threads=batch.num_threads
            ),
        )


def auxiliary(
    architecture: Architecture, params: Params, batch: Batch, out: Array, aux_k: int | None, coefficient: float
) -> tuple[Codes, Array, Array, float] | None:
    """AuxK: codes of dead latents, their output and code gradients, and the loss; None when nothing is dead.

    out is the gradient of the main reconstruction, from which the error e is read off. ReLU is left out on
    purpose: a dead latent whose pre-activations are all negative would otherwise never get a gradient.
    """
    dead = np.flatnonzero(batch.dead).astype(np.int32)
    aux_k = batch.x.shape[1] // 2 if aux_k is None else aux_k
    if not len(dead) or not aux_k or not coefficient:
        return None
    error = out * out.dtype.type(-len(out) * batch.variance / 2)
    power = float((error.astype(np.float64) ** 2).sum()) / len(error)
    if power == 0:
        return None
    found = _kernels.encode_topk(
        batch.x, params["W_enc"], params["b_enc"], min(aux_k, len(dead)),
        latents=dead, relu=False, num_threads=batch.num_threads,
    )  # fmt: skip
    codes = Codes(found[0], dead[found[1]], found[2])
    residual, projected, squared = _kernels.decode_residual(
        *codes, params["W_dec"], error, num_threads=batch.num_threads
    )
    scale = residual.dtype.type(2 * coefficient / (len(error) * power))
    loss = coefficient * float(squared.sum(dtype=np.float64)) / (len(error) * power)
    residual *= scale
    projected *= scale
    return codes, residual, projected, loss
