"""Matryoshka SAEs: nested dictionaries, each of which reconstructs alone (Bussmann et al. 2025, arXiv 2503.17547)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from sparse_sae import _kernels, activations
from sparse_sae.architectures.base import Batch, Block, Gradients
from sparse_sae.architectures.batch_topk import BatchTopK
from sparse_sae.architectures.topk import TopK
from sparse_sae.codes import Array, Codes, Params


@dataclass(frozen=True)
class Matryoshka(BatchTopK):
    """The first m latents reconstruct as well as they can, for each m of `widths`: general features come first.

    L = 1/G Σ_g |x - x̂_g|² / Var + AuxK on the error of the full dictionary, x̂_g decoding the latents below
    widths[g]. (The authors' code also averages in the loss of b_dec alone; it moves no latent and is left out.)

    Args:
        widths: nested widths, ascending, the last being d_sae; () stands for d_sae / 16, / 8, / 4, / 2 and d_sae.
        batch: choose codes by BatchTopK (as published), or by TopK.

    Further arguments are those of `TopK`.

    >>> Matryoshka(k=32, widths=(256, 1024, 4096)).nested(4096)
    (256, 1024, 4096)
    """

    widths: tuple[int, ...] = ()
    batch: bool = True

    name: ClassVar[str] = "matryoshka"

    def check(self, d_sae: int) -> None:
        super().check(d_sae)
        widths = self.nested(d_sae)
        if widths[-1] != d_sae or widths[0] < 1 or any(a >= b for a, b in pairwise(widths)):
            raise ValueError(f"widths: got {widths}, expected ascending widths that end with d_sae = {d_sae}")

    def nested(self, d_sae: int) -> tuple[int, ...]:
        """The widths for a dictionary of this size."""
        return self.widths or tuple(sorted({-(-d_sae // part) for part in (16, 8, 4, 2, 1)}))

    def init(self, params: Params, x: Array) -> None:
        if self.batch:
            super().init(params, x)

    def select(self, params: Params, batch: Batch, k: int) -> Codes:
        return super().select(params, batch, k) if self.batch else TopK.select(self, params, batch, k)

    @property
    def activation(self) -> activations.Activation:
        return super().activation if self.batch else activations.TopK(self.k)

    def encode(self, params: Params, x: Array, center: Array | None = None, *, num_threads: int = 1) -> Codes:
        if self.batch:
            return super().encode(params, x, center, num_threads=num_threads)
        return self.activation.encode(params, x, center, num_threads=num_threads)

    def end_of_step(self, params: Params, gradients: Gradients, batch: Batch) -> None:
        if self.batch:
            super().end_of_step(params, gradients, batch)

    def trained(self, params: Params) -> tuple[activations.Activation, Params]:
        # What is left is that of a BatchTopK; over TopK, a TopK.
        return super().trained(params) if self.batch else (self.activation, params)

    def rescale(self, params: Params, factor: Array | float) -> None:
        if self.batch:
            super().rescale(params, factor)

    def fit(
        self, params: Params, batch: Batch, codes: Codes, coefficient: float = 1.0
    ) -> tuple[list[Block], Array, float, Array, Array]:
        """Blocks by group: latents of group g are seen by every reconstruction from x̂_g on.

        So their gradient is the sum of those reconstructions' output gradients, which is built up from the
        last group backwards; each entry is decoded once and projected once, as without nesting.
        """
        w, threads = params["W_dec"], batch.num_threads
        widths = self.nested(len(w))
        group = np.searchsorted(widths, codes.indices, side="right")
        parts = [codes.where(group == g) for g in range(len(widths))]
        residuals = [-batch.y]
        for part in parts:
            residual = _kernels.decode(*part, w, num_threads=threads)
            residual += residuals[-1]
            residuals.append(residual)
        squares = [np.einsum("nd,nd->n", r, r) for r in residuals[1:]]
        scale = batch.y.dtype.type(2 * coefficient / (len(batch.y) * batch.variance * len(widths)))
        loss = coefficient * float(np.mean(squares, dtype=np.float64)) / batch.variance
        blocks: list[Block] = []
        outs = np.empty(
            (len(widths), *batch.y.shape), batch.y.dtype
        )  # in one piece, as `gradients` stacks them
        for g in reversed(range(len(widths))):
            out, part = outs[g], parts[g]
            np.multiply(residuals[g + 1], scale, out=out)
            if g + 1 < len(widths):
                out += outs[g + 1]
            dz = _kernels.code_grad(part.indptr, part.indices, out, w, num_threads=threads)
            blocks.insert(0, Block(part, dz, out))
        return blocks, squares[-1], loss, np.negative(residuals[-1], out=residuals[-1]), outs[0]
