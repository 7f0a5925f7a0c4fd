"""Rates with their intervals, and only those that the number of cases supports."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparse_sae._arguments import real, whole
from sparse_sae._io.arrays import Array
from sparse_sae.probing import auroc


class Unsupported(ValueError):
    """A rate was asked for that the number of cases cannot support."""


@dataclass(frozen=True)
class Rate:
    """`successes` of `n` cases, with the exact interval of Clopper and Pearson (1934)."""

    successes: int
    n: int
    low: float
    high: float
    confidence: float = 0.95

    @property
    def value(self) -> float:
        """The proportion."""
        return self.successes / self.n

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: counts first, since a rate without its n says little."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.successes}/{self.n} [{self.low:.4f}, {self.high:.4f}]"


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Rate:
    """A rate with its exact two-sided interval.

    Raises:
        ValueError: no cases, or more successes than cases.

    >>> print(clopper_pearson(0, 299))
    0/299 [0.0000, 0.0123]
    """
    from scipy.stats import beta

    n = whole("n", n, least=1)
    k = whole("successes", successes, least=0, most=n)
    tail = (1 - real("confidence", confidence, above=0)) / 2
    low = 0.0 if k == 0 else float(beta.ppf(tail, k, n - k + 1))
    high = 1.0 if k == n else float(beta.ppf(1 - tail, k + 1, n - k))
    return Rate(k, n, low, high, confidence)


def cases_needed(rate: float, confidence: float = 0.95) -> int:
    """How many cases without a single event it takes to say "at most `rate`" with one-sided confidence.

    >>> cases_needed(0.01), cases_needed(0.001)
    (299, 2995)
    """
    if not 0 < real("rate", rate) < 1:
        raise ValueError(f"rate: got {rate}, expected a number between 0 and 1")
    return math.ceil(math.log1p(-confidence) / math.log1p(-rate))


def require_support(rate: float, n: int, confidence: float = 0.95) -> None:
    """Raise `Unsupported` where n cases cannot tell a rate this small from one above it.

    >>> require_support(0.01, 150)
    Traceback (most recent call last):
    sparse_sae.audit.rates.Unsupported: a rate of 1% needs at least 299 independent cases, there are 150; ...
    """
    needed = cases_needed(rate, confidence)
    if n < needed:
        raise Unsupported(
            f"a rate of {100 * rate:.4g}% needs at least {needed} independent cases, there are {n}; collect more, or "
            "ask for a larger rate"
        )


def auroc_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """AUROC with its percentile bootstrap interval; whole groups are drawn.

    Args:
        scores: (n,) finite numbers. labels: (n,) bool. groups: (n,) names of cases that are not independent.

    Returns:
        (value, low, high). Draws with one class only are drawn again.

    Raises:
        ValueError: NaN scores, one class only.

    >>> value, low, high = auroc_interval(np.arange(100.0), np.arange(100) > 49)
    >>> value, low > 0.99
    (1.0, True)
    """
    x, y = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if not np.isfinite(x).all():
        raise ValueError(f"scores: {int((~np.isfinite(x)).sum())} of {x.size} are NaN or infinite")
    value = float(auroc(x, y))
    _, of = np.unique(np.arange(len(x)) if groups is None else np.asarray(groups), return_inverse=True)
    found: list[float] = []
    rng, n_groups = np.random.default_rng(seed), int(of.max()) + 1
    for _ in range(20):
        draws = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=resamples)
        found += _weighted_auroc(x, y, draws[:, of]).tolist()
        if len(found) >= resamples:
            break
    else:
        raise ValueError("groups: nearly every draw of groups has one class only; more groups are needed")
    found = found[:resamples]
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return value, float(low), float(high)


def _weighted_auroc(x: Array, y: Array, weights: Array) -> Array:
    """AUROC of cases (n,) under each row of weights (draws, n) that has both classes; ties count half."""
    order = np.argsort(x, kind="stable")
    starts = np.flatnonzero(np.diff(x[order], prepend=-np.inf))  # of equal scores
    positive, negative = (
        np.add.reduceat(weights[:, order] * side[order], starts, axis=1) for side in (y, ~y)
    )
    total = positive.sum(axis=1) * negative.sum(axis=1)
    below = np.cumsum(negative, axis=1) - 0.5 * negative
    kept = total > 0
    return np.asarray((positive * below).sum(axis=1)[kept] / total[kept])


def threshold_at(negatives: ArrayLike, fpr: float) -> float:
    """The lowest threshold that at most `fpr` of these negatives' scores are above.

    >>> threshold_at([1.0, 2.0, 3.0, 4.0], 0.25)
    3.0
    """
    x = np.sort(np.asarray(negatives, np.float64))
    if not x.size or not np.isfinite(x).all():
        raise ValueError("negatives: expected finite scores, at least one")
    return float(x[len(x) - 1 - math.floor(fpr * len(x) + 1e-9)])


@dataclass(frozen=True)
class Operating:
    """A detector at one threshold, which was set on other cases: rates on sealed ones.

    Attributes:
        fpr: the rate that was asked for. threshold: what was set on the development negatives.
        tpr, false_positives: measured on the sealed test.
    """

    fpr: float
    threshold: float
    tpr: Rate
    false_positives: Rate


def operating_point(
    development: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    fpr: float,
    *,
    independent: int | None = None,
) -> Operating:
    """TPR at a false positive rate: the threshold is set on `development`, the negatives' scores there.

    Args:
        scores, labels: (n,) of the sealed test.
        independent: independent negatives in the test (groups); by default all of them.

    Raises:
        Unsupported: too few independent negatives for this rate.
    """
    x, y = np.asarray(scores, np.float64), np.asarray(labels, bool)
    n = int((~y).sum()) if independent is None else independent
    require_support(fpr, n)
    threshold = threshold_at(development, fpr)
    above = x > threshold
    return Operating(
        fpr,
        threshold,
        clopper_pearson(int(above[y].sum()), int(y.sum())),
        clopper_pearson(int(above[~y].sum()), int((~y).sum())),
    )


def calibration(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> dict[str, float]:
    """Expected calibration error over equal-width bins, and the Brier score.

    >>> calibration([0.0, 1.0], [False, True])
    {'ece': 0.0, 'brier': 0.0}
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probabilities: expected numbers from 0 to 1")
    at = np.minimum((p * bins).astype(int), bins - 1)
    counts = np.bincount(at, minlength=bins)
    gap = np.abs(np.bincount(at, p, bins) - np.bincount(at, y, bins))
    return {"ece": float(gap.sum() / counts.sum()), "brier": float(((p - y) ** 2).mean())}


def delays(first: Array, onset: Array) -> dict[str, float]:
    """Tokens from where a text becomes positive to where a monitor says so; of those that it finds.

    Args:
        first: (n,) position of the event, NaN without one. onset: (n,) position of the first telling token.
    """
    gaps = (np.asarray(first, np.float64) - np.asarray(onset, np.float64))[~np.isnan(first)]
    if not len(gaps):
        return {"found": 0.0}
    return {"found": float(len(gaps)), "median": float(np.median(gaps)), "p90": float(np.quantile(gaps, 0.9))}
