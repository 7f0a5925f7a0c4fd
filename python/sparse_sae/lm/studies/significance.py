"""Intervals and tests for experiments: the same prompts measured with and without an edit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import binomtest

Floats = NDArray[np.float64]


def wilson(successes: ArrayLike, n: int, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson score interval (1927) of a proportion.

    Args:
        successes: counts, any shape.
        n: trials of each.

    Returns:
        (low, high), of the shape of `successes`.

    >>> low, high = wilson(0, 100)
    >>> round(float(low), 4), round(float(high), 4)
    (0.0, 0.037)
    """
    if n < 1:
        raise ValueError(f"n: got {n}, expected at least 1")
    z = _z(confidence)
    p = np.asarray(successes, dtype=np.float64) / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: got {confidence}, expected a value between 0 and 1")
    return float(ndtri(0.5 + confidence / 2))


def bootstrap_mean(
    values: ArrayLike,
    confidence: float = 0.95,
    *,
    groups: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Percentile bootstrap interval of the mean of each column.

    Args:
        values: (n,) or (n, m); for paired measurements the differences.
        confidence: coverage aimed at.
        groups: (n,) labels of rows that are not independent, such as prompts of one template: whole groups
            are drawn instead of rows.
        resamples: draws with replacement.

    Returns:
        (low, high), scalars or (m,).

    >>> low, high = bootstrap_mean([0.0, 1.0] * 50)
    >>> bool(0.38 < low < 0.44 and 0.56 < high < 0.62)
    True
    """
    _z(confidence)
    x = np.asarray(values, dtype=np.float64)
    sums, counts = _by_group(x, groups)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, 100):  # in parts: draws × units may be large
        draws = rng.multinomial(
            len(sums), np.full(len(sums), 1 / len(sums)), size=min(100, resamples - start)
        )
        means.append((draws @ sums) / (draws @ counts)[:, None])
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0).reshape(2, *x.shape[1:])
    return low, high


def mcnemar(before: ArrayLike, after: ArrayLike) -> float:
    """Exact McNemar test: p-value for "as many cases changed one way as the other", for paired yes/no
    outcomes.

    >>> mcnemar([0, 0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1])
    0.03125
    """
    a, b = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    gained, lost = int((~a & b).sum()), int((a & ~b).sum())
    return 1.0 if gained + lost == 0 else float(binomtest(gained, gained + lost).pvalue)


def sign_flip(
    differences: ArrayLike, *, groups: ArrayLike | None = None, draws: int = 9999, seed: int = 0
) -> Floats:
    """Permutation test that paired differences have mean zero: signs are flipped at random, by group if
    given.

    The observed signs count as a draw, so a p-value is never below 1 / (draws + 1).

    Args:
        differences: (n,) or (n, m).
        groups: (n,) labels of rows that are not independent.

    Returns:
        p-values, a scalar or (m,).

    >>> bool(sign_flip([1.0, 1.2, 0.8, 1.1, 0.9, 1.0, 1.3, 0.7, 1.0, 1.0, 1.1, 0.9], draws=999) < 0.01)
    True
    """
    x = np.asarray(differences, dtype=np.float64)
    sums, _ = _by_group(x, groups)
    rng = np.random.default_rng(seed)
    # rounding must not make the observed mean rarer than its mirror image
    observed = np.abs(sums.sum(0)) * (1 - 1e-9)
    extreme = np.zeros(sums.shape[1])
    for start in range(0, draws, 100):
        signs = rng.integers(0, 2, size=(min(100, draws - start), len(sums))) * 2.0 - 1.0
        extreme += (np.abs(signs @ sums) >= observed).sum(0)
    p: Floats = ((1 + extreme) / (1 + draws)).reshape(x.shape[1:])
    return p


def _by_group(x: Floats, groups: ArrayLike | None) -> tuple[Floats, Floats]:
    """Sums over the rows of each group, (groups, m), and counts; by default each row is a group."""
    columns = x.reshape(len(x), -1)
    if groups is None:
        return columns, np.ones(len(x))
    _, of = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.bincount(of).astype(np.float64)
    sums = np.zeros((len(counts), columns.shape[1]))
    np.add.at(sums, of, columns)
    return sums, counts


def holm(p: ArrayLike) -> Floats:
    """Holm's step-down adjustment (1979): bounds the chance of any false finding among all tests.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    return _unsorted(np.minimum(steps, 1.0), order)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Benjamini and Hochberg's adjustment (1995): bounds the expected share of false findings.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.04, 0.04]
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * len(values) / np.arange(1, len(values) + 1)
    return _unsorted(np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0), order)


def _unsorted(values: Floats, order: NDArray[Any]) -> Floats:
    out = np.empty_like(values)
    out[order] = values
    return out
