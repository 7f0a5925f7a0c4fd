"""Orthogonal matching pursuit."""

from __future__ import annotations

import numpy as np

from sparse_sae._kernels.reference.arrays import Array, csr_of, rows_of


def encode_omp(
    x: Array, w: Array, k: int, *, center: Array | None = None, simple: bool = False, num_threads: int = 1
) -> tuple[Array, Array, Array]:
    """Row by row: join, refit, subtract."""
    squared = (w * w).sum(axis=1)
    wrong = np.flatnonzero((squared != 0) & ~(np.abs(squared - 1) < 1e-3))
    if not 1 <= k <= len(w):
        raise ValueError(f"k: {k}, expected 1 to {len(w)}")
    if len(wrong):
        norm = float(np.sqrt(squared[wrong[0]]))
        raise ValueError(f"w: row {wrong[0]} has norm {norm:f}, expected 1 or 0")
    rows = rows_of(x, w, center)
    codes = np.zeros((len(rows), len(w)), w.dtype)
    for row, code in zip(rows, codes, strict=True):
        if not np.isfinite((row * row).sum()):
            continue
        chosen: list[int] = []
        z, residual = np.zeros(0, w.dtype), row
        while len(chosen) < k:
            gain = w @ residual
            gain[chosen] = -np.inf
            best = int(gain.argmax())
            if not gain[best] > 0:
                break
            chosen.append(best)
            z = _refit(row, w[chosen], np.append(z, w.dtype.type(0)))
            residual = row - z @ w[chosen]
        code[chosen] = z
    return csr_of(codes > 0, codes)


def _refit(x: Array, atoms: Array, z: Array) -> Array:
    """min |x - z atoms|^2 over z >= 0, by coordinate descent from z."""
    gram, target = atoms @ atoms.T, atoms @ x
    tolerance = (1e-6 if z.dtype == np.float32 else 1e-12) * np.abs(target).max()
    for _ in range(200):
        before = z.copy()
        for i in range(len(z) - 1, -1, -1):
            z[i] = max(0, z[i] + (target[i] - gram[i] @ z) / gram[i, i])
        if np.abs(z - before).max() <= tolerance:
            break
    return z
