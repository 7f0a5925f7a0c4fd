"""How well scores tell examples with a label from those without: area under the ROC curve, average precision."""

from __future__ import annotations

import numpy as np

from sparse_sae._io.arrays import Array


def auroc(scores: Array, labels: Array) -> Array:
    """Area under the ROC curve of each column; ties count half.

    Args:
        scores: (n,) or (n, m). labels: (n,) bool, with both values present.

    Returns:
        () or (m,) in [0, 1]: the chance that a positive scores above a negative.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    array(0.75)
    """
    from scipy.stats import rankdata

    labels = _checked(scores, labels)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    ranks = rankdata(scores, axis=0)
    return np.asarray((ranks[labels].sum(axis=0) - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: Array, labels: Array) -> float:
    """Mean over the positives of the precision at their rank; equal scores count as one threshold.

    Args:
        scores: (n,). labels: (n,) bool.

    >>> round(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])), 4)
    0.8333
    """
    labels = _checked(scores, labels)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    recalled = np.diff(hits[last_of_ties], prepend=0)
    return float((recalled * hits[last_of_ties] / (last_of_ties + 1)).sum() / hits[-1])


def _checked(scores: Array, labels: Array) -> Array:
    labels = np.asarray(labels, dtype=bool)
    if labels.ndim != 1 or len(scores) != len(labels):
        raise ValueError(f"labels: shape {labels.shape}, expected ({len(scores)},), one per row of scores")
    if labels.all() or not labels.any():
        raise ValueError("labels: all alike, expected positives and negatives")
    return labels
