"""What the kernels of all families share: rows as floats, codes as CSR."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Array = npt.NDArray[Any]


def rows_of(x: Array, like: Array, center: Array | None) -> Array:
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    x = x.astype(like.dtype)
    return x if center is None else x - center


def csr_of(kept: Array, values: Array) -> tuple[Array, Array, Array]:
    """Codes from a (N, M) mask and the values below it."""
    kept = kept & (values != 0) & ~np.isnan(values)
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    return indptr, np.nonzero(kept)[1].astype(np.int32), values[kept]


def matrix_of(indptr: Array, indices: Array, values: Array, n_latents: int) -> Any:
    return sparse.csr_array((values, indices, indptr), shape=(len(indptr) - 1, n_latents))
