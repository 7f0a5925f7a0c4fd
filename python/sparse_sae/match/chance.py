"""What a match would score if nothing had been learned.

In few dimensions, or with many latents, random directions already lie close to any given one: 64 random
directions in 8 dimensions reach a mean matched cosine of .71 with 32 true features. A score means something
only above that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae.match.assignment import assign
from sparse_sae.match.scores import CodeScores, CosineScores, Floats, Scores

RandomKind: TypeAlias = Literal["random", "matched"]
ChanceKind: TypeAlias = Literal["random", "matched", "shuffled"]

__all__ = ["Chance", "Level", "chance_level", "random_like"]


@dataclass(frozen=True)
class Level:
    """A mean over random draws with its 95 % confidence interval (Student's t), and the standard deviation of
    a single draw."""

    mean: float
    low: float
    high: float
    std: float

    @classmethod
    def of(cls, draws: Any) -> Level:
        from scipy.special import stdtrit

        draws = np.asarray(draws, dtype=np.float64)
        mean, std = float(draws.mean()), float(draws.std(ddof=1)) if len(draws) > 1 else float("nan")
        half = (
            float(stdtrit(len(draws) - 1, 0.975)) * std / len(draws) ** 0.5
            if len(draws) > 1
            else float("inf")
        )
        return cls(mean, mean - half, mean + half, std)

    def correct(self, score: float) -> float:
        """(score - chance) / (1 - chance): 0 at chance, 1 at a perfect score, negative below chance."""
        return (score - self.mean) / (1 - self.mean) if self.mean < 1 else 0.0


@dataclass(frozen=True)
class Chance:
    """The scores of `draws` dictionaries that know nothing, matched in the same way.

    Attributes:
        kind: "random" directions; "matched" in norms and covariance to the learned ones; "shuffled" samples,
            for codes.
        mcc, mmcs_a, mmcs_b: chance level of each measure of `Matching`.
        scores: (draws, pairs) the matched scores themselves.
    """

    kind: ChanceKind
    mcc: Level
    mmcs_a: Level
    mmcs_b: Level
    scores: NDArray[np.float32]

    def above(self, threshold: float) -> Level:
        """How many pairs chance puts above a threshold."""
        return Level.of((self.scores > threshold).sum(axis=1))


def random_like(a: Any, rng: np.random.Generator, kind: RandomKind = "matched") -> NDArray[np.float32]:
    """A dictionary that has learned nothing, of the shape of `a` (n, d): a control for matching, steering or
    reconstruction.

    "random" draws directions uniformly. "matched" draws Gaussian rows with the mean and covariance of `a`'s
    unit directions, so it prefers the dimensions that `a` prefers. Both are given the norms of `a`'s rows, in
    random order.

    >>> controls = random_like(np.eye(3)[[0, 0, 1]] * 2, np.random.default_rng(0))
    >>> np.linalg.norm(controls, axis=1).round(3).tolist()  # doctest: +ELLIPSIS
    [2.0, 2.0, 2.0]
    """
    a = np.asarray(a, dtype=np.float64)
    if a.ndim != 2 or 0 in a.shape:
        raise ValueError(f"a: got shape {a.shape}, expected (n, d) with n, d >= 1")
    if kind not in get_args(RandomKind):
        raise ValueError(f"kind: got {kind!r}, expected 'random' or 'matched'")
    norms = np.linalg.norm(a, axis=1, keepdims=True)
    rows = rng.standard_normal(a.shape)
    if kind == "matched" and norms.any():
        rows = _with_covariance(rows, a[norms[:, 0] > 0] / norms[norms[:, 0] > 0])
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0) * rng.permutation(norms)
    return np.asarray(rows, dtype=np.float32)


def _with_covariance(noise: NDArray[np.float64], unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """White rows stretched so that, once normalised, they have about the mean and covariance of `unit`.

    Normalising pulls the variances together, so the stretch is corrected for that a few times.
    """
    mean = unit.mean(axis=0)
    target, axes = np.linalg.eigh((unit - mean).T @ (unit - mean) / len(unit))
    target, mean = np.maximum(target, 0), mean @ axes
    variance = target.copy()
    sample = noise[: 16 * noise.shape[1]]
    for _ in range(8):
        rows = mean + sample * np.sqrt(variance)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
        variance *= np.divide(target, rows.var(axis=0), out=np.ones_like(target), where=rows.var(axis=0) > 0)
    return np.asarray((mean + noise * np.sqrt(variance)) @ axes.T)


def chance_level(
    a: Floats | csr_array,
    b: Floats | csr_array,
    kind: ChanceKind,
    draws: int,
    absolute: bool,
    seed: int,
    **how: Any,
) -> Chance:
    """Match `draws` dictionaries (or codes) that know nothing of `b`, made after the image of `a`, against
    `b`."""
    rng = np.random.default_rng([seed, draws])
    mcc, mmcs_a, mmcs_b, all_scores = [], [], [], []
    for _ in range(draws):
        scores: Scores
        if kind == "shuffled":
            scores = CodeScores(a[rng.permutation(a.shape[0])], b, absolute)
        else:
            scores = CosineScores(random_like(a, rng, kind), b, absolute)
        found = assign(scores, **how)
        mcc.append(found.scores.mean())
        mmcs_a.append(found.best_of_row.mean())
        mmcs_b.append(found.best_of_column.mean())
        all_scores.append(found.scores)
    return Chance(kind, Level.of(mcc), Level.of(mmcs_a), Level.of(mmcs_b), np.stack(all_scores))
