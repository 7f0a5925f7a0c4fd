"""Detectors of a label made of one unit, a few, or all: chosen on development texts, applied to any others.

Sparse probing (Gurnee et al. 2023, "Finding neurons in a haystack"): few units are selected, then weighed by a logistic
regression; how many it takes says whether a label has a unit of its own. The dense probe says what can be read at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sparse_sae._arguments import require, whole
from sparse_sae._io.arrays import Array
from sparse_sae.probing.scores import auroc

RIDGES = (1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class Probe:
    """A weighted sum of some columns as the score of a label.

    Attributes:
        columns: which columns, in the order of their selection.
        weights: one for each of them; for a single unit, its sign.
        intercept: 0 for a single unit.
    """

    columns: tuple[int, ...]
    weights: tuple[float, ...]
    intercept: float = 0.0

    def __call__(self, values: Array) -> Array:
        """(n,) float64 scores of (n, m) values, of the columns that it was chosen among.

        >>> Probe((1,), (-1.0,))(np.array([[5.0, 2.0]]))
        array([-2.])
        """
        chosen = np.asarray(values)[:, list(self.columns)].astype(np.float64)
        return np.asarray(chosen @ np.asarray(self.weights) + self.intercept)


def unit_probe(values: Array, labels: ArrayLike, *, signs: Sequence[int] = (1, -1)) -> Probe:
    """The single column with the highest AUROC.

    Args:
        values: (n, m), such as `document_maxima`. labels: (n,) bool.
        signs: (1,) where only a high value may mean the label, as for "a feature that fires on it".

    Raises:
        ValueError: labels of another number or all alike, or other signs.

    >>> unit_probe(np.array([[0.0, 2.0], [1.0, 1.0], [0.0, 0.0]]), [False, False, True])
    Probe(columns=(1,), weights=(-1.0,), intercept=0.0)
    """
    require(len(signs) > 0 and set(signs) <= {1, -1}, "signs", signs, "(1,), (-1,) or (1, -1)")
    areas = auroc(values, np.asarray(labels, dtype=bool))
    by_sign = {sign: areas if sign > 0 else 1 - areas for sign in signs}
    sign = max(by_sign, key=lambda s: float(by_sign[s].max()))
    return Probe((int(by_sign[sign].argmax()),), (float(sign),))


def sparse_probe(values: Array, labels: ArrayLike, k: int, *, ridge: float = 1.0) -> Probe:
    """k columns by forward selection, weighed by a logistic regression.

    Each step takes the column that explains most of what the ones before leave of the label (orthogonal matching
    pursuit on standardised columns). A column that does not vary is never taken, so fewer than k may come back.

    Args:
        values: (n, m). labels: (n,) bool. k: columns at most, at least 1.
        ridge: penalty on the squared weights of standardised columns.

    Raises:
        ValueError: labels of another number or all alike; no column that varies.

    >>> x = np.random.default_rng(0).standard_normal((200, 9))
    >>> sorted(sparse_probe(x, x[:, 2] - x[:, 7] > 0, 2).columns)
    [2, 7]
    """
    labels = _labels(values, labels)
    k = whole("k", k, least=1)
    columns, chosen = np.asarray(values, dtype=np.float64), []
    columns = columns - columns.mean(0)
    norms = np.linalg.norm(columns, axis=0)
    require(bool((norms > 0).any()), "values", "columns that are all constant", "one at least that varies")
    columns /= np.where(norms > 0, norms, 1)
    left = labels - labels.mean()
    for _ in range(k):
        lengths = np.linalg.norm(columns, axis=0)
        gains = np.where(lengths > 1e-4, np.abs(left @ columns) / np.maximum(lengths, 1e-12), -1.0)
        best = int(gains.argmax())
        if gains[best] <= 0:
            break
        chosen.append(best)
        direction = columns[:, best] / lengths[best]
        columns = columns - np.outer(direction, direction @ columns)
        left = left - direction * (direction @ left)
    weights, intercept = _logistic(np.asarray(values, dtype=np.float64)[:, chosen], labels, ridge)
    return Probe(tuple(chosen), tuple(weights.tolist()), intercept)


def dense_probe(
    values: Array, labels: ArrayLike, *, groups: ArrayLike | None = None, ridges: Sequence[float] = RIDGES
) -> Probe:
    """A logistic regression on all columns, the ridge with the best AUROC in five-fold cross-validation.

    Args:
        values: (n, m), such as mean activations of texts. labels: (n,) bool.
        groups: (n,) of any kind; examples of a group are in the same fold, so that the ridge is chosen for wordings
            that the fit has not seen. None: each example by itself.
        ridges: penalties on the squared weights of standardised columns.

    Raises:
        ValueError: labels of another number or all alike, groups of another number, or no ridge.

    >>> x = np.random.default_rng(0).standard_normal((200, 9))
    >>> found = dense_probe(x, x[:, 2] - x[:, 7] > 0)
    >>> float(auroc(found(x), x[:, 2] - x[:, 7] > 0)) > 0.95
    True
    """
    labels = _labels(values, labels)
    require(len(ridges) > 0, "ridges", ridges, "at least one penalty")
    x = np.asarray(values, dtype=np.float64)
    names = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    require(names.shape == (len(x),), "groups", f"shape {names.shape}", f"({len(x)},), one for each text")
    folds = np.random.default_rng(0).permutation(int(names.max()) + 1)[names] % 5
    best, highest = float(ridges[0]), -1.0
    for ridge in ridges if len(ridges) > 1 else ():
        scores, scored = np.zeros(len(x)), []
        for fold in range(5):
            out = folds == fold
            if _both(labels[out]) and _both(labels[~out]):
                weights, intercept = _logistic(x[~out], labels[~out], float(ridge))
                scores[out] = x[out] @ weights + intercept
                scored.append(float(auroc(scores[out], labels[out])))
        if scored and np.mean(scored) > highest:
            best, highest = float(ridge), float(np.mean(scored))
    weights, intercept = _logistic(x, labels, best)
    return Probe(tuple(range(x.shape[1])), tuple(weights.tolist()), intercept)


def _logistic(x: Array, labels: Array, ridge: float) -> tuple[Array, float]:
    """Weights and intercept by Newton's method, for columns as they are; the penalty is on standardised ones."""
    centre, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1)
    z = np.column_stack([(x - centre) / scale, np.ones(len(x))])
    penalty = np.full(z.shape[1], ridge)
    penalty[-1] = 1e-6  # the intercept is free
    w = np.zeros(z.shape[1])

    def loss(w: Array) -> float:
        margins = z @ w
        return float(np.logaddexp(0, margins).sum() - margins[labels].sum() + 0.5 * (penalty * w * w).sum())

    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(z @ w, -500, 500)))
        gradient = z.T @ (p - labels) + penalty * w
        curvature = (z.T * np.maximum(p * (1 - p), 1e-9)) @ z + np.diag(penalty)
        step, size = np.linalg.solve(curvature, gradient), 1.0
        while (
            loss(w - size * step) > loss(w) and size > 1e-6
        ):  # Newton overshoots where classes are far apart
            size /= 2
        w = w - size * step
        if np.abs(size * step).max() < 1e-7:
            break
    weights = w[:-1] / scale
    return weights, float(w[-1] - weights @ centre)


def _both(labels: Array) -> bool:
    return bool(labels.any() and not labels.all())


def _labels(values: Array, labels: ArrayLike) -> Array:
    found = np.asarray(labels, dtype=bool)
    if found.shape != (len(values),):
        raise ValueError(
            f"labels: got shape {found.shape}, expected ({len(values)},), one for each row of values"
        )
    if not _both(found):
        raise ValueError("labels: got all alike, expected examples of both kinds")
    return found
