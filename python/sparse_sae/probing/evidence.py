"""What detectors are worth on texts they were not chosen on: intervals over groups, differences, and specificity.

Texts that share a sentence are not independent: intervals come from drawing whole groups of texts again, and two
detectors are compared on the same draws. "It fires almost exclusively on this" is a claim of its own, which an AUROC
does not show: `specificity` counts where else it fires, in texts with other labels and in texts of no label at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparse_sae._arguments import real, require, whole
from sparse_sae._io.arrays import Array
from sparse_sae.probing.scores import auroc, average_precision


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval (percentiles)."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """As JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Evidence:
    """One detector on held-out texts.

    Attributes:
        auroc, average_precision: each with its interval.
        auroc_difference, average_precision_difference: to the detector it is compared with, paired: both on the same
            draws; None for that detector itself.
    """

    auroc: Estimate
    average_precision: Estimate
    auroc_difference: Estimate | None
    average_precision_difference: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: None if value is None else value.to_dict() for name, value in vars(self).items()}


def compare(
    scores: Mapping[str, ArrayLike],
    labels: ArrayLike,
    *,
    against: str,
    groups: ArrayLike | None = None,
    n_draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Evidence]:
    """AUROC and average precision of several detectors of one label, with grouped bootstrap intervals.

    Groups are drawn with replacement among those of their kind (with positives only, negatives only, or both), so that
    a draw has both. With few groups intervals are too short: one of ten groups covers less than it says.

    Args:
        scores: detector -> (n,). labels: (n,) bool.
        against: the detector that the others are compared with, such as the best neuron.
        groups: (n,) of any kind, such as the sentence that says so; None: each text by itself.
        n_draws: draws. confidence: of the intervals. seed: of the draws.

    Raises:
        ValueError: shapes that differ, labels all alike, or an unknown detector to compare with.

    >>> y = np.arange(40) % 2 == 0
    >>> found = compare({"neuron": np.sin(np.arange(40.0)), "latent": y * 1.0}, y, against="neuron")
    >>> found["latent"].auroc, found["latent"].auroc_difference.low > 0
    (Estimate(value=1.0, low=1.0, high=1.0), True)
    """
    y = np.asarray(labels, dtype=bool)
    n_draws, confidence = whole("n_draws", n_draws, least=2), real("confidence", confidence, above=0.0)
    require(confidence < 1, "confidence", confidence, "a number between 0 and 1, such as 0.95")
    require(against in scores, "against", against, f"one of {', '.join(scores)}")
    columns = {name: np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    for name, values in columns.items():
        require(
            values.shape == y.shape, f"scores[{name!r}]", f"shape {values.shape}", f"{y.shape}, as labels"
        )
    names = np.arange(len(y)) if groups is None else np.asarray(groups)
    require(names.shape == y.shape, "groups", f"shape {names.shape}", f"{y.shape}, as labels")
    found = {name: (float(auroc(s, y)), average_precision(s, y)) for name, s in columns.items()}
    weights = _drawn(y, names, n_draws, np.random.default_rng(seed))
    draws = {name: _weighted(s, y, weights) for name, s in columns.items()}
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]

    def estimate(name: str, which: int, minus: str | None = None) -> Estimate:
        value, drawn = found[name][which], draws[name][which]
        if minus is not None:
            value, drawn = value - found[minus][which], drawn - draws[minus][which]
        low, high = np.percentile(drawn, tails)
        return Estimate(value, float(low), float(high))

    return {
        name: Evidence(
            estimate(name, 0),
            estimate(name, 1),
            None if name == against else estimate(name, 0, against),
            None if name == against else estimate(name, 1, against),
        )
        for name in columns
    }


@dataclass(frozen=True)
class Specificity:
    """Where a detector fires, at a threshold that was chosen on development texts.

    Attributes:
        threshold: scores above it are firing.
        recall: share of the held-out texts with the label on which it fires.
        precision: share of the held-out texts on which it fires that have the label; nan if it fires on none.
        top: texts counted in `top_share`.
        top_share: share of the texts with the highest scores, neutral ones among them, that have the label.
        without: share of the held-out texts without the label on which it fires.
        others: other label -> the same share among those that have this other label (and not the one detected).
        neutral: share of the neutral texts on which it fires; nan without any.
    """

    threshold: float
    recall: float
    precision: float
    top: int
    top_share: float
    without: float
    others: dict[str, float]
    neutral: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; what is not defined is None."""
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in vars(self).items()}


def specificity(
    scores: ArrayLike,
    labels: Mapping[str, ArrayLike],
    label: str,
    threshold: float,
    *,
    neutral: ArrayLike = (),
    top: int = 100,
) -> Specificity:
    """Count where a detector of one label fires.

    Args:
        scores: (n,) of held-out texts. labels: label -> (n,) bool. label: the one that is detected.
        threshold: from development texts, such as `balanced_threshold` finds.
        neutral: (m,) scores of texts that have nothing to do with any label, of about the same length.
        top: how many of the highest scores of all texts are looked at; ties are broken against the label.

    Raises:
        ValueError: an unknown label, labels of another number than scores, or fewer texts than `top`.

    >>> labels = {"refund": [1, 1, 0, 0], "late": [0, 1, 1, 0]}
    >>> found = specificity([3, 2, 1, 0], labels, "refund", 0.5, neutral=[4, 0], top=2)
    >>> round(found.precision, 3), found.top_share, found.others, found.neutral
    (0.667, 0.5, {'late': 1.0}, 0.5)
    """
    values, elsewhere = np.asarray(scores, dtype=np.float64), np.asarray(neutral, dtype=np.float64)
    require(label in labels, "label", label, f"one of {', '.join(labels)}")
    known = {name: np.asarray(given, dtype=bool) for name, given in labels.items()}
    for name, given in known.items():
        require(given.shape == values.shape, f"labels[{name!r}]", f"shape {given.shape}", f"{values.shape}")
    top = whole("top", top, least=1, most=len(values) + len(elsewhere))
    y, fires = known[label], values > threshold
    together = np.concatenate([values, elsewhere])
    carries = np.concatenate([y, np.zeros(len(elsewhere), bool)])
    highest = np.lexsort((carries, -together))[:top]
    return Specificity(
        threshold=float(threshold),
        recall=_share(fires[y]),
        precision=_share(y[fires]),
        top=top,
        top_share=_share(carries[highest]),
        without=_share(fires[~y]),
        others={name: _share(fires[given & ~y]) for name, given in known.items() if name != label},
        neutral=_share(elsewhere > threshold),
    )


def balanced_threshold(scores: ArrayLike, labels: ArrayLike) -> float:
    """The threshold above which a yes has the highest balanced accuracy: the middle of the gap it lies in.

    >>> balanced_threshold([0.0, 1.0, 2.0, 4.0], [False, False, True, True])
    1.5
    """
    values, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    require(values.ndim == 1 and values.shape == y.shape, "labels", f"shape {y.shape}", f"{values.shape}")
    require(bool(y.any() and not y.all()), "labels", "all alike", "examples of both kinds")
    ordered, place = np.unique(values, return_inverse=True)
    cuts = np.concatenate([[ordered[0] - 1.0], (ordered[1:] + ordered[:-1]) / 2])

    def above(which: Array) -> Array:  # share with a value of at least ordered[i]
        counts = np.bincount(place[which], minlength=len(ordered))
        return np.asarray(counts[::-1].cumsum()[::-1] / which.sum())

    return float(cuts[int((above(y) - above(~y)).argmax())])


def _share(which: Array) -> float:
    return float(which.mean()) if len(which) else float("nan")


def _drawn(labels: Array, groups: Array, n_draws: int, rng: np.random.Generator) -> Array:
    """(n_draws, n): how often each text is in each draw."""
    names, place = np.unique(groups, return_inverse=True)
    positives = np.bincount(place, labels, len(names))
    sizes = np.bincount(place, minlength=len(names))
    kinds = np.where(positives == 0, 0, np.where(positives == sizes, 1, 2))
    counts = np.zeros((n_draws, len(names)))
    for kind in range(3):
        members = np.flatnonzero(kinds == kind)
        if len(members):
            counts[:, members] = rng.multinomial(
                len(members), np.full(len(members), 1 / len(members)), n_draws
            )
    # all groups may hold both kinds of text, and a draw of one of them only still has both
    return counts[:, place]


def _weighted(scores: Array, labels: Array, weights: Array) -> tuple[Array, Array]:
    """(n_draws,) AUROC and average precision of texts that count `weights` times; equal scores are one threshold."""
    ordered = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[ordered], prepend=np.nan) != 0)
    w, y = weights[:, ordered], labels[ordered]
    positive = np.add.reduceat(w * y, starts, axis=1)
    negative = np.add.reduceat(w * ~y, starts, axis=1)
    hits, misses = positive.cumsum(1), negative.cumsum(1)
    below = misses[:, -1:] - misses + negative / 2
    area = (positive * below).sum(1) / (hits[:, -1] * misses[:, -1])
    precision = hits / np.maximum(hits + misses, 1e-12)
    return area, (positive * precision).sum(1) / hits[:, -1]
