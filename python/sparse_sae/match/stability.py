"""Several dictionaries of one space: across seeds, across layers or sizes, and one against itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sae.match.assignment import BLOCK
from sparse_sae.match.chance import Level
from sparse_sae.match.matching import match
from sparse_sae.match.scores import CosineScores, directions

__all__ = ["Refinement", "Stability", "duplicates", "refinement", "stability"]


@dataclass(frozen=True)
class Stability:
    """How much of a dictionary comes back from another seed.

    Attributes:
        mcc: (s, s) matched mean cosine of every two dictionaries, 1 on the diagonal.
        chance: the level that dictionaries of random directions with the same covariance reach.
        per_latent: for each dictionary, (n,) the mean cosine of every latent with its partners in the others
            (0 where it has none).
    """

    mcc: NDArray[np.float64]
    chance: Level
    per_latent: list[NDArray[np.float64]]

    @property
    def mean(self) -> float:
        """Mean of `mcc` over all pairs of different dictionaries."""
        return float(self.mcc[np.triu_indices(len(self.mcc), 1)].mean())

    @property
    def corrected(self) -> float:
        """(mean - chance) / (1 - chance): 0 where seeds agree as little as random dictionaries would."""
        return self.chance.correct(self.mean)


def stability(dictionaries: Sequence[Any], *, absolute: bool = False, seed: int = 0) -> Stability:
    """Match every two of at least two dictionaries (arrays, SAEs) of one space, trained alike from different
    seeds.

    >>> same = np.eye(4, 6)
    >>> stability([same, same[::-1]]).mean
    1.0
    """
    if len(dictionaries) < 2:
        raise ValueError(f"stability needs at least two dictionaries, got {len(dictionaries)}")
    rows = [directions(d, f"dictionaries[{i}]") for i, d in enumerate(dictionaries)]
    mcc = np.eye(len(rows))
    per_latent = [np.zeros(len(r)) for r in rows]
    levels = []
    for i in range(len(rows)):
        for j in range(i):
            found = match(rows[i], rows[j], absolute=absolute, seed=seed)
            mcc[i, j] = mcc[j, i] = found.mcc
            levels.append(max((c.mcc for c in found.chance.values()), key=lambda level: level.mean))
            per_latent[i][found.pairs[:, 0]] += found.scores / (len(rows) - 1)
            per_latent[j][found.pairs[:, 1]] += found.scores / (len(rows) - 1)
    highest = max(levels, key=lambda level: level.mean)
    return Stability(mcc, highest, per_latent)


@dataclass(frozen=True)
class Refinement:
    """What becomes of the latents of one dictionary in another (the next layer, or a wider dictionary).

    Attributes:
        kept: (p, 2) pairs (earlier, later) matched one to one above the threshold.
        split: for an earlier latent, the two or more later ones that have it as their nearest, all above the
            threshold.
        merged: for a later latent, the two or more earlier ones that have it as their nearest.
        new: later latents with nothing earlier above the threshold. gone: earlier latents with nothing later.
    """

    kept: NDArray[np.intp]
    split: dict[int, list[int]]
    merged: dict[int, list[int]]
    new: NDArray[np.intp]
    gone: NDArray[np.intp]


def refinement(earlier: Any, later: Any, threshold: float = 0.7) -> Refinement:
    """Follow latents from one dictionary to the next by signed cosine above `threshold`.

    For layers of one model this follows directions of the residual stream, which later layers may also
        rotate: a latent
    that is `gone` may live on in another direction. `match(None, None, codes=...)` follows activity instead.

    >>> before = np.eye(3, 4)
    >>> after = np.array([[1, 0, 0, 0.1], [1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    >>> r = refinement(before, after)
    >>> r.split, r.new.tolist(), r.gone.tolist()
    ({0: [0, 1]}, [3], [2])
    """
    a, b = directions(earlier, "earlier"), directions(later, "later")
    pairs = match(a, b, chance=0)
    nearest_b, cosine_a = _nearest(a, b)
    nearest_a, cosine_b = _nearest(b, a)
    return Refinement(
        pairs.pairs[pairs.scores > threshold],
        _groups(nearest_a, cosine_b > threshold),
        _groups(nearest_b, cosine_a > threshold),
        np.flatnonzero(cosine_b <= threshold),
        np.flatnonzero(cosine_a <= threshold),
    )


def duplicates(dictionary: Any, threshold: float = 0.95, *, absolute: bool = False) -> tuple[Any, Any]:
    """Pairs of latents of one dictionary that point the same way.

    Returns:
        pairs (p, 2) of indices i < j, and their cosines (p,), highest first.

    >>> duplicates(np.array([[1, 0], [0, 1], [2, 0.1]]))[0].tolist()
    [[0, 2]]
    """
    rows = directions(dictionary, "dictionary")
    scores = CosineScores(rows, rows, absolute)
    pairs, cosines = [np.zeros((0, 2), np.intp)], [np.zeros(0, np.float32)]
    step = max(1, BLOCK // len(rows))
    for start in range(0, len(rows), step):
        block = scores.block(start, min(start + step, len(rows)))
        i, j = np.nonzero(block > threshold)
        later = j > i + start
        pairs.append(np.column_stack([i + start, j])[later])
        cosines.append(block[i, j][later])
    found, values = np.concatenate(pairs), np.concatenate(cosines)
    order = np.argsort(-values, kind="stable")
    return found[order], values[order]


def _nearest(a: Any, b: Any) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For every row of a its nearest row of b, and the cosine."""
    scores = CosineScores(a, b, False)
    nearest, cosine = np.empty(len(a), np.intp), np.empty(len(a), np.float32)
    step = max(1, BLOCK // len(b))
    for start in range(0, len(a), step):
        block = scores.block(start, min(start + step, len(a)))
        nearest[start : start + len(block)] = block.argmax(axis=1)
        cosine[start : start + len(block)] = block.max(axis=1)
    return nearest, cosine


def _groups(owner: NDArray[np.intp], counted: NDArray[np.bool_]) -> dict[int, list[int]]:
    members = np.flatnonzero(counted)
    groups: dict[int, list[int]] = {}
    for member in members.tolist():
        groups.setdefault(int(owner[member]), []).append(member)
    return {key: value for key, value in sorted(groups.items()) if len(value) > 1}
