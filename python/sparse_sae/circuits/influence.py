"""How much of the targets comes through each node of a graph, by the edges as rows of a CSR matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

_SUMMED = 1 << 16  # scores that are added up at a time


class EdgeRow(NamedTuple):
    """The edges into one node: its number, theirs, their values, and the sum of |values| and of what was left out."""

    place: int
    columns: NDArray[np.int32]
    values: NDArray[Any]
    total: float


def spans(edges: csr_array) -> Iterator[tuple[int, slice]]:
    """The rows of a matrix that have edges, and where these lie."""
    for place in np.flatnonzero(np.diff(edges.indptr)):
        yield int(place), slice(edges.indptr[place], edges.indptr[place + 1])


def scores_of(edges: csr_array, through: NDArray[Any]) -> NDArray[Any]:
    """Of each edge, its share of its row times what comes through the row's node, over the most of any node.

    In the edges' own precision: for a long prompt they are most of the memory.
    """
    scores: NDArray[Any] = np.empty_like(edges.data)
    most = max(float(through.max(initial=0.0)), 1e-300)
    for place, at in spans(edges):
        values = np.abs(edges.data[at])
        scores[at] = values * np.float64(through[place] / most / max(_total(values), 1e-10))
    return scores


def csr_rows(edges: csr_array, rest: NDArray[Any] | None = None) -> Iterator[EdgeRow]:
    """The rows of a matrix that have edges, as views."""
    for place, at in spans(edges):
        total = _total(edges.data[at]) + (0.0 if rest is None else float(rest[place]))
        yield EdgeRow(place, edges.indices[at], edges.data[at], max(total, 1e-10))


def edge_row(place: int, columns: NDArray[np.int32], values: NDArray[Any], rest: float) -> EdgeRow:
    """A row whose other edges add up to `rest`."""
    return EdgeRow(place, columns, values, max(_total(values) + rest, 1e-10))


def _total(values: NDArray[Any]) -> float:
    return float(np.abs(values).sum(dtype=np.float64))


def ordered_influence(
    rows: Iterable[EdgeRow], weight: NDArray[Any], depth: NDArray[Any]
) -> NDArray[np.float64] | None:
    """`influence` where each edge goes to a deeper node: every edge is used once, and none is copied.

    None where an edge does not.
    """
    total = np.zeros(len(weight))
    for row in sorted(rows, key=lambda r: (-depth[r.place], r.place)):
        if depth[row.columns].max(initial=depth[row.place] - 1) >= depth[row.place]:
            return None
        current = weight[row.place] + total[row.place]
        if current:
            total[row.columns] += np.abs(row.values) * np.float64(current / row.total)
    return total


def influence(matrix: csr_array, weight: NDArray[Any]) -> NDArray[np.float64]:
    """p (Â + Â² + …) of a row-normalised matrix without cycles: powers until nothing is left."""
    transposed = matrix.T  # a view: the edges of a long prompt are not written out a second time
    current = np.asarray(weight, np.float64)
    total = np.zeros_like(current)
    for _ in range(len(current) + 1):
        current = transposed @ current
        if not current.any():
            return total
        total += current
    raise ValueError(
        "edges: they form a cycle, so influence has no end; edges go from earlier layers to later ones"
    )


def normalise(edges: csr_array, rest: NDArray[Any] | float = 0.0) -> csr_array:
    """|edges| over each row's sum, in which `rest` counts; it shares the edges' indices."""
    data = np.abs(edges.data)
    sums = csr_array((data, edges.indices, edges.indptr), shape=edges.shape).sum(1)
    share = 1 / np.maximum(np.asarray(sums).ravel() + rest, 1e-10)
    shares = np.repeat(share, np.diff(edges.indptr))
    shares *= data
    return csr_array((shares, edges.indices, edges.indptr), shape=edges.shape)


def edges_where(edges: csr_array, kept: Callable[[int, slice], NDArray[np.bool_]]) -> csr_array:
    """Those edges alone for which `kept` says so, given a row and where its edges lie."""
    bounds = np.zeros_like(edges.indptr)  # a wider type would widen the columns
    for place, at in spans(edges):
        bounds[place + 1] = np.count_nonzero(kept(place, at))
    np.cumsum(bounds, out=bounds)
    columns, values = (np.empty(bounds[-1], array.dtype) for array in (edges.indices, edges.data))
    for place, at in spans(edges):
        to, some = slice(bounds[place], bounds[place + 1]), kept(place, at)
        columns[to], values[to] = edges.indices[at][some], edges.data[at][some]
    return csr_array((values, columns, bounds), shape=edges.shape)


def threshold(scores: NDArray[Any], share: float) -> float:
    """The smallest of the largest scores that together make this share of the sum. The scores are sorted in place."""
    scores.sort()
    ordered = scores[::-1]
    total = ordered.sum(dtype=np.float64)
    if not len(ordered) or total <= 0:
        return np.inf
    place, before = len(ordered) - 1, 0.0
    for start in range(0, len(ordered), _SUMMED):
        part = ordered[start : start + _SUMMED].astype(np.float64)
        part[0] += before
        np.cumsum(part, out=part)
        before, reached = part[-1], np.flatnonzero(part / total >= share)
        if len(reached):
            place = start + int(reached[0])
            break
    return float(max(ordered[place], np.finfo(scores.dtype).tiny))
