"""Where a graph came from: what is needed to run the model again on its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae.circuits.ablation import Reader, reader_of
from sparse_sae.circuits.frozen import Frozen
from sparse_sae.circuits.graph import ERROR, FEATURE, TOKEN
from sparse_sae.circuits.targets import Asked, Target


@dataclass(frozen=True)
class Origin:
    """The frozen model of a graph, and which of its sources and targets the nodes are.

    Attributes:
        frozen: the model frozen on the prompt. asked: the targets, ready. targets: as they were given.
        tokenizer: the model's, or None. limits: how many rows and edges the graph was allowed.
        edges: (m, m) of the whole graph, sources first and then targets.
        index: (n,) numbers in the whole graph of the nodes of this one, which may be a part of it.
    """

    frozen: Frozen
    asked: list[Asked]
    targets: Sequence[Target] | Target | None
    tokenizer: Any
    limits: dict[str, Any]
    edges: csr_array
    index: NDArray[np.int64]

    @property
    def whole(self) -> bool:
        """Whether the graph has all nodes."""
        return len(self.index) == int(self.edges.shape[0])

    @property
    def weight(self) -> NDArray[np.float64]:
        """(m,) of the whole graph: the targets' weights, 0 elsewhere."""
        return np.concatenate([np.zeros(self.frozen.n_sources), [a.weight for a in self.asked]])

    def part(self, index: NDArray[np.int64]) -> Origin:
        """The origin of a graph of some of this one's nodes."""
        return replace(self, index=self.index[index])

    def reader(self, number: int) -> Reader:
        """What measures a node of the whole graph: a feature or a target."""
        f = self.frozen
        if number >= f.n_sources:
            return reader_of(self.asked[number - f.n_sources])
        i = number - f.first_feature
        if i < 0:
            raise ValueError(
                f"node: number {number} is a token or an error, expected a feature or a target, which have inputs"
            )
        return Reader(int(f.layer[i]), int(f.position[i]), int(f.latent[i]))


def source_kinds(frozen: Frozen) -> NDArray[np.int8]:
    """Kinds of a frozen model's sources, in their order."""
    n, layers = frozen.n_positions, frozen.transformer.n_layers
    return np.repeat([TOKEN, ERROR, FEATURE], [n, layers * n, len(frozen.layer)]).astype(np.int8)


def source_labels(frozen: Frozen, words: Sequence[str]) -> list[str]:
    """What is written on the sources of a prompt of these words."""
    n = frozen.n_positions
    features = zip(*(x.tolist() for x in (frozen.layer, frozen.position, frozen.latent)), strict=True)
    return [
        *words,
        *(f"error of layer {i // n} at {words[i % n]!r}" for i in range(n * frozen.transformer.n_layers)),
        *(f"L{a}/{c} at {words[b]!r}" for a, b, c in features),
    ]
