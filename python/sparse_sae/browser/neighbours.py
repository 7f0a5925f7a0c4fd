"""Which latents point the same way, which fire together, and a map on which similar directions lie close."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from sparse_sae import _kernels
from sparse_sae._io.arrays import Array
from sparse_sae._threads import resolve_threads
from sparse_sae.browser.spill import Spill

NEIGHBOURS = 10
SAMPLED_ROWS = 1 << 16  # for co-activation
_BLOCK = 16  # latents at a time: (block, d_sae) floats are held a few times
_CHUNK = 64
_TILE = 4096  # decoder rows at a time
_STRIP = 512  # rows in one product of matrices: BLAS keeps buffers in proportion


class Nearest(NamedTuple):
    """(m, NEIGHBOURS) latents, best first, and their scores; -1 and 0 where there are fewer."""

    latent: Array
    score: Array


class Together(NamedTuple):
    """The latents that fire together with each; see `Nearest`.

    Attributes:
        latent: (m, NEIGHBOURS). score: φ, the correlation of firing. given: P(the other fires | this one fires).
        base: P(the other fires). rows: how many rows were looked at.
    """

    latent: Array
    score: Array
    given: Array
    base: Array
    rows: int


def by_direction(rows: Array, num_threads: int | None = None) -> Nearest:
    """Nearest decoder rows by cosine; the search is the kernel that encodes, with a part of the dictionary as weights.

    Part by part, so that neither a normalised copy of the rows nor the kernel's bytes of all are ever in memory.
    """
    norms, m, threads = lengths(rows), len(rows), resolve_threads(num_threads)
    latent = np.full((m, NEIGHBOURS), -1, np.int32)
    score = np.full((m, NEIGHBOURS), -np.inf, np.float32)
    for low in range(0, m, _TILE):
        part = _unit(rows, norms, low)
        for start in range(0, m, _TILE):
            x = part if start == low else _unit(rows, norms, start)
            k = min(len(part), NEIGHBOURS + 1)
            indptr, indices, values, _ = _kernels.encode_topk(x, part, None, k, num_threads=threads)
            own, counts = np.arange(len(x)), np.diff(indptr)
            row, column = np.repeat(own, counts), np.arange(len(indices)) - np.repeat(indptr[:-1], counts)
            found, cosine = np.full((len(x), k), -1, np.int32), np.full((len(x), k), -np.inf, np.float32)
            found[row, column], cosine[row, column] = indices + low, values
            cosine[found == start + own[:, None]] = -np.inf  # not a neighbour of itself
            here = slice(start, start + len(x))
            both = np.concatenate([latent[here], found], axis=1)
            cosines = np.concatenate([score[here], cosine], axis=1)
            best = np.argsort(-cosines, axis=1, kind="stable")[:, :NEIGHBOURS]  # ties: lower latent first
            latent[here], score[here] = (np.take_along_axis(each, best, 1) for each in (both, cosines))
    none = score == -np.inf
    latent[none], score[none] = -1, 0
    return Nearest(latent, score)


def _unit(rows: Array, norms: Array, start: int) -> Array:
    """A tile of rows from `start` on, at length 1."""
    part, size = rows[start : start + _TILE], norms[start : start + _TILE, None]
    if np.abs(size - 1).max() <= 1e-4:
        return part
    return np.asarray(np.divide(part, size, out=np.zeros_like(part), where=size > 0))


def lengths(rows: Array) -> Array:
    """(m,) Euclidean norms, without the squares of all rows in memory at once."""
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))


def by_coactivation(spill: Spill, rows: int = SAMPLED_ROWS) -> Together:
    """The latents whose firing correlates most with each latent's, over a random sample of rows."""
    fires, n = spill.sample(rows)
    m = spill.d_sae
    counts = np.asarray(fires.sum(0)).ravel().astype(np.float32)
    latent = np.full((m, NEIGHBOURS), -1, np.int32)
    score = np.zeros((m, NEIGHBOURS), np.float32)
    given = np.zeros((m, NEIGHBOURS), np.float32)
    spread = np.sqrt(np.maximum(counts * (n - counts), 1e-9))
    by_latent = csr_array(fires.T)
    by_latent.data = fires.data  # ones too; once in memory
    for start in range(0, m, _BLOCK):
        both = (by_latent[start : start + _BLOCK] @ fires).toarray()
        size = counts[start : start + len(both), None]
        phi = both * n
        phi -= size * counts
        phi /= spread[start : start + len(both), None] * spread
        own = np.arange(len(both))
        phi[own, start + own] = -1
        best = largest(phi, NEIGHBOURS)
        found = np.take_along_axis(phi, best, 1)
        real = (found > 0) & (np.take_along_axis(both, best, 1) > 0)
        part = slice(start, start + len(both))
        latent[part, : best.shape[1]] = np.where(real, best, -1)
        score[part, : best.shape[1]] = np.where(real, found, 0)
        share = np.take_along_axis(both, best, 1) / np.maximum(size, 1)
        given[part, : best.shape[1]] = np.where(real, share, 0)
    base = np.where(latent >= 0, counts[latent] / max(1, n), 0).astype(np.float32)
    return Together(latent, score, given, base, n)


def largest(values: Array, k: int) -> Array:
    """(n, k) columns of the k largest of each row, best first; k is at most the number of columns.

    The k largest lie in the k chunks with the largest maxima, and maxima are quicker than a partition of all.
    """
    n, width = values.shape
    k = min(k, width)
    chunks = width // _CHUNK
    if chunks <= 2 * k:
        columns = (
            np.argpartition(-values, k - 1, axis=1)[:, :k] if k < width else np.tile(np.arange(k), (n, 1))
        )
    else:
        whole = values[:, : chunks * _CHUNK].reshape(n, chunks, _CHUNK)
        good = np.argpartition(-whole.max(2), k - 1, axis=1)[:, :k]
        columns = (good[:, :, None] * _CHUNK + np.arange(_CHUNK)).reshape(n, -1)
        rest = np.tile(np.arange(chunks * _CHUNK, width), (n, 1))
        columns = np.concatenate([columns, rest], axis=1)
        inside = np.argpartition(-np.take_along_axis(values, columns, 1), k - 1, axis=1)[:, :k]
        columns = np.take_along_axis(columns, inside, 1)
    order = np.argsort(-np.take_along_axis(values, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def layout(nearest: Nearest, rows: Array, epochs: int = 80, seed: int = 0) -> tuple[Array, dict[str, Any]]:
    """Places (m, 2) in [0, 1]² at which latents lie near their cosine neighbours, and how well that worked.

    Neighbours attract and random pairs repel each other (as in LargeVis, Tang et al. 2016, and UMAP), starting from
    the first two principal components. Distances beyond the nearest neighbours mean nothing. The dictionary's
    `kept` is the share of the cosine neighbours that are also among as many nearest on the map; `chance` is what
    random places would keep.
    """
    from scipy.spatial import cKDTree

    m = len(rows)
    y = _principal(rows)
    real = nearest.latent >= 0
    source = np.repeat(np.arange(m), real.sum(1))
    target = nearest.latent[real].astype(np.int64)
    rng = np.random.default_rng(seed)
    for epoch in range(epochs if len(source) else 0):
        rate = 1.0 - epoch / epochs
        move = np.zeros_like(y)
        difference = y[source] - y[target]
        squared = (difference**2).sum(1, keepdims=True)
        pull = -2 * difference / (1 + squared)
        _add(move, source, pull)
        _add(move, target, -pull)
        for _ in range(3):
            other = rng.integers(0, m, len(source))
            difference = y[source] - y[other]
            squared = (difference**2).sum(1, keepdims=True)
            _add(move, source, 2 * difference / ((0.01 + squared) * (1 + squared)))
        y += rate * np.clip(0.1 * move, -4, 4)
    kept = 0.0
    if m > NEIGHBOURS + 1:
        _, close = cKDTree(y).query(y, NEIGHBOURS + 1)
        hits = (nearest.latent[:, :, None] == close[:, None, 1:]).any(2) & real
        kept = float(hits.sum() / max(1, real.sum()))
    low, high = np.percentile(y, 0.5, axis=0), np.percentile(y, 99.5, axis=0)
    place = np.clip((y - low) / np.maximum(high - low, 1e-9), -0.05, 1.05) / 1.1 + 0.05
    return place.astype(np.float32), {"kept": kept, "chance": NEIGHBOURS / max(1, m - 1)}


def _principal(rows: Array) -> Array:
    """The first two principal components, scaled to a standard deviation of 10."""
    sample = rows[:: max(1, len(rows) // 2048)]
    mean = sample.mean(0, dtype=np.float64)
    spread = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(sample), _STRIP):
        strip = sample[start : start + _STRIP] - mean
        spread += strip.T @ strip
    _, axes = np.linalg.eigh(spread)
    axes = axes[:, :-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), range(axes.shape[1])])
    y, narrow = np.zeros((len(rows), 2)), axes.astype(rows.dtype)
    for start in range(0, len(rows), _STRIP):
        y[start : start + _STRIP, : axes.shape[1]] = rows[start : start + _STRIP] @ narrow
    y[:, : axes.shape[1]] -= mean @ axes
    return np.asarray(10 * y / np.maximum(y.std(0), 1e-9))


def _add(to: Array, index: Array, values: Array) -> None:
    for axis in range(2):
        to[:, axis] += np.bincount(index, weights=values[:, axis], minlength=len(to))
