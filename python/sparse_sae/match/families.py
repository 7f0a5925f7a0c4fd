"""What an SAE does to features that form trees: absorption and splitting, against a hierarchy that is known.

A child feature fires only with its parent. A sparse dictionary is tempted to let the child's latent carry the
parent's direction too and to silence the parent's latent there: the parent's latent then has holes that
nothing in its activations explains (absorption, Chanin et al. 2024, arXiv 2409.14507). Or it replaces the
parent's latent by several, each firing on a part of its samples (splitting, Bricken et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from sparse_sae.match.detectors import Detectors, detectors
from sparse_sae.match.scores import directions, normalised

__all__ = ["Families", "families"]


@dataclass(frozen=True)
class Families:
    """Absorption of every parent-child pair, and splitting of every feature.

    Attributes:
        pairs: (p, 2) features (parent, child) that fire together and whose best latents are known and
            different.
        missed: (p,) share of the samples with both features in which the parent's latent is silent.
        missed_without_children: (p,) the same where the parent fires and none of its children does: what the
            latent misses anyway.
        absorbed: (p,) share of the samples with both features in which the parent's latent is silent, the
            child's latent fires, and that latent's direction leans towards the parent more than the true
            child does.
        split: (n_features,) how many latents a feature is split into: latents that fire almost only with it
            and whose union covers clearly more of its samples than the best does alone; 1 where it is not
            split, 0 where no latent detects it.
    """

    pairs: NDArray[np.intp]
    missed: NDArray[np.float64]
    missed_without_children: NDArray[np.float64]
    absorbed: NDArray[np.float64]
    split: NDArray[np.intp]

    @property
    def absorption(self) -> float:
        """Mean of `absorbed` over pairs, 0 if there are none."""
        return float(self.absorbed.mean()) if len(self.absorbed) else 0.0

    @property
    def split_fraction(self) -> float:
        """Share of the detected features that are split."""
        detected = self.split > 0
        return float((self.split[detected] > 1).mean()) if detected.any() else 0.0


def families(
    sae: Any,
    codes: csr_array,
    features: Any,
    truth: csr_array,
    parent: Any,
    *,
    lean: float = 0.1,
    precision: float = 0.8,
    gain: float = 0.1,
    scores: Detectors | None = None,
) -> Families:
    """Measure absorption and splitting.

    Args:
        sae: the dictionary: an SAE or (n_latents, d) directions.
        codes: (n, n_latents) its codes. truth: (n, n_features) the true codes of the same samples.
        features: (n_features, d) true directions, or the ground truth they belong to.
        parent: (n_features,) parent of each feature, -1 for none (`Superposition.parent`).
        lean: cosine by which a child's latent must exceed the true child in the parent's direction to count
            as absorbing.
        precision: a latent is a piece of a feature if at least this share of its samples has the feature.
        gain: recall that the pieces together must add to the best of them to count as a split.
        scores: `detectors(codes, truth)`, if you have it already.
    """
    W = normalised(directions(sae, "sae"))
    true = normalised(directions(features, "features"))
    parent = np.asarray(parent)
    if codes.shape[1] != len(W) or truth.shape[1] != len(true) or parent.shape != (len(true),):
        raise ValueError(
            f"sizes disagree: codes {codes.shape} for {len(W)} latents, truth {truth.shape} and parent "
            f"{parent.shape} for {len(true)} features"
        )
    scores = scores or detectors(codes, truth)
    best, _ = scores.best_latent("f1")
    fires = csc_array(codes != 0)
    present = csc_array(truth != 0)
    rows = {}
    for name, parts in (("latent", fires), ("feature", present)):
        rows[name] = [parts.indices[parts.indptr[i] : parts.indptr[i + 1]] for i in range(parts.shape[1])]
    n = codes.shape[0]
    pairs, missed, anyway, absorbed = [], [], [], []
    for p in np.unique(parent[parent >= 0]):
        children = np.flatnonzero(parent == p)
        if best[p] < 0:
            continue
        silent = np.ones(n, bool)
        silent[rows["latent"][best[p]]] = False
        alone = np.zeros(n, bool)
        alone[rows["feature"][p]] = True
        for c in children:
            alone[rows["feature"][c]] = False
        for c in children:
            both = rows["feature"][c][np.isin(rows["feature"][c], rows["feature"][p])]
            if best[c] < 0 or best[c] == best[p] or not len(both):
                continue
            leans = W[best[c]] @ true[p] - true[c] @ true[p] > lean
            by_child = np.isin(both, rows["latent"][best[c]]) & leans
            pairs.append((p, c))
            missed.append(silent[both].mean())
            anyway.append(silent[alone].mean() if alone.any() else np.nan)
            absorbed.append((silent[both] & by_child).mean())
    return Families(
        np.asarray(pairs, np.intp).reshape(-1, 2),
        np.asarray(missed, np.float64),
        np.asarray(anyway, np.float64),
        np.asarray(absorbed, np.float64),
        _splits(scores, rows, precision, gain),
    )


def _splits(scores: Detectors, rows: dict[str, Any], precision: float, gain: float) -> NDArray[np.intp]:
    precise, recall = csc_array(scores.precision), csc_array(scores.recall)
    out = np.zeros(precise.shape[1], np.intp)
    for j in range(precise.shape[1]):
        at = slice(precise.indptr[j], precise.indptr[j + 1])
        pieces = precise.indices[at][precise.data[at] >= precision]
        if not len(pieces):
            continue
        recalls = np.asarray(recall[pieces, [j] * len(pieces)]).ravel()
        pieces, recalls = pieces[np.argsort(-recalls)], np.sort(recalls)[::-1]
        covered = np.zeros(len(rows["feature"][j]), bool)
        out[j], so_far = 1, recalls[0]
        covered |= np.isin(rows["feature"][j], rows["latent"][pieces[0]])
        for piece in pieces[1:]:
            covered |= np.isin(rows["feature"][j], rows["latent"][piece])
            if covered.mean() >= so_far + gain:
                out[j] += 1
                so_far = covered.mean()
    return out
