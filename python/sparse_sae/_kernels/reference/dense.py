"""Products of full matrices."""

from __future__ import annotations

from sparse_sae._kernels.reference.arrays import Array


def matmul_nt(x: Array, w: Array, *, num_threads: int = 1) -> Array:
    """x @ w.T"""
    out: Array = x @ w.T
    return out
