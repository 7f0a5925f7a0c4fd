"""`confirm`: what a graph predicts, held against what happens when its sources are taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_sae._arguments import whole

if TYPE_CHECKING:
    from sparse_sae.circuits.graph import AttributionGraph

FROZEN_CORRELATION, MODEL_CORRELATION, CHANCE = 0.99, 0.5, 0.05


@dataclass(frozen=True)
class Ablations:
    """Predicted and measured falls of what was read when a source was taken out.

    Attributes:
        target, source: nodes of the graph; -1 where the target is the weighted sum of all targets.
        predicted: (n,) by the graph. measured: (n,) by a forward pass without the source.
    """

    target: NDArray[np.int64]
    source: NDArray[np.int64]
    predicted: NDArray[np.float64]
    measured: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.predicted)

    @property
    def correlation(self) -> float:
        """Pearson's r; NaN for fewer than three pairs or where one side is constant."""
        if len(self) < 3 or np.ptp(self.predicted) == 0 or np.ptp(self.measured) == 0:
            return float("nan")
        return float(np.corrcoef(self.predicted, self.measured)[0, 1])

    @property
    def sign_agreement(self) -> float:
        """Share of pairs with the same sign; NaN for none."""
        if not len(self):
            return float("nan")
        return float((np.sign(self.predicted) == np.sign(self.measured)).mean())

    def __str__(self) -> str:
        return f"r {self.correlation:.2f}, same sign {self.sign_agreement:.0%}"


@dataclass(frozen=True)
class Paraphrase:
    """The same question asked on another prompt: its own graph, its own circuit of the same size.

    Attributes:
        prompt: the text or tokens. value: of the targets, weighted. faithfulness: of its circuit.
        edges, nodes: correlations, as in `Confirmation`.
        overlap: share of the circuit's latents (layer, latent) that are in the first prompt's circuit.
    """

    prompt: str | tuple[int, ...]
    value: float
    faithfulness: float
    edges: float
    nodes: float
    overlap: float


@dataclass(frozen=True)
class Confirmation:
    """What was measured on a graph. Faithfulness is F(C) = (m(C) - m(∅)) / (m(M) - m(∅)), Marks et al. 2024.

    m is the targets' values, weighted as in the graph's influence. In m(C) the transcoders stand in for the MLPs,
    only the features of C are let through, each computed from what its layer then reads, under live attention and
    norms; features outside are zero; errors (and MLPs of layers without transcoder) are kept as they were. M is the
    model, ∅ no feature.

    Attributes:
        frozen: top edges in the frozen model (patterns, norms, features held).
        attention: the same edges with patterns and norms computed again.
        nodes: top features and errors in the model itself; predicted by all paths of the graph, measured on m.
        circuit: nodes of the graph that are in C.
        sizes, curve: circuits of the most influential features, by how many, and their faithfulness.
        random: (n_random,) faithfulness of random circuits with as many features in every layer as C.
        faithfulness: of C.
        patterns_held: of C with attention patterns and norms held, in m(∅) as well. Where it is much higher, C lacks
            the features that make its heads attend; `qk_attribution` finds them.
        without_errors: of C where errors are removed too, in m(∅) as well.
        completeness: F(M∖C), of all features but C; lower is better.
        value, empty: m(M) and m(∅).
        paraphrases: other prompts.
    """

    frozen: Ablations
    attention: Ablations
    nodes: Ablations
    circuit: NDArray[np.int64]
    sizes: list[int]
    curve: list[float]
    random: NDArray[np.float64]
    faithfulness: float
    patterns_held: float
    without_errors: float
    completeness: float
    value: float
    empty: float
    paraphrases: list[Paraphrase]

    @property
    def p_random(self) -> float:
        """How often a random circuit is as close to 1 as C, 1 / (n_random + 1) at least; NaN without any, or F."""
        if not len(self.random) or not np.isfinite(self.faithfulness):
            return float("nan")
        closer = np.abs(1 - self.random) <= abs(1 - self.faithfulness)
        return float((1 + closer.sum()) / (1 + len(self.random)))

    @property
    def spread(self) -> tuple[float, float]:
        """Mean and standard deviation of faithfulness over the prompt and its paraphrases."""
        all_ = [self.faithfulness, *(p.faithfulness for p in self.paraphrases)]
        return float(np.mean(all_)), float(np.std(all_))

    @property
    def failed(self) -> list[str]:
        """Which of the three tests are not passed; NaN does not pass.

        Edges in the frozen model r ≥ .99; nodes in the model r ≥ .5; fewer than 5 % of random circuits as faithful.
        """
        tests = {
            "edges do not predict the frozen model": self.frozen.correlation >= FROZEN_CORRELATION,
            "nodes do not predict the model": self.nodes.correlation >= MODEL_CORRELATION,
            "not shown to be more faithful than random circuits": self.p_random < CHANCE,
        }
        return [name for name, passed in tests.items() if not passed]

    @property
    def verdict(self) -> str:
        """One line with the numbers."""
        failed = self.failed
        spread = ""
        if self.paraphrases:
            mean, deviation = self.spread
            spread = f"; over {1 + len(self.paraphrases)} prompts {mean:.2f} ± {deviation:.2f}"
        random = f"{self.random.mean():.2f}" if len(self.random) else "none drawn"
        return (
            f"{'not confirmed (' + '; '.join(failed) + ')' if failed else 'confirmed'}: "
            f"{len(self.frozen)} edges ablated in the frozen model {self.frozen}, under live attention "
            f"{self.attention}; {len(self.nodes)} nodes ablated in the model {self.nodes}; circuit of "
            f"{len(self.circuit)} features, errors kept: faithfulness {self.faithfulness:.2f} "
            f"({self.patterns_held:.2f} with patterns held), random of equal size "
            f"{random} (p {self.p_random:.3f}), completeness {self.completeness:.2f}{spread}"
        )

    def __str__(self) -> str:
        return self.verdict


def confirm(
    graph: AttributionGraph,
    *,
    n_edges: int = 64,
    n_nodes: int = 32,
    n_random: int = 20,
    size: int | None = None,
    circuit: Sequence[int] | None = None,
    paraphrases: Sequence[str | Sequence[int]] = (),
    seed: int = 0,
) -> Confirmation:
    """Ablate what a graph says matters, and measure what changes.

    Args:
        graph: of `attribute`, whole or pruned.
        n_edges: edges ablated one by one, those of largest influence; from any source to features and targets.
        n_nodes: features and errors ablated one by one in the model, those of largest influence.
        n_random: random circuits beside the circuit; 20 is the least that can show p < .05.
        size: features in the circuit, most influential first; None for all of a pruned graph, and for those that
            `prune()` keeps of a whole one.
        circuit: instead of `size`, the feature nodes of the circuit by number.
        paraphrases: prompts on which the same targets are asked; each gets a graph, a circuit of the same size
            and the same measurements.
        seed: of the random circuits.

    Raises:
        ValueError: a graph read from a file, one without features or edges, numbers out of range.

    >>> graph = attribute(model, transcoders, "The capital of France is")  # doctest: +SKIP
    >>> graph.confirm(paraphrases=["France's capital is called"]).faithfulness  # doctest: +SKIP
    0.81
    """
    from sparse_sae.circuits.measuring import measure

    numbers: dict[str, Any] = {
        "n_edges": whole("n_edges", n_edges, 1),
        "n_nodes": whole("n_nodes", n_nodes, 1),
        "n_random": whole("n_random", n_random, 0),
        "seed": whole("seed", seed, 0),
        "circuit": _nodes(graph, circuit),
        "size": None if size is None else whole("size", size, 1),
    }
    if size is not None and circuit is not None:
        raise ValueError("size, circuit: both given; a circuit has the size that it has")
    if isinstance(paraphrases, str):
        raise TypeError("paraphrases: got one text, expected a list of them")
    return measure(graph, paraphrases, **numbers)


def _nodes(graph: AttributionGraph, circuit: Sequence[int] | None) -> NDArray[np.int64] | None:
    if circuit is None:
        return None
    nodes = np.unique([whole("circuit", int(node), 0, len(graph) - 1) for node in circuit])
    if not len(nodes) or (graph.kind[nodes] != 2).any():
        raise ValueError(
            "circuit: expected numbers of features, one or more; errors are kept in every circuit, tokens too"
        )
    return nodes.astype(np.int64)
