"""Rows picked by number, and whether they are finite."""

from __future__ import annotations

import numpy as np

from sparse_sae._kernels.reference.arrays import Array, rows_of


def first_nonfinite_row(x: Array, *, num_threads: int = 1) -> int:
    """Look at every row."""
    bad = ~np.isfinite(rows_of(x, x if x.dtype == np.float64 else np.empty(0, np.float32), None)).all(axis=1)
    return int(np.argmax(bad)) if bad.any() else -1


def gather(
    out: Array,
    x: Array,
    index: Array,
    scale: Array | None = None,
    *,
    center: Array | None = None,
    factor: Array | None = None,
    num_threads: int = 1,
) -> int:
    """Index, then one whole array after the other."""
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(x):
        raise IndexError(f"index: rows {index.min()} to {index.max()}, expected 0 to {len(x) - 1}")
    with np.errstate(over="ignore"):
        rows = rows_of(x[index], out, None)
    if scale is not None:
        rows *= scale[index][:, None].astype(out.dtype)
    if center is not None:
        rows -= center
    if factor is not None:
        rows *= factor
    out[...] = rows
    bad = ~np.isfinite(rows).all(axis=1)
    return int(np.argmax(bad)) if bad.any() else -1
