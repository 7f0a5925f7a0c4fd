"""The circuits of the wired models, and how what is found is held against them."""

from __future__ import annotations

from typing import Any

import numpy as np

import wired_models

SHARE = 0.02  # of a row's absolute sum: what is less is no edge
PROGRAMS: dict[str, tuple[Any, list[list[int]]]] = {
    "fractions": (
        wired_models.fractions,
        [[0, 1, 3, 3, 2], [0, 1, 2, 1, 3, 2, 1], [0, 3, 3, 3], [0, 2, 3, 1, 3, 3, 3]],
    ),
    "counts": (
        wired_models.counts,
        [[0, 1, 2, 1, 1, 3, 2], [0, 1, 1, 1, 1], [0, 3, 2, 1], [0, 2, 2, 3, 3, 3, 2]],
    ),
    "backwards": (
        wired_models.backwards,
        [[0, 1, 2, 3, 4, 5, 1, 1], [0, 4, 2, 2, 1, 5, 1], [0, 4, 2, 3, 1, 5, 1, 2, 3]],
    ),
}


def found_edges(graph: Any) -> set[Any]:
    """Edges as `wired_models` names them."""

    def name(node: int) -> Any:
        kind, layer, latent, position = (
            int(x[node]) for x in (graph.kind, graph.layer, graph.latent, graph.position)
        )
        if kind == 3:
            return "target"
        return [("token", position), ("error", layer, position), ("feature", layer, latent, position)][kind]

    shares = graph.normalised().tocoo()
    rows, columns = shares.coords
    return {
        (name(int(t)), name(int(s))) for t, s, x in zip(rows, columns, shares.data, strict=True) if x > SHARE
    }


def f1(found: set[Any], true: set[Any]) -> float:
    """2 |found and true| / (|found| + |true|)."""
    return 2 * len(found & true) / (len(found) + len(true))


def repeated(seed: int) -> tuple[list[int], int, int]:
    """BOS, letters, and some of them again: ids, the place to look at, what follows."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 8))
    once = [int(i) for i in rng.permutation(wired_models.N_LETTERS)[:n] + 1]
    again = int(rng.integers(1, n))
    ids = [0, *once, *once[:again]]
    return ids, again + 1, once[again]


def induction_edges(ids: list[int], place: int, answer: int) -> set[Any]:
    """The edges of the wired induction model on a prompt of `repeated`."""
    held = {(("feature", 0, ids[p - 1] - 1, p), ("token", p - 1)) for p in range(2, len(ids))}
    # the second head fetches at every place that repeats a letter
    repeats = range(len(ids) - (place - 1), len(ids))
    said = {(("feature", 1, ids[_where(ids, p)] - 1, p), ("token", _where(ids, p))) for p in repeats}
    return held | said | {("target", ("feature", 1, answer - 1, len(ids) - 1))}


def _where(ids: list[int], p: int) -> int:
    """The place after the earlier one of the same letter."""
    return ids.index(ids[p]) + 1
