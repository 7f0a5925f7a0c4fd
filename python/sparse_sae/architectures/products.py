"""Products of codes and dense matrices: sparse kernels where codes are sparse, dense ones where they are not.

A gathered row costs more than a row that a matrix product streams, so above some share of active latents the
dense product, zeros and all, is faster. Both give the same numbers up to rounding, and the same for any number
of threads. `studies/architectures/run.py crossover` measures where they meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_sae import _kernels

if TYPE_CHECKING:
    from sparse_sae.codes import Array, Codes

# Share of active latents above which the dense product is the faster one ("crossover" in
# docs/results/architectures.json).
DENSE_FORWARD = 0.6
DENSE_BACKWARD = 0.75
_CHUNK_BYTES = 64 << 20  # a dense copy of the codes of some rows


def residual_products(
    codes: Codes, w: Array, target: Array, num_threads: int, out: Array | None = None
) -> tuple[Array, Array, Array]:
    """`_kernels.decode_residual`, by whichever way is faster."""
    if len(codes.indices) <= DENSE_FORWARD * len(target) * len(w):
        return _kernels.decode_residual(*codes, w, target, out=out, num_threads=num_threads)
    residual = np.empty_like(target) if out is None else out
    projected = np.empty_like(codes.values)
    columns = np.ascontiguousarray(w.T)
    for start, end in _chunks(len(target), w):
        entries = slice(codes.indptr[start], codes.indptr[end])
        rows, indices = _positions(codes.indptr, start, end), codes.indices[entries]
        dense = np.zeros((end - start, len(w)), w.dtype)
        dense[rows, indices] = codes.values[entries]
        residual[start:end] = _kernels.matmul_nt(dense, columns, num_threads=num_threads) - target[start:end]
        products = _kernels.matmul_nt(residual[start:end], w, num_threads=num_threads)
        projected[entries] = products[rows, indices]
    return residual, projected, np.einsum("nd,nd->n", residual, residual)


def is_dense(indptr: Array, indices: Array, n_latents: int) -> bool:
    """Whether `dense_weight_grad` is faster than the sparse kernels on codes of this pattern."""
    return len(indices) > DENSE_BACKWARD * (len(indptr) - 1) * n_latents


def dense_weight_grad(
    indptr: Array, indices: Array, values: Array, dense: Array, n_latents: int, num_threads: int
) -> Array:
    """`_kernels.weight_grad` as a product of full matrices."""
    grad = np.zeros((n_latents, dense.shape[1]), values.dtype)
    for start, end in _chunks(len(indptr) - 1, grad):
        entries = slice(indptr[start], indptr[end])
        codes = np.zeros((n_latents, end - start), values.dtype)
        codes[indices[entries], _positions(indptr, start, end)] = values[entries]
        columns = np.ascontiguousarray(dense[np.arange(start, end) % len(dense)].T)
        grad += _kernels.matmul_nt(codes, columns, num_threads=num_threads)
    return grad


def _chunks(n_rows: int, w: Array) -> list[tuple[int, int]]:
    size = max(256, _CHUNK_BYTES // (w.itemsize * len(w)))
    return [(start, min(n_rows, start + size)) for start in range(0, n_rows, size)]


def _positions(indptr: Array, start: int, end: int) -> Any:
    """Row of each entry of rows start … end - 1, counted from start."""
    return np.repeat(np.arange(end - start), np.diff(indptr[start : end + 1]))


def row_combination(coefficients: Array, rows: Array, threads: int) -> Array:
    """coefficients (M) @ rows (M, D), in fixed blocks: the same bits for any number of threads."""
    block = 256
    starts = np.arange(0, len(rows) + block, block, dtype=np.int32).clip(max=len(rows))
    indices = np.arange(len(rows), dtype=np.int32)
    return np.asarray(_kernels.decode(starts, indices, coefficients, rows, num_threads=threads).sum(axis=0))
