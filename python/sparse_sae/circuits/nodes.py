"""Nodes of a feature circuit, and the edges between them: the units whose effect is large enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import csr_array

from sparse_sae.circuits.effects import Effects
from sparse_sae.circuits.pairs import Batch, Passes
from sparse_sae.circuits.unit_edges import edges_between
from sparse_sae.circuits.units import Units


@dataclass(frozen=True)
class Node:
    """A unit, or the error, of a hook point. position: -1 where positions are summed. latent: -1 for the error."""

    hook: str
    position: int
    latent: int
    effect: float

    def __str__(self) -> str:
        what = "error" if self.latent < 0 else str(self.latent)
        return f"{self.hook}/{what}" + ("" if self.position < 0 else f" at {self.position}")


def least_of(found: Sequence[Effects], count: int) -> float:
    """The least |effect| of the `count` largest."""
    every = np.concatenate([np.abs(x).ravel() for e in found for x in (e.units, e.errors)])
    return float(-np.partition(-every, count - 1)[count - 1]) if count <= len(every) else 0.0


def nodes_of(units: Sequence[Units], found: Sequence[Effects], least: float, separate: bool) -> list[Node]:
    """Units and errors with |effect| of at least `least`, hook by hook.

    Raises:
        ValueError: there is none.
    """
    nodes = []
    for u, e in zip(units, found, strict=True):
        for kind, values in (("unit", e.units), ("error", e.errors[:, None])):
            for p, j in np.argwhere(np.abs(values) >= least):
                latent = int(j) if kind == "unit" else -1
                nodes.append(Node(u.hook, int(p) if separate else -1, latent, float(values[p, j])))
    if not nodes:
        largest = max(float(max(np.abs(e.units).max(), np.abs(e.errors).max())) for e in found)
        raise ValueError(
            f"node_threshold: no node has an effect of {least:g} or more, the largest is {largest:.3g}; lower it, or "
            "check that the model prefers the right answer"
        )
    return nodes


def edges_of(
    passes: Passes,
    units: Sequence[Units],
    batches: Sequence[Batch],
    nodes: Sequence[Node],
    least: float,
    separate: bool,
) -> csr_array:
    """(n, n), row = target, column = source: edges of at least `least` between nodes of neighbouring hook points."""
    matrix = np.zeros((len(nodes), len(nodes)))
    numbers = {u.hook: [i for i, n in enumerate(nodes) if n.hook == u.hook] for u in units}
    for below, above in pairwise(units):
        rows, columns = numbers[above.hook], numbers[below.hook]
        if rows and columns:
            targets, sources = (
                [(nodes[i].position, nodes[i].latent) for i in which] for which in (rows, columns)
            )
            found = edges_between(passes, below, above, batches, targets, sources, separate)
            matrix[np.ix_(rows, columns)] = found
    matrix[np.abs(matrix) < least] = 0
    return csr_array(matrix)
