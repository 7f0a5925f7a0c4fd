"""OrtSAE: decoder rows are kept from pointing the same way (Korznikov et al. 2025, arXiv 2509.22033)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparse_sae import _kernels
from sparse_sae.architectures.base import Batch, Gradients
from sparse_sae.architectures.batch_topk import BatchTopK
from sparse_sae.codes import Array, Params


@dataclass(frozen=True)
class OrtSAE(BatchTopK):
    """BatchTopK with a penalty on each latent's most similar other one.

    L = L_BatchTopK + orthogonality · mean over latents i of max over j ≠ i of ⟨W_i, W_j⟩², W the unit rows of W_dec.

    The paper compares all pairs within random chunks of 8,192 latents. Here a sample of latents is compared with all
    others in every step: the same loss on average, for sample / d_sae of the products.

    Args:
        orthogonality: weight of the penalty (the paper's γ, .25).
        sample: latents that are compared in a step, all where there are fewer.

    Further arguments are those of `TopK`.

    >>> OrtSAE(k=32).config()["orthogonality"]
    0.25
    """

    orthogonality: float = 0.25
    sample: int = 64

    name: ClassVar[str] = "ortsae"

    def check(self, d_sae: int) -> None:
        super().check(d_sae)
        if not 0 <= self.orthogonality < np.inf:
            raise ValueError(f"orthogonality: got {self.orthogonality}, expected a finite weight from 0 on")
        if self.sample < 1:
            raise ValueError(f"sample: got {self.sample}, expected at least 1 latent to compare in a step")

    def compared(self, d_sae: int, progress: float) -> Array:
        """The latents of a step, a function of how far the run has come: a resumed run draws the same."""
        if self.sample >= d_sae:
            return np.arange(d_sae)
        rng = np.random.default_rng(int(progress * 2**52))
        return np.sort(rng.choice(d_sae, self.sample, replace=False))

    def step(self, params: Params, batch: Batch) -> Gradients:
        g, w = super().step(params, batch), params["W_dec"]
        if not self.orthogonality or len(w) < 2:
            return g
        chosen = self.compared(len(w), batch.progress)
        cosines = _kernels.matmul_nt(np.ascontiguousarray(w[chosen]), w, num_threads=batch.num_threads)
        cosines[np.arange(len(chosen)), chosen] = 0
        nearest = np.abs(cosines).argmax(axis=1)
        cosine = cosines[np.arange(len(chosen)), nearest]
        value = self.orthogonality * float((cosine.astype(np.float64) ** 2).mean())
        g.parts["orthogonality"] = value
        g.loss += value
        # Each pair pulls at both of its rows: as codes of one more row each, whose output gradient is the other's row.
        pull = cosine * w.dtype.type(2 * self.orthogonality / len(chosen))
        both, others = np.concatenate([chosen, nearest]), np.concatenate([nearest, chosen])
        g.indptr = np.concatenate([g.indptr, g.indptr[-1] + np.arange(1, len(both) + 1, dtype=np.int32)])
        g.indices = np.concatenate([g.indices, both.astype(np.int32)])
        g.z = np.concatenate([g.z, pull, pull])
        g.dz = np.concatenate([g.dz, np.zeros(len(both), g.dz.dtype)])
        g.out = np.concatenate([g.out, w[others]])
        return g
