"""When features fire: each with its own probability, some together, children only under their parents.

Drawing n x F coin tosses would cost more than training on the result, since of 16,384 features some 30 fire.
So only candidates are drawn, and each is then kept or not with exactly the probability that makes the outcome
what the tosses would have given:

- Features fire together through a Gaussian copula of low rank: feature i fires in a sample with factors g ~
N(0, I) if
  c_i . g + s_i e > t_i, where e is its own noise, |c_i|^2 + s_i^2 = 1 and t_i its threshold. Given g,
  features are independent with probability p_i(g) = Phi((c_i . g - t_i) / s_i).
- Where c_i . g is at most `HIGH` of its standard deviations, p_i(g) is at most some q_i. Candidates are drawn
at rate q_i (Poisson counts at
  random cells, repeats merged, hit each cell independently with probability q_i) and kept with probability
  p_i(g) / q_i. The few cells with a higher c_i . g are tossed one by one.
- Children are tossed only where their parent fired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Firing", "Hierarchy", "zipf"]

Ints = NDArray[np.int64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
HIGH = 2.3
CELLS = 1 << 18  # pulls of samples by features that are made at once: they stay in the cache


def zipf(n: int, exponent: float = 1.0, maximum: float = 0.3, minimum: float = 0.01) -> F64:
    """Firing probabilities that fall like rank^-exponent, shifted and scaled to go from maximum to minimum.

    >>> zipf(3, 1.0, 0.4, 0.1).round(3).tolist()
    [0.4, 0.175, 0.1]
    """
    if n < 1 or not 0 < minimum <= maximum <= 1 or not exponent > 0:
        raise ValueError(
            "zipf needs n >= 1, exponent > 0 and 0 < minimum <= maximum <= 1; "
            f"got {n=}, {exponent=}, {maximum=}, {minimum=}"
        )
    falling = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    if n == 1:
        return np.array([maximum])
    return np.asarray(minimum + (maximum - minimum) * (falling - falling[-1]) / (1 - falling[-1]))


@dataclass(frozen=True)
class Hierarchy:
    """Trees of features: a child fires only in samples where its parent does.

    Features 0..roots-1 are roots; the next ones are their children, parent by parent, and so on level by
    level. Features that are left belong to no tree.

    Args:
        roots: trees. branching: children of every node down to the last level. depth: levels below the roots.
        exclusive: share of the parents, drawn at random, of whose children at most one fires in a sample (if
            several would, one of them stays, each with equal chance).
        compensate: raise the children's own probabilities so that, after parents and siblings had their say,
            they fire about as often as asked. Where that would take a probability above 1 it stays at 1, and
            the feature fires less often.
        scale_by_parent: multiply a child's magnitude by its parent's magnitude over the parent's mean
            magnitude.
    """

    roots: int
    branching: int
    depth: int
    exclusive: float = 0.0
    compensate: bool = False
    scale_by_parent: bool = False

    def __post_init__(self) -> None:
        if self.roots < 1 or self.branching < 1 or self.depth < 1 or not 0 <= self.exclusive <= 1:
            raise ValueError(
                f"a hierarchy needs roots, branching, depth >= 1 and exclusive in [0, 1]; got {self}"
            )

    def parents(self, n_features: int) -> Ints:
        """(n_features,) the parent of each feature, -1 for roots and for features outside the trees."""
        parent = np.full(n_features, -1, np.int64)
        level, following = np.arange(min(self.roots, n_features)), self.roots
        for _ in range(self.depth):
            children = np.repeat(level, self.branching)[: max(0, n_features - following)]
            parent[following : following + len(children)] = children
            level = np.arange(following, following + len(children))
            following += len(children)
        return parent


class Firing:
    """Draws which features fire, and how strongly.

    Args:
        probability: (F,) wanted firing probabilities.
        mean, std: (F,) of the magnitudes N(mean, std^2); what comes out negative or zero does not fire.
        factors: (F, rank) the copula's c_i, or None for features that know nothing of each other.
        hierarchy: trees, or None.
        rng: draws which parents have exclusive children.
    """

    def __init__(
        self,
        probability: F64,
        mean: F64,
        std: F64,
        factors: F32 | None,
        hierarchy: Hierarchy | None,
        rng: np.random.Generator,
    ) -> None:
        from scipy.special import ndtr, ndtri

        n = len(probability)
        self.mean, self.std, self.hierarchy = mean.astype(np.float32), std.astype(np.float32), hierarchy
        self.parent = np.full(n, -1, np.int64) if hierarchy is None else hierarchy.parents(n)
        self.exclusive = np.zeros(n, bool)
        n_children = np.bincount(self.parent[self.parent >= 0], minlength=n)
        if hierarchy is not None:
            able = np.flatnonzero(n_children >= 2)
            self.exclusive[rng.permutation(able)[: int(len(able) * hierarchy.exclusive)]] = True
        self.own_probability = self._compensated(probability)
        # Children of feature i are first_child[i] .. first_child[i] + n_children[i] - 1: parents() numbers
        # them so.
        self.n_children, self.first_child = n_children, np.zeros(n, np.int64)
        below = np.flatnonzero(self.parent >= 0)
        self.first_child[self.parent[below][::-1]] = below[::-1]
        self.factors = np.zeros((n, 1), np.float32) if factors is None else factors
        strength = np.linalg.norm(self.factors, axis=1)
        self.own_noise = np.sqrt(1 - strength**2)
        self.threshold = -ndtri(self.own_probability)
        # Of the features that are tossed everywhere (not below a parent): axes of the factors, and the rate
        # q_i of candidates.
        self.free = np.flatnonzero(self.parent < 0)
        self.free_strength = strength[self.free]
        self.axes = self.factors[self.free] / np.where(self.free_strength > 0, self.free_strength, 1)[:, None]
        rate = ndtr((HIGH * self.free_strength - self.threshold[self.free]) / self.own_noise[self.free])
        # A rate near 1 would take endless Poisson counts to be sure of; those features are candidates everywhere.
        self.listed = np.flatnonzero(rate >= 0.99)
        self.rate = np.where(rate >= 0.99, 0.0, rate)

    def _compensated(self, probability: F64) -> F64:
        if self.hierarchy is None or not self.hierarchy.compensate:
            return probability
        below = self.parent >= 0
        up = self.parent[below]
        families = np.bincount(up, weights=probability[below], minlength=len(probability))
        siblings = (families[up] - probability[below]) / probability[up]
        own = probability.copy()
        own[below] *= (1 + np.where(self.exclusive[up], siblings, 0)) / probability[up]
        capped: F64 = np.minimum(own, 1.0)
        return capped

    def draw(self, n: int, rng: np.random.Generator, num_threads: int) -> tuple[Ints, Ints, F32]:
        """Rows, features and magnitudes of n samples, ordered by row and then feature."""
        g = rng.standard_normal((n, self.factors.shape[1]), dtype=np.float32)
        rows, features = self._free_features(g, rng)
        magnitude = self._magnitude(features, rng)
        fired = magnitude > 0
        rows, features, magnitude = rows[fired], features[fired], magnitude[fired]
        parts = [(rows, features, magnitude)]
        while self.hierarchy is not None and len(rows):
            rows, features, magnitude = self._children(rows, features, magnitude, g, rng, num_threads)
            parts.append((rows, features, magnitude))
        rows, features, magnitude = (np.concatenate([p[i] for p in parts]) for i in range(3))
        order = np.argsort(rows * len(self.parent) + features)
        return rows[order], features[order], magnitude[order]

    def _magnitude(self, features: Ints, rng: np.random.Generator) -> F32:
        noise = rng.standard_normal(len(features), dtype=np.float32)
        return np.asarray(self.mean[features] + self.std[features] * noise)

    def _probability(self, pull: Any, features: Ints) -> Any:
        """Of firing, given the pull c_i . g of the factors."""
        from scipy.special import ndtr

        return ndtr((pull - self.threshold[features]) / self.own_noise[features])

    def _free_features(self, g: F32, rng: np.random.Generator) -> tuple[Ints, Ints]:
        n, f = len(g), len(self.free)
        column = np.repeat(np.arange(f), rng.poisson(-np.log1p(-self.rate) * n))
        cells = np.sort(rng.integers(0, n, len(column)) * f + column)
        cells = cells[np.append(True, np.diff(cells) != 0)[: len(cells)]]
        listed = (np.arange(n)[:, None] * f + self.listed).ravel()
        low: list[tuple[Ints, F32]] = []
        high: list[tuple[Ints, F32]] = []
        always: list[tuple[Ints, F32]] = []
        size = max(64, CELLS // max(f, 1))
        for start in range(0, n, size):
            along = (g[start : start + size] @ self.axes.T).ravel()
            first, end = start * f, start * f + len(along)
            for found, of in ((low, cells), (always, listed)):
                at = of[slice(*np.searchsorted(of, (first, end)))]
                pull = along[at - first]
                found.append((at[pull <= HIGH], pull[pull <= HIGH]))
            at = np.flatnonzero(along > HIGH)
            high.append((at + first, along[at]))
        cells, pull = (np.concatenate([part[i] for part in (*low, *always, *high)]) for i in range(2))
        n_low = sum(len(part[0]) for part in low)
        rows = cells // f
        columns = cells - rows * f
        drawn_at = np.ones(len(cells))
        drawn_at[:n_low] = self.rate[columns[:n_low]]
        p = self._probability(self.free_strength[columns] * pull, self.free[columns])
        kept = rng.random(len(cells)) * drawn_at < p
        return rows[kept], self.free[columns[kept]]

    def _children(
        self,
        rows: Ints,
        parents: Ints,
        parent_magnitude: F32,
        g: F32,
        rng: np.random.Generator,
        num_threads: int,
    ) -> tuple[Ints, Ints, F32]:
        from sparse_sae import _kernels

        counts = self.n_children[parents]
        family = np.repeat(np.arange(len(parents)), counts)
        ends = np.cumsum(counts)
        children = np.arange(len(family)) + np.repeat(self.first_child[parents] - ends + counts, counts)
        pull = _kernels.code_grad(
            np.append(0, ends).astype(np.int32),
            children.astype(np.int32),
            g[rows],
            self.factors,
            num_threads=num_threads,
        )
        tossed = rng.random(len(family)) < self._probability(pull, children)
        family, children = family[tossed], children[tossed]
        magnitude = self._magnitude(children, rng)
        if self.hierarchy is not None and self.hierarchy.scale_by_parent:
            magnitude *= parent_magnitude[family] / self.mean[parents[family]]
        fired = magnitude > 0
        family, children, magnitude = family[fired], children[fired], magnitude[fired]
        # Of exclusive siblings the one with the highest lot stays.
        lots = (rng.random(len(family)) * 2**32).astype(np.int64)
        order = np.argsort(family * 2**32 + lots)  # by family, then lot: one key sorts faster than two
        last = np.append(family[order][1:] != family[order][:-1], True) if len(order) else np.zeros(0, bool)
        stays = order[last | ~self.exclusive[parents[family[order]]]]
        return rows[family[stays]], children[stays], magnitude[stays]
