"""Which latent of one dictionary is which latent of another, or which true feature; and whether that beats
chance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from sparse_sae.match.assignment import Ints, Method, assign
from sparse_sae.match.chance import Chance, ChanceKind, chance_level
from sparse_sae.match.scores import CodeScores, CosineScores, Scores, directions

__all__ = ["Matching", "match"]


@dataclass(frozen=True)
class Matching:
    """The optimal one-to-one assignment of the latents of `a` to those of `b`, with its chance level.

    Attributes:
        pairs: (p, 2) indices into a and into b, in the order of a; p is the smaller of the two sizes.
        scores: (p,) what was maximised: the cosine of each pair's directions, or the correlation of its
            codes.
        cosines: (p,) cosine of each pair, whatever was maximised; None if only codes were given.
        unmatched_a, unmatched_b: indices left over, at least one of them empty.
        best_a, best_b: (n_a,), (n_b,) the best score of every latent with any partner, one-to-one or not.
        gap: no assignment whatever has a mean score above `mcc + gap`; 0 from the exact solver.
        chance: `Chance` by kind ("random" and "matched" directions, or "shuffled" codes); empty if chance=0
            was asked for.
    """

    pairs: NDArray[np.intp]
    scores: NDArray[np.float32]
    cosines: NDArray[np.float32] | None
    unmatched_a: Ints
    unmatched_b: Ints
    best_a: NDArray[np.float32]
    best_b: NDArray[np.float32]
    gap: float
    chance: dict[str, Chance]

    @cached_property
    def mcc(self) -> float:
        """Mean score of the matched pairs: the mean correlation coefficient of Song et al. 2025 (arXiv
        2505.20254)."""
        return float(self.scores.mean())

    @cached_property
    def mmcs_a(self) -> float:
        """Mean over the latents of a of their best score in b (mean max cosine similarity; one b may serve
        many)."""
        return float(self.best_a.mean())

    @cached_property
    def mmcs_b(self) -> float:
        """Mean over the latents of b of their best score in a: with truth as b, the MMCS of Sharkey et al.
        2022."""
        return float(self.best_b.mean())

    def above(self, threshold: float) -> int:
        """How many pairs score above a threshold."""
        return int((self.scores > threshold).sum())

    @property
    def corrected(self) -> float:
        """(mcc - chance) / (1 - chance) against the highest chance level: 0 at chance, 1 for identical
        dictionaries."""
        if not self.chance:
            raise ValueError("no chance level was computed: call match(...) without chance=0")
        return min(level.mcc.correct(self.mcc) for level in self.chance.values())

    def summary(self) -> dict[str, Any]:
        """Every measure with its chance levels and corrected scores, as numbers that json can write."""
        out: dict[str, Any] = {"pairs": len(self.pairs), "gap": self.gap}
        for name in ("mcc", "mmcs_a", "mmcs_b"):
            score = getattr(self, name)
            out[name] = {"score": score}
            for kind, chance in self.chance.items():
                level = getattr(chance, name)
                out[name][kind] = {**vars(level), "corrected": level.correct(score)}
        for threshold in (0.9, 0.95):
            counts = {kind: chance.above(threshold).mean for kind, chance in self.chance.items()}
            out[f"above_{threshold}"] = {"count": self.above(threshold), **counts}
        return out

    def __str__(self) -> str:
        lines = [f"{len(self.pairs)} pairs    score   chance       mean  [95 % interval]  corrected"]
        for name in ("mcc", "mmcs_a", "mmcs_b"):
            lead = f"{name:10} {getattr(self, name):7.3f}"
            for chance in self.chance.values():
                level = getattr(chance, name)
                lines.append(
                    f"{lead}   {chance.kind:9} {level.mean:7.3f}  [{level.low:.3f}, {level.high:.3f}]"
                    f"  {level.correct(getattr(self, name)):9.3f}"
                )
                lead = " " * len(lead)
            if not self.chance:
                lines.append(lead)
        for threshold in (0.9, 0.95):
            by_chance = ", ".join(f"{c.kind} {c.above(threshold).mean:.1f}" for c in self.chance.values())
            lines.append(
                f"above {threshold:<5}{self.above(threshold):7d}"
                + (f"   chance: {by_chance}" if by_chance else "")
            )
        return "\n".join(lines)


def match(
    a: Any,
    b: Any,
    *,
    codes: tuple[csr_array, csr_array] | None = None,
    absolute: bool = False,
    chance: int | None = None,
    seed: int = 0,
    method: Method = "auto",
    candidates: int = 32,
    tolerance: float = 1e-3,
) -> Matching:
    """Assign the latents of `a` to those of `b`, one to one, so that their mean score is the highest
    possible.

    Args:
        a, b: two dictionaries: (n, d) arrays of directions, SAEs (anything with `W_dec`), or a ground truth
            (`features`). Put what was learned in `a` and what it is held against in `b`: chance replaces `a`.
            Both may be None if codes are given.
        codes: (codes_a, codes_b), sparse (n_samples, n_a) and (n_samples, n_b), of the same samples. If
            given, the score is the Pearson correlation of the codes instead of the cosine of the directions.
        absolute: ignore signs. A latent and its negation are then the same.
        chance: random draws for each chance level; None takes 20, or 2 where a single match is already large;
            0 takes none.
        seed: of the random draws.
        method, candidates, tolerance: how to assign. "auto" is exact up to 2**24 scores and sparse beyond,
            where `candidates` columns of each row are kept and `gap` states how far from the optimum the
            answer can be (`tolerance` is what it aims for).

    Raises:
        TypeError, ValueError: for anything that is not directions or codes, or whose sizes disagree.

    >>> truth = np.eye(4, 8)
    >>> m = match(truth[[2, 0, 1]], truth)
    >>> m.pairs.tolist(), m.mcc, m.unmatched_b.tolist()
    ([[0, 2], [1, 0], [2, 1]], 1.0, [3])
    >>> m.chance["random"].mcc.mean < 0.7
    True
    """
    how = {"method": method, "candidates": candidates, "tolerance": tolerance}
    rows_a, rows_b = (None if x is None else directions(x, name) for x, name in ((a, "a"), (b, "b")))
    if (rows_a is None) != (rows_b is None):
        raise ValueError("a and b must both be given, or both be None with codes=(codes_a, codes_b)")
    if rows_a is not None and rows_b is not None and rows_a.shape[1] != rows_b.shape[1]:
        raise ValueError(
            f"a and b live in different spaces: d is {rows_a.shape[1]} in a and {rows_b.shape[1]} in b"
        )
    cosines = None if rows_a is None or rows_b is None else CosineScores(rows_a, rows_b, absolute)
    scores: Scores
    left: Any
    right: Any
    kinds: list[ChanceKind]
    if codes is not None:
        left, right = _checked_codes(codes, rows_a, rows_b)
        scores, kinds = CodeScores(left, right, absolute), ["shuffled"]
    elif cosines is not None:
        left, right, scores, kinds = rows_a, rows_b, cosines, ["random", "matched"]
    else:
        raise ValueError("nothing to match: give a and b, or codes=(codes_a, codes_b)")
    if chance is None:
        chance = 20 if scores.shape[0] * scores.shape[1] <= 1 << 20 else 2
    found = assign(scores, **how)  # type: ignore[arg-type]
    levels: dict[str, Chance] = {}
    if chance:
        levels = {k: chance_level(left, right, k, chance, absolute, seed, **how) for k in kinds}
    return Matching(
        pairs=np.column_stack([found.rows, found.columns]),
        scores=found.scores,
        cosines=None if cosines is None else cosines.at(found.rows, found.columns),
        unmatched_a=np.setdiff1d(np.arange(scores.shape[0]), found.rows),
        unmatched_b=np.setdiff1d(np.arange(scores.shape[1]), found.columns),
        best_a=found.best_of_row,
        best_b=found.best_of_column,
        gap=max(0.0, found.bound / len(found.rows) - float(found.scores.mean(dtype=np.float64))),
        chance=levels,
    )


def _checked_codes(codes: Any, rows_a: Any, rows_b: Any) -> tuple[csr_array, csr_array]:
    if not (isinstance(codes, tuple) and len(codes) == 2 and all(issparse(c) for c in codes)):
        raise TypeError(
            f"codes: got {type(codes).__name__}, expected a pair of sparse matrices (codes_a, codes_b), each of shape "
            "(n_samples, n_latents)"
        )
    left, right = (csr_array(c) for c in codes)
    if left.shape[0] != right.shape[0] or left.shape[0] < 2:
        raise ValueError(
            f"codes must share at least two samples; got {left.shape[0]} and {right.shape[0]} rows"
        )
    for name, rows, c in (("a", rows_a, left), ("b", rows_b, right)):
        if rows is not None and len(rows) != c.shape[1]:
            raise ValueError(f"{name} has {len(rows)} directions but its codes have {c.shape[1]} columns")
    return left, right
