"""AuxK: dead latents learn to model what the living ones miss (Gao et al. 2024, arXiv 2406.04093, section 2.3)."""

from __future__ import annotations

import numpy as np

from sparse_sae import _kernels
from sparse_sae.architectures.base import Batch, Block, reconstruction
from sparse_sae.codes import Array, Codes, Params


def aux_size(batch: Batch, aux_k: int | None) -> int:
    """Dead latents that model the error of a row: aux_k (None: half of d_in), or as many as are dead."""
    return min(batch.x.shape[1] // 2 if aux_k is None else aux_k, int(np.count_nonzero(batch.dead)))


def auxiliary(
    params: Params,
    batch: Batch,
    error: Array,
    aux_k: int | None,
    coefficient: float,
    *,
    absolute: bool = False,
    codes: Codes | None = None,
    out: Array | None = None,
) -> tuple[Block, float] | None:
    """coefficient · |e - ê|² / |e|² as a block of gradients, and its value; None when nothing is dead.

    ê decodes, for each row, the aux_k largest pre-activations among dead latents; the error e (N, d_out) is
    held fixed. aux_k None stands for half of d_in. codes: those of the dead latents, where they are known. out: where
    the gradient by ê goes; it may be the error.

    ReLU is left out on purpose: a dead latent whose pre-activations are all negative would otherwise never get
    a gradient (docs/architectures.md has the measurement).
    """
    aux_k = aux_size(batch, aux_k)
    if not aux_k or not coefficient:
        return None
    power = float(np.einsum("nd,nd->n", error, error).mean(dtype=np.float64))
    if power == 0:
        return None
    if codes is None:
        dead = np.flatnonzero(batch.dead).astype(np.int32)
        found = _kernels.encode_topk(
            batch.x,
            params["W_enc"],
            params["b_enc"],
            aux_k,
            latents=dead,
            absolute=absolute,
            relu=False,
            num_threads=batch.num_threads,
        )
        codes = Codes(found[0], dead[found[1]], found[2])
    out, dz, _, loss = reconstruction(codes, params, error, power, batch.num_threads, coefficient, out)
    return Block(codes, dz, out), loss
