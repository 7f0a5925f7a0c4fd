"""Codes as the kernels pass them, and the two types that everything numeric shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Array: TypeAlias = npt.NDArray[Any]
Params: TypeAlias = dict[str, Array]


class Codes(NamedTuple):
    """The three arrays of CSR, without the class around them."""

    indptr: Array
    indices: Array
    values: Array

    def rows(self) -> Array:
        """(nnz,) the row of each entry."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    def matrix(self, width: int) -> csr_array:
        """The same as an (N, width) sparse matrix; nothing is copied."""
        matrix = csr_array((self.values, self.indices, self.indptr), shape=(len(self.indptr) - 1, width))
        matrix.has_sorted_indices = True
        matrix.has_canonical_format = True
        return matrix

    @classmethod
    def of(cls, codes: csr_array | npt.ArrayLike, width: int, dtype: np.dtype[Any]) -> Codes:
        """Somebody's (n, width) codes, sparse or dense, checked, in the kernels' types; copied only where they differ.

        Raises:
            TypeError: not numbers, or complex ones. ValueError: another width, indices out of range.
        """
        if not isinstance(codes, csr_array):
            try:
                codes = csr_array(codes)
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"codes: got {type(codes).__name__} ({error}), expected (n, d_sae) numbers"
                ) from None
        if codes.ndim != 2 or codes.shape[1] != width:
            raise ValueError(f"codes: shape {codes.shape}, expected (n, d_sae = {width})")
        if codes.dtype.kind not in "fiub":
            raise TypeError(
                f"codes: dtype {codes.dtype}, expected real numbers; pass codes.real or abs(codes)"
            )
        # Checked before they are narrowed to 32 bits, where a larger one would become another latent.
        if codes.indices.size and not 0 <= codes.indices.min() <= codes.indices.max() < width:
            raise ValueError(
                f"codes: indices from {codes.indices.min()} to {codes.indices.max()}, expected 0 to {width - 1}"
            )
        if not codes.has_sorted_indices:
            codes = codes.sorted_indices()
        return cls(
            codes.indptr.astype(np.int32, copy=False),
            codes.indices.astype(np.int32, copy=False),
            codes.data.astype(dtype, copy=False),
        )

    def where(self, kept: Array) -> Codes:
        """Only the entries for which kept (nnz,) is true."""
        counts = np.concatenate([[0], np.cumsum(kept)])
        return Codes(counts[self.indptr].astype(np.int32), self.indices[kept], self.values[kept])


def stack(*blocks: Codes) -> Codes:
    """Blocks of codes below one another; without a copy of the entries where they are parts of one array, in order."""
    indptr = [blocks[0].indptr]
    for block in blocks[1:]:
        indptr.append(block.indptr[1:] + indptr[-1][-1])
    return Codes(
        np.concatenate(indptr), joined([b.indices for b in blocks]), joined([b.values for b in blocks])
    )


def divided(whole: Codes, n_rows: int) -> tuple[Codes, Codes]:
    """The first rows of codes and the rest, as parts of their arrays, so that `stack` copies nothing."""
    at = whole.indptr[n_rows]
    return (
        Codes(whole.indptr[: n_rows + 1], whole.indices[:at], whole.values[:at]),
        Codes(whole.indptr[n_rows:] - at, whole.indices[at:], whole.values[at:]),
    )


def joined(pieces: Sequence[Array]) -> Array:
    """Arrays below one another: that of which they are all parts, in order, where there is one, else a new one.

    >>> whole = np.arange(6)
    >>> joined([whole[:2], whole[2:]]) is whole
    True
    """
    if len(pieces) == 1:
        return pieces[0]
    whole = pieces[0].base
    if (
        isinstance(whole, np.ndarray)
        and whole.flags.c_contiguous
        and whole.size == sum(p.size for p in pieces)
    ):
        at = whole.ctypes.data
        for piece in pieces:
            if piece.base is not whole or not piece.flags.c_contiguous or piece.ctypes.data != at:
                break
            at += piece.nbytes
        else:
            return whole if whole.ndim == pieces[0].ndim else whole.reshape(-1, *pieces[0].shape[1:])
    return np.concatenate(pieces)
