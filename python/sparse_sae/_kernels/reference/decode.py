"""Sparse codes times dense rows, and the gradient of the codes."""

from __future__ import annotations

import numpy as np

from sparse_sae._kernels.reference.arrays import Array, matrix_of


def decode(
    indptr: Array, indices: Array, values: Array, w: Array, bias: Array | None = None, *, num_threads: int = 1
) -> Array:
    """Sparse times dense."""
    out: Array = matrix_of(indptr, indices, values, len(w)) @ w
    return out if bias is None else out + bias


def code_grad(indptr: Array, indices: Array, grad: Array, w: Array, *, num_threads: int = 1) -> Array:
    """One inner product an entry."""
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    out: Array = np.einsum("ed,ed->e", grad[rows], w[indices])
    return out


def decode_residual(
    indptr: Array,
    indices: Array,
    values: Array,
    w: Array,
    target: Array,
    *,
    out: Array | None = None,
    num_threads: int = 1,
) -> tuple[Array, Array, Array]:
    """Decode, subtract, project."""
    residual = np.subtract(decode(indptr, indices, values, w), target, out=out)
    return residual, code_grad(indptr, indices, residual, w), (residual**2).sum(axis=1)
