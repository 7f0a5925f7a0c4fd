"""Gated SAEs (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparse_sae import _kernels
from sparse_sae.activations import Activation, Gate, magnitude
from sparse_sae.architectures.auxiliary import auxiliary
from sparse_sae.architectures.base import Batch, Block, Gradients, gradients, reconstruction
from sparse_sae.architectures.penalty import Penalised, along, decoder_norms, starting_bias
from sparse_sae.codes import Array, Params
from sparse_sae.selection import above


@dataclass(frozen=True)
class Gated(Penalised):
    """z = 1[π > 0] ⊙ ReLU(exp(r_mag) ⊙ W_enc x̄ + b_mag), with the gate π = W_enc x̄ + b_enc and x̄ = x - b_dec.

    L = |x - x̂|² / Var + coefficient · Σ_j ReLU(π_j) |W_dec,j| / √Var + |x - x̂_frozen(ReLU(π))|² / Var: the gate
    alone must reconstruct too, through a decoder (and b_dec, and skip) that learns nothing from it. Decoder rows
    have unit norm. b_enc is the paper's b_gate.

    For the arguments see `Penalised`.

    >>> Gated(target_l0=32).config()["name"]
    'gated'
    """

    coefficient: float = 0.1
    aux_k: int | None = 0

    name: ClassVar[str] = "gated"

    def init(self, params: Params, x: Array) -> None:
        """r_mag 0, and b_mag = b_enc: gate and magnitude agree. With a target, b_enc from a sample of inputs."""
        super().init(params, x)
        if self.target_l0 is not None:
            params["b_enc"][:] = starting_bias(params, x, self.target_l0)
        params["r_mag"] = np.zeros_like(params["b_enc"])
        params["b_mag"] = params["b_enc"].copy()

    @property
    def activation(self) -> Activation:
        return Gate()

    def step(self, params: Params, batch: Batch) -> Gradients:
        # Gate and magnitude share a pattern, so one block holds both gradients.
        threads, m = batch.num_threads, len(params["W_enc"])
        gate = above(params, None, batch.x, None, None, threads)
        index = gate.indices
        size = magnitude(params, gate.values, index)
        z = np.maximum(size, 0)
        codes = gate._replace(values=z)
        out, dz, squared, value = reconstruction(codes, params, batch.y, batch.variance, threads)
        _, d_gate, _, value_gate = reconstruction(gate, params, batch.y, batch.variance, threads)
        error = out * out.dtype.type(-len(out) * batch.variance / 2)

        norms = decoder_norms(params["W_dec"], batch.sources)
        total = norms.sum(axis=1)
        unit = self.penalty(params, batch) / (len(batch.x) * batch.variance**0.5)
        sums = _kernels.latent_sums(*gate, m, num_threads=threads)
        d_gate = d_gate + (d_gate.dtype.type(unit) * total)[index]
        d_magnitude = np.where(size > 0, dz, dz.dtype.type(0))
        d_product = np.exp(params["r_mag"])[index] * d_magnitude  # through exp(r_mag) W_enc x̄

        def by_latent(values: Array) -> Array:
            return np.asarray(_kernels.latent_sums(gate.indptr, index, values, m, num_threads=threads))

        vectors = {
            "b_enc": by_latent(d_gate),
            "b_mag": by_latent(d_magnitude),
            "r_mag": by_latent(d_magnitude * (size - params["b_mag"][index])),
        }
        parts = {"reconstruction": value, "sparsity": unit * float(sums @ total), "gate": value_gate}
        blocks = [Block(codes, d_gate + d_product, out)]
        aux = auxiliary(params, batch, error, self.aux_k, self.aux_coefficient)
        if aux is not None:
            blocks.append(aux[0])
            parts["aux"] = aux[1]
            # AuxK scores dead latents by the gate, whose bias it trains.
            block = aux[0]
            vectors["b_enc"] = vectors["b_enc"] + _kernels.latent_sums(
                block.codes.indptr, block.codes.indices, block.dz, m, num_threads=threads
            )
        return gradients(
            params,
            batch,
            blocks,
            codes=codes.where(z > 0),
            squared=squared,
            parts=parts,
            output=out,
            vectors=vectors,
            along_dec=along(sums.dtype.type(unit) * sums, norms),
        )

    def rescale(self, params: Params, factor: Array | float) -> None:
        # W_enc and the gate's bias were multiplied, so the other bias must be.
        params["b_mag"] *= np.asarray(factor, params["b_mag"].dtype)

    def revive(self, params: Params, latents: Array) -> None:
        params["r_mag"][latents] = 0
        params["b_mag"][latents] = params["b_enc"][latents]
