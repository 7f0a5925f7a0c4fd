"""The best one-to-one assignment: exact where the score matrix fits, and with a proven gap where it does not.

The large case never stores the matrix. Every row keeps its `candidates` best columns; an auction (Bertsekas
1988) assigns rows over these edges and leaves a price on every column. By linear-programming duality no
assignment over the *whole* matrix can score more than sum_i max_j (s_ij - price_j) + sum_j price_j, for any
prices >= 0, so one more pass over the blocks proves how far the answer can be from the best. A row whose
candidates are all too dear is parked at the score of its worst candidate, which no unseen column can beat;
parked rows are then assigned among the columns left over, in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sparse_sae.match.scores import Scores

Method: TypeAlias = Literal["auto", "dense", "sparse"]

__all__ = ["Assignment", "assign"]

Ints = NDArray[np.intp]
DENSE_LIMIT = 1 << 24  # score matrices up to this many entries are stored and solved exactly
BLOCK = 1 << 24  # entries of one block of scores, 64 MiB


@dataclass(frozen=True)
class Assignment:
    """Pairs (rows[i], columns[i]) with `scores`, the best score of every row and column, and the total's
    proven upper bound."""

    rows: Ints
    columns: Ints
    scores: NDArray[np.float32]
    best_of_row: NDArray[np.float32]
    best_of_column: NDArray[np.float32]
    bound: float


def assign(
    scores: Scores, method: Method = "auto", candidates: int = 32, tolerance: float = 1e-3, rounds: int = 3
) -> Assignment:
    """Assign min(shape) rows and columns one to one so that the scores' sum is the largest possible, or
    nearly.

    Args:
        scores: shape (n, m), in blocks.
        method: "dense" (SciPy's exact solver), "sparse" (candidates, auction, bound) or "auto", dense up to
            2**24 entries.
        candidates: columns kept for a row in the sparse method.
        tolerance: the sparse method stops when the proven gap per pair is below this.
        rounds: most passes over the matrix that improve the candidates; each costs as much as the first.
    """
    if method not in ("auto", "dense", "sparse"):
        raise ValueError(f"method: got {method!r}, expected 'auto', 'dense' or 'sparse'")
    n, m = scores.shape
    if method == "dense" or (method == "auto" and n * m <= DENSE_LIMIT):
        return _dense(scores)
    if n > m:
        t = assign(scores.swapped(), "sparse", candidates, tolerance, rounds)
        order = np.argsort(t.columns)
        return Assignment(
            t.columns[order], t.rows[order], t.scores[order], t.best_of_column, t.best_of_row, t.bound
        )
    return _sparse(scores, min(candidates, m), tolerance, rounds)


def _dense(scores: Scores) -> Assignment:
    from scipy.optimize import linear_sum_assignment

    s = scores.dense()
    rows, columns = linear_sum_assignment(s, maximize=True)
    picked = s[rows, columns]
    return Assignment(
        rows, columns, picked, s.max(axis=1), s.max(axis=0), float(picked.sum(dtype=np.float64))
    )


def _sparse(scores: Scores, c: int, tolerance: float, rounds: int) -> Assignment:
    n, m = scores.shape
    if c >= m:
        return _dense(scores)
    rows = np.arange(n)
    first = _candidates(scores, np.zeros(m, np.float32), c)
    columns, values = first.columns, first.values
    floor = values[:, -1]
    matched, total, bound = rows, -np.inf, np.inf
    for _ in range(max(rounds, 1)):
        answer, prices = _auction(columns, values, floor, m, tolerance / 4)
        answer = _place_parked(scores, answer, c, tolerance)
        answer_total = float(scores.at(rows, answer).sum(dtype=np.float64))
        if answer_total > total:
            matched, total = answer, answer_total
        seen = _candidates(scores, prices, c)
        bound = min(bound, float(seen.best_of_row.sum(dtype=np.float64) + prices.sum(dtype=np.float64)))
        if bound - total <= tolerance * n:
            break
        columns, values, floor = *_merge(columns, values, seen), seen.reduced[:, -1]
    scored = scores.at(rows, matched)
    return Assignment(rows, matched, scored, first.best_of_row, first.best_of_column, max(bound, total))


@dataclass(frozen=True)
class _Candidates:
    """Of every row, the c columns with the best score minus price: (n, c) columns, scores, reduced scores,
    best reduced first."""

    columns: NDArray[np.int32]
    values: NDArray[np.float32]
    reduced: NDArray[np.float32]
    best_of_row: NDArray[np.float32]  # best reduced score, over all columns
    best_of_column: NDArray[np.float32]  # best score of each column, without prices


def _candidates(scores: Scores, prices: NDArray[np.float32], c: int) -> _Candidates:
    """One pass over all blocks."""
    n, m = scores.shape
    columns, values = np.empty((n, c), np.int32), np.empty((n, c), np.float32)
    best_of_column = np.full(m, -np.inf, np.float32)
    step = max(1, BLOCK // m)
    for start in range(0, n, step):
        s = scores.block(start, min(start + step, n))
        np.maximum(best_of_column, s.max(axis=0), out=best_of_column)
        reduced = s - prices if prices.any() else s
        top = np.argpartition(reduced, m - c, axis=1)[:, m - c :]
        order = np.argsort(np.take_along_axis(reduced, top, axis=1), axis=1)[:, ::-1]
        top = np.take_along_axis(top, order, axis=1)
        columns[start : start + len(s)] = top
        values[start : start + len(s)] = np.take_along_axis(s, top, axis=1)
    reduced = values - prices[columns]
    return _Candidates(columns, values, reduced, reduced[:, 0], best_of_column)


def _merge(
    columns: NDArray[np.int32], values: NDArray[np.float32], more: _Candidates
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The old and the new candidates of every row; a column found twice keeps its first entry and loses the
    second."""
    twice = (more.columns[:, :, None] == columns[:, None, :]).any(axis=2)
    return np.hstack([columns, more.columns]), np.hstack(
        [values, np.where(twice, -np.inf, more.values).astype(np.float32)]
    )


def _auction(
    columns: NDArray[np.int32], values: NDArray[np.float32], floor: NDArray[np.float32], m: int, eps: float
) -> tuple[Ints, NDArray[np.float32]]:
    """Column of every row (-1: parked) and the price of every column, within eps a row of the best for these
    candidates.

    All waiting rows bid at once: each raises its favourite column's price by what that column is worth to it
        above its next choice,
    plus eps. The highest bidder gets the column and the previous owner waits again. Unassigned columns keep
    price 0.
    """
    prices = np.zeros(m, np.float32)
    owner, column_of = np.full(m, -1, np.intp), np.full(len(values), -1, np.intp)
    waiting = np.arange(len(values))
    while waiting.size:
        net = values[waiting] - prices[columns[waiting]]
        at = np.arange(len(waiting))
        favourite = net.argmax(axis=1)
        best = net[at, favourite]
        net[at, favourite] = -np.inf
        second = np.maximum(net.max(axis=1), floor[waiting])
        bidding = best >= floor[waiting]
        waiting, wanted = waiting[bidding], columns[waiting[bidding], favourite[bidding]]
        bids = prices[wanted] + (best - second)[bidding] + np.float32(eps)
        order = np.lexsort((bids, wanted))
        highest = np.flatnonzero(np.append(np.diff(wanted[order]) != 0, True)) if order.size else order
        winners, won = waiting[order[highest]], wanted[order[highest]]
        evicted = owner[won]
        evicted = evicted[evicted >= 0]
        column_of[evicted] = -1
        owner[won], column_of[winners], prices[won] = winners, won, bids[order[highest]]
        waiting = np.concatenate([np.delete(waiting, order[highest]), evicted])
    return column_of, prices


def _place_parked(scores: Scores, column_of: Ints, c: int, tolerance: float) -> Ints:
    """Assign the rows that found no affordable candidate to the columns nobody owns."""
    parked = np.flatnonzero(column_of < 0)
    if not parked.size:
        return column_of
    free = np.setdiff1d(np.arange(scores.shape[1]), column_of)
    rest = assign(scores.take(parked, free), "auto", c, tolerance, rounds=1)
    column_of = column_of.copy()
    column_of[parked[rest.rows]] = free[rest.columns]
    return column_of
