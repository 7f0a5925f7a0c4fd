"""How well single directions detect known labels: AUROC and average precision, column by column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._io.arrays import Array


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


@dataclass(frozen=True)
class Detector:
    """One column used as a detector of a label: chosen on some examples, scored on others.

    Attributes:
        index: the column. sign: -1 where low scores mean the label.
        auroc, average_precision: on the held-out examples.
    """

    index: int
    sign: int
    auroc: float
    average_precision: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(vars(self))


def best_detector(train: Array, train_labels: Array, held_out: Array, held_out_labels: Array) -> Detector:
    """The column with the highest AUROC on the training examples, in either direction, scored on held-out ones.

    Args:
        train, held_out: (n, m) scores of m candidates. *_labels: (n,) bool.

    >>> x, y = np.array([[0.0, 2.0], [1.0, 1.0], [0.0, 0.0]]), np.array([False, False, True])
    >>> best_detector(x, y, x, y)
    Detector(index=1, sign=-1, auroc=1.0, average_precision=1.0)
    """
    areas = auroc(train, train_labels)
    index = int(np.argmax(np.maximum(areas, 1 - areas)))
    sign = 1 if areas[index] >= 0.5 else -1
    scores = sign * held_out[:, index]
    return Detector(
        index, sign, float(auroc(scores, held_out_labels)), average_precision(scores, held_out_labels)
    )


def _checked(scores: Array, labels: Array) -> Array:
    labels = np.asarray(labels, dtype=bool)
    if labels.ndim != 1 or len(scores) != len(labels):
        raise ValueError(f"labels: shape {labels.shape}, expected ({len(scores)},), one per row of scores")
    if labels.all() or not labels.any():
        raise ValueError("labels: all alike, expected positives and negatives")
    return labels
