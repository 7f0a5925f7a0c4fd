"""What two latents have in common: the cosine of their directions, or the correlation of their codes.

Both are matrices that may be too large to store, so they are handed out in blocks of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, issparse

__all__ = ["CodeScores", "CosineScores", "Scores", "directions", "normalised"]

Floats = NDArray[np.floating[Any]]


class Scores:
    """A matrix of scores of shape `shape`, in blocks of rows; the base of the two kinds below."""

    shape: tuple[int, int]

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows start..stop, every column: a float32 array of shape (stop - start, shape[1])."""
        raise NotImplementedError

    def swapped(self) -> Scores:
        """The same scores with rows and columns exchanged."""
        raise NotImplementedError

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Scores:
        """The scores of these rows and these columns only."""
        raise NotImplementedError

    def dense(self) -> NDArray[np.float32]:
        return self.block(0, self.shape[0])

    def at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        """The scores of the pairs (rows[i], columns[i])."""
        raise NotImplementedError


class CosineScores(Scores):
    """Cosines of two sets of directions, signed or absolute. A zero row has cosine 0 with everything."""

    def __init__(self, a: Floats, b: Floats, absolute: bool) -> None:
        self.a, self.b, self.absolute = normalised(a), normalised(b), absolute
        self.shape = (len(a), len(b))

    def _signed(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.abs(scores, out=scores) if self.absolute else scores

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        return self._signed(self.a[start:stop] @ self.b.T)

    def swapped(self) -> CosineScores:
        return CosineScores(self.b, self.a, self.absolute)

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> CosineScores:
        return CosineScores(self.a[rows], self.b[columns], self.absolute)

    def at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        return self._signed(np.einsum("ij,ij->i", self.a[rows], self.b[columns]))


class CodeScores(Scores):
    """Pearson correlation of two sets of codes over the same samples. A latent that never varies correlates 0
    with everything."""

    def __init__(self, a: csr_array, b: csr_array, absolute: bool) -> None:
        self.a, self.b, self.absolute = (
            csc_array(a, dtype=np.float64),
            csc_array(b, dtype=np.float64),
            absolute,
        )
        self.shape = (a.shape[1], b.shape[1])
        self.mean_a, self.scale_a = _moments(self.a)
        self.mean_b, self.scale_b = _moments(self.b)

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        together = (self.a[:, start:stop].T @ self.b).toarray() / self.a.shape[0]
        scores = (
            (together - np.outer(self.mean_a[start:stop], self.mean_b))
            * self.scale_a[start:stop, None]
            * self.scale_b
        )
        return np.asarray(np.abs(scores) if self.absolute else scores, dtype=np.float32)

    def swapped(self) -> CodeScores:
        return CodeScores(self.b, self.a, self.absolute)

    def take(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> CodeScores:
        return CodeScores(self.a[:, rows], self.b[:, columns], self.absolute)

    def at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.float32]:
        together = (
            np.asarray(self.a[:, rows].multiply(self.b[:, columns]).sum(axis=0)).ravel() / self.a.shape[0]
        )
        scores = (
            (together - self.mean_a[rows] * self.mean_b[columns]) * self.scale_a[rows] * self.scale_b[columns]
        )
        return np.asarray(np.abs(scores) if self.absolute else scores, dtype=np.float32)


def _moments(codes: csc_array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and 1 / standard deviation of every column (0 where it does not vary)."""
    mean = np.asarray(codes.mean(axis=0)).ravel()
    square = np.asarray(codes.multiply(codes).mean(axis=0)).ravel()
    variance = square - mean**2
    varies = variance > 1e-10 * square
    return mean, np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0.0)


def normalised(rows: Floats) -> NDArray[np.float32]:
    """Rows divided by their norms; rows of norm 0 stay 0."""
    rows = np.asarray(rows, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
    return unit


def directions(thing: Any, name: str) -> Floats:
    """The (n, d) directions of an array, of anything with `W_dec` (an SAE), or of a ground truth with
    `features`."""
    for attribute in ("W_dec", "features"):
        if hasattr(thing, attribute):
            thing = getattr(thing, attribute)
            break
    if issparse(thing):
        raise TypeError(f"{name} is a sparse matrix: directions are dense (n, d) rows; codes go in `codes=`")
    rows = np.asarray(thing)
    if rows.dtype.kind not in "fiu":
        raise TypeError(
            f"{name}: got {type(thing).__name__}, expected an (n, d) array of numbers, an SAE or a truth"
        )
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(
            f"{name} must hold directions as rows, shape (n, d) with n, d >= 1; got shape {rows.shape}"
        )
    if not np.isfinite(rows).all():
        raise ValueError(f"{name} holds NaN or infinity; remove those rows before matching")
    return rows
