"""How well does each latent detect each true feature? Scores of every pair, from sparse codes, without a
dense matrix of samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, issparse

from sparse_sae._arguments import one_of

__all__ = ["Detectors", "detectors"]

Score: TypeAlias = Literal["precision", "recall", "f1", "best_f1", "auroc"]
F64 = NDArray[np.float64]
EVENTS = 1 << 22  # co-firing events sorted at once, about 130 MiB


@dataclass(frozen=True)
class Detectors:
    """Scores of latent i as a detector of feature j, as (n_latents, n_features) sparse matrices.

    A pair is stored if it fires together in at least one sample. For all others precision, recall and F1 are
    0 (also at any threshold), and AUROC is at most one half.

    Attributes:
        precision, recall, f1: at the trained threshold, that is wherever the latent fires at all.
        best_f1, best_threshold: the highest F1 over all thresholds on the latent's value, and the lowest such
            value that counts.
        auroc: that a sample with the feature has a higher value than one without, ties (such as zeros)
            counting half.
        latent_counts, feature_counts: (n_latents,), (n_features,) samples in which each fires.
        n_samples: all samples.
    """

    precision: csr_array
    recall: csr_array
    f1: csr_array
    best_f1: csr_array
    best_threshold: csr_array
    auroc: csr_array
    latent_counts: NDArray[np.int64]
    feature_counts: NDArray[np.int64]
    n_samples: int

    def best_latent(self, score: Score = "f1") -> tuple[NDArray[np.intp], F64]:
        """The best latent for every feature by a score, and that score (latent -1 and score 0 where none
        co-fires).

        >>> found = detectors(csr_array([[1.0, 0], [0, 2.0]]), csr_array([[0, 1.0], [1.0, 0]]))
        >>> found.best_latent()
        (array([1, 0]), array([1., 1.]))
        """
        pairs = csc_array(getattr(self, one_of("score", score, Score)))
        latents, scores = np.full(pairs.shape[1], -1, np.intp), np.zeros(pairs.shape[1])
        for j in np.flatnonzero(np.diff(pairs.indptr)):
            column = pairs.data[pairs.indptr[j] : pairs.indptr[j + 1]]
            latents[j], scores[j] = pairs.indices[pairs.indptr[j] + column.argmax()], column.max()
        return latents, scores

    def of_pairs(self, latents: Any, features: Any) -> dict[str, F64]:
        """Precision, recall, F1, best F1 and AUROC of the pairs (latents[i], features[i])."""
        names = ("precision", "recall", "f1", "best_f1", "auroc")
        out = {
            name: np.asarray(getattr(self, name)[latents, features], dtype=np.float64).ravel()
            for name in names
        }
        together = out["recall"] > 0
        # Never together: every positive has value 0, tied with the negatives where the latent is silent too.
        negatives = np.maximum(self.n_samples - self.feature_counts[features], 1)
        apart = 0.5 * (1 - self.latent_counts[latents] / negatives)
        out["auroc"] = np.where(together, out["auroc"], apart)
        return out


def detectors(codes: csr_array, truth: csr_array) -> Detectors:
    """Score every latent as a detector of every true feature.

    Args:
        codes: (n_samples, n_latents) sparse non-negative codes.
        truth: (n_samples, n_features) sparse true codes; a feature is present where its code is not zero.

    The work is that of the events in which a latent and a feature fire together, about L0 * true L0 a sample,
    not of all pairs.

    >>> codes, truth = csr_array([[2.0], [1.0], [0.5], [0.0]]), csr_array([[1.0], [1.0], [0.0], [0.0]])
    >>> found = detectors(codes, truth)
    >>> [round(float(getattr(found, s)[0, 0]), 3) for s in ("precision", "recall", "best_f1", "auroc")]
    [0.667, 1.0, 1.0, 1.0]
    """
    for name, matrix in (("codes", codes), ("truth", truth)):
        if not issparse(matrix) or matrix.ndim != 2:
            raise TypeError(f"{name}: got {type(matrix).__name__}, expected a sparse (n_samples, n) matrix")
    if codes.shape[0] != truth.shape[0] or codes.shape[0] < 1:
        raise ValueError(
            f"codes and truth must share their samples; got {codes.shape[0]} and {truth.shape[0]} rows"
        )
    z = csc_array(codes, dtype=np.float64, copy=True)
    z.eliminate_zeros()
    if z.nnz and not z.data.min() > 0:
        raise ValueError(f"codes: got {z.data.min()} as the smallest, expected finite values of at least 0")
    t = csr_array(truth, copy=True)
    t.eliminate_zeros()
    n, n_features = t.shape
    present = np.bincount(t.indices, minlength=n_features)
    width = np.diff(t.indptr)  # true features of each sample
    events_before = np.concatenate([[0], np.cumsum(width[z.indices])])[z.indptr]
    parts = []
    start = 0
    while start < z.shape[1]:
        stop = max(
            start + 1, int(np.searchsorted(events_before, events_before[start] + EVENTS, side="right")) - 1
        )
        parts.append(_score(z, t, width, present, start, stop))
        start = stop
    columns = [np.concatenate(p) for p in zip(*parts, strict=True)]
    latent, feature = columns[:2]
    shape = (z.shape[1], n_features)
    precision, recall, f1, best_f1, threshold, auroc = (
        csr_array((values, (latent, feature)), shape=shape) for values in columns[2:]
    )
    return Detectors(precision, recall, f1, best_f1, threshold, auroc, np.diff(z.indptr), present, n)


def _score(z: csc_array, t: csr_array, width: Any, present: Any, start: int, stop: int) -> tuple[Any, ...]:
    """Scores of the latents start..stop: their pairs (latent, feature) and six values each."""
    n = t.shape[0]
    entries = slice(z.indptr[start], z.indptr[stop])
    rows, values = z.indices[entries], z.data[entries]
    latent = np.repeat(np.arange(start, stop), np.diff(z.indptr[start : stop + 1]))
    order = np.lexsort((-values, latent))
    rows, values, latent = rows[order], values[order], latent[order]
    counts = np.diff(z.indptr[start : stop + 1])
    position = np.arange(len(latent)) - np.repeat(
        np.cumsum(counts) - counts, counts
    )  # from the latent's highest value
    # Of tied values all count or none: `reached` samples have at least this value, `above` have a higher one.
    new = np.append(True, (np.diff(latent) != 0) | (np.diff(values) != 0))[: len(latent)]
    first = np.maximum.accumulate(np.where(new, np.arange(len(latent)), 0))
    above = position[first]
    last = np.append(new[1:], True)[: len(latent)]
    ends = np.flatnonzero(last)
    reached = position[ends[np.searchsorted(ends, np.arange(len(latent)))]] + 1 if len(ends) else position
    # One event for each true feature of the sample, in the order of the latent's values.
    repeats = width[rows]
    event = np.repeat(np.arange(len(rows)), repeats)
    nth = np.arange(len(event)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    feature = t.indices[t.indptr[rows[event]] + nth]
    pair = (latent[event] - start).astype(np.int64) * t.shape[1] + feature
    order = np.argsort(pair, kind="stable")
    pair, event = pair[order], event[order]
    heads = np.flatnonzero(np.append(True, np.diff(pair) != 0)[: len(pair)])
    if not len(heads):
        return tuple(np.zeros(0, np.int64) for _ in range(2)) + tuple(np.zeros(0) for _ in range(6))
    size = np.diff(np.append(heads, len(pair)))
    true_positives = np.arange(len(pair)) - np.repeat(heads, size) + 1
    latents, features = np.divmod(pair[heads], t.shape[1])
    fires, positives = counts[latents].astype(float), present[features].astype(float)
    # A tie's threshold takes all its true positives: the event that ends it has the right count and the
    # highest F1.
    f1_at = 2 * true_positives / (reached[event] + np.repeat(positives, size))
    best = np.maximum.reduceat(f1_at, heads)
    at_best = np.flatnonzero(f1_at == np.repeat(best, size))
    at_best = at_best[np.searchsorted(at_best, heads)]
    # Samples with the feature, ranked from the top: those above count 0, ties half. Silent ones share the
    # bottom.
    midrank = (above + reached - 1) / 2
    ahead = np.add.reduceat(midrank[event], heads) - size * (size - 1) / 2
    silent = positives - size
    silent_negatives = n - fires - silent
    negatives = n - positives
    negatives_fire = fires - size
    losses = ahead + silent * (negatives_fire + silent_negatives / 2)
    auroc = 1 - np.divide(losses, positives * negatives, out=np.full(len(size), 0.5), where=negatives > 0)
    precision, recall = size / fires, size / positives
    f1 = 2 * size / (fires + positives)
    return latents + start, features, precision, recall, f1, best, values[event[at_best]], auroc
