"""GroupMax, as EleutherAI's sparsify has it: read and used here, not trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import _kernels
from .base import Architecture, Array, Batch, Codes, Gradients, Params, stack

_ROWS = 512


@dataclass(frozen=True)
class GroupMax(Architecture):
    """Latents in k equal groups of neighbours; of each group the largest positive pre-activation is kept.

    Args:
        k: groups, and so the most active latents of a row; it divides d_sae.

    >>> GroupMax(k=8).config()
    {'name': 'groupmax', 'k': 8}
    """

    k: int = 32

    name: ClassVar[str] = "groupmax"
    competes: ClassVar[bool] = True
    trainable: ClassVar[bool] = False

    def check(self, d_sae: int) -> None:
        if not 1 <= self.k <= d_sae or d_sae % self.k:
            raise ValueError(
                f"k: got {self.k}, expected a divisor of d_sae = {d_sae}: latents are in k equal groups"
            )

    def encode(
        self,
        params: Params,
        x: Array,
        center: Array | None,
        *,
        latents: Array | None = None,
        num_threads: int = 1,
    ) -> Codes:
        """The winners of the groups; ties go to the lower latent. Named latents: positive parts, unopposed."""
        w, b = params["W_enc"], params["b_enc"]
        if latents is not None:
            return Codes(
                *_kernels.encode_threshold(
                    x, w, b, None, center=center, latents=latents, num_threads=num_threads
                )
            )
        size = len(w) // self.k
        blocks = []
        # By blocks, so that the positive pre-activations of all rows are never in memory at once.
        for start in range(0, max(len(x), 1), _ROWS):
            part = x[start : start + _ROWS]
            positive = Codes(
                *_kernels.encode_threshold(part, w, b, None, center=center, num_threads=num_threads)
            )
            blocks.append(_winners(positive, size, self.k))
        return stack(*blocks)

    def step(self, params: Params, batch: Batch) -> Gradients:
        """Not there: this architecture is for reading sparsify's files."""
        raise NotImplementedError("GroupMax SAEs are read and used, not trained; train a TopK")


def _winners(codes: Codes, size: int, k: int) -> Codes:
    """The largest entry of each row and group."""
    group = codes.rows() * k + codes.indices // size
    order = np.lexsort((codes.indices, -codes.values, group))
    first = np.ones(len(order), bool)
    first[1:] = group[order[1:]] != group[order[:-1]]
    kept = np.zeros(len(order), bool)
    kept[order[first]] = True
    before = np.concatenate([[0], np.cumsum(kept)])
    return Codes(before[codes.indptr].astype(np.int32), codes.indices[kept], codes.values[kept])
