"""`feature_circuit`: which SAE features carry a difference between pairs of prompts, and which make which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae._arguments import one_of, real, whole
from sparse_sae.circuits.dictionaries import DictionarySet
from sparse_sae.circuits.effects import METHODS, Effects, Method, effects
from sparse_sae.circuits.nodes import Node, edges_of, least_of, nodes_of
from sparse_sae.circuits.pairs import Batch, Pair, Passes, batches_of, in_order
from sparse_sae.circuits.unit_faithfulness import (
    Curve,
    ErrorPolicy,
    Mask,
    Reference,
    curve,
    faithfulness,
    many,
    matched,
)
from sparse_sae.circuits.units import Kind, Units, units_of
from sparse_sae.sae import SAE


@dataclass
class FeatureCircuit:
    """Nodes and edges of a feature circuit, with the model and pairs at hand to measure it.

    Attributes:
        kind: what the units are: "features", "neurons" or "random".
        method: how effects were estimated.
        hooks: hook points from first to last.
        nodes: those with |effect| ≥ node_threshold, hook by hook. effect: mean over pairs of m with the node as in the
            patch prompt minus m; negative where the node supports the right answer.
        edges: (n, n) CSR, row = target, column = source, of neighbouring hook points: what the source's change adds
            to m through the target, other nodes in between held; those with |edge| ≥ edge_threshold, none if that
            is None.
        effects: of every unit and error at every hook point.
        value, patched: mean m of the clean prompts, and of the patch prompts by the same answers.
    """

    kind: Kind
    method: Method
    hooks: list[str]
    nodes: list[Node]
    edges: csr_array
    effects: list[Effects]
    value: float
    patched: float
    node_threshold: float
    edge_threshold: float | None
    _passes: Passes = field(repr=False)
    _units: list[Units] = field(repr=False)
    _batches: list[Batch] = field(repr=False)
    _model: Any = field(repr=False)

    def __str__(self) -> str:
        per = ", ".join(f"{h}: {sum(n.hook == h for n in self.nodes)}" for h in self.hooks)
        return (
            f"<FeatureCircuit of {self.kind} by {self.method}: {len(self.nodes)} nodes ({per}), {self.edges.nnz} "
            f"edges; m {self.value:.3f}, patched {self.patched:.3f}>"
        )

    def masks(self) -> list[Mask]:
        """The circuit's nodes at every hook point, as booleans."""
        return [
            Mask(np.abs(e.units) >= self.node_threshold, np.abs(e.errors) >= self.node_threshold)
            for e in self.effects
        ]

    def faithfulness(
        self,
        pairs: Sequence[Pair] | None = None,
        *,
        errors: ErrorPolicy = "default",
        reference: Reference = "patch",
    ) -> float:
        """F(C) = (m(C) - m(∅)) / (m(M) - m(∅)) over pairs, by default those the circuit was found on.

        Args:
            pairs: others, held out; of the same length where positions are separate.
            errors: "default": error nodes are nodes, kept where they are in the circuit. "keep": all errors are kept.
                "remove": all errors are taken out, also where nothing else is.
            reference: what nodes outside are set to: "patch", their value in the patch prompt; "zero".
        """
        return faithfulness(self._passes, self._units, self._over(pairs), self.masks(), errors, reference)

    def completeness(
        self,
        pairs: Sequence[Pair] | None = None,
        *,
        errors: ErrorPolicy = "default",
        reference: Reference = "patch",
    ) -> float:
        """F(M∖C): of everything but the circuit; low where nothing that matters was left out."""
        rest = [Mask(~m.units, ~m.errors) for m in self.masks()]
        return faithfulness(self._passes, self._units, self._over(pairs), rest, errors, reference)

    def random(
        self,
        pairs: Sequence[Pair] | None = None,
        *,
        n_random: int = 20,
        seed: int = 0,
        errors: ErrorPolicy = "default",
        reference: Reference = "patch",
    ) -> NDArray[np.float64]:
        """(n_random,) F of random circuits to hold the circuit's against.

        Each has as many units as the circuit at every hook point and position, drawn from all that have an effect
        there, and the circuit's own error nodes: what they reach is chance.

        Args:
            pairs: as of `faithfulness`.
            n_random: how many; 20 is the least that can show p < .05.
            seed: of the draws.
            errors, reference: as of `faithfulness`.
        """
        rng = np.random.default_rng(seed)
        count = whole("n_random", n_random, 1)
        drawn = [
            [matched(mask, e, rng) for mask, e in zip(self.masks(), self.effects, strict=True)]
            for _ in range(count)
        ]
        return np.array(many(self._passes, self._units, self._over(pairs), drawn, errors, reference))

    def curve(
        self,
        pairs: Sequence[Pair] | None = None,
        *,
        errors: ErrorPolicy = "default",
        reference: Reference = "patch",
        sizes: Sequence[int] | None = None,
    ) -> Curve:
        """Faithfulness and completeness of circuits of growing size, the nodes of largest |effect| first.

        Args:
            pairs, errors, reference: as of `faithfulness`.
            sizes: numbers of nodes; None: MIB's fractions of all nodes with an effect, over which `cpr` and `cmd`
                are defined.
        """
        return curve(self._passes, self._units, self._over(pairs), self.effects, errors, reference, sizes)

    def _over(self, pairs: Sequence[Pair] | None) -> list[Batch]:
        if pairs is None:
            return self._batches
        batches = batches_of(self._model, pairs, max(map(len, self._batches)))
        _one_length(batches, len(self.effects[0].errors))
        return batches


def feature_circuit(
    model: Any,
    dictionaries: DictionarySet | Mapping[Any, SAE],
    pairs: Sequence[Pair],
    *,
    method: Method = "attribution",
    units: Kind = "features",
    positions: Literal["separate", "summed"] = "separate",
    node_threshold: float = 0.1,
    edge_threshold: float | None = 0.01,
    max_nodes: int | None = None,
    steps: int = 10,
    batch_size: int = 8,
    seed: int = 0,
    any_name: bool = False,
) -> FeatureCircuit:
    """The feature circuit of a difference between pairs of prompts (Marks et al. 2024, "Sparse Feature Circuits").

    Works on every family that has hook points, for SAEs at any of them; edges join neighbouring hook points of the
    residual stream, through which everything passes. The first position is no node.

    Args:
        model: a `LanguageModel` or a transformers model.
        dictionaries: SAEs, `{hook: sae}`.
        pairs: what is asked; m = logit(right) - logit(wrong).
        method: "attribution" (one backward pass a batch), "integrated" (`steps` a hook point), "exact" (a forward
            pass for each active unit at each position).
        units: "features"; "neurons" or "random" (orthonormal directions) of the same hook points, as baselines.
        positions: "separate" for prompts of one template and length; "summed" over positions else.
        node_threshold, edge_threshold: least |effect|, in units of m; with an edge_threshold of None no edges are
            computed, which take a backward pass for each node and pair.
        max_nodes: no more nodes than that, those of largest |effect|: raises node_threshold where need be.
        steps: of "integrated". batch_size: pairs in one pass. seed: of random directions.
        any_name: accept dictionaries made for a model of another name.

    Raises:
        ValueError: pairs or dictionaries that do not fit, no node above the threshold; the message says what to do.

    >>> circuit = feature_circuit(model, saes, pairs, node_threshold=0.05)  # doctest: +SKIP
    >>> circuit.faithfulness(held_out), circuit.curve(held_out).cpr  # doctest: +SKIP
    """
    for name, given, known in (("method", method, METHODS), ("positions", positions, ("separate", "summed"))):
        one_of(name, given, known)
    node_threshold = real("node_threshold", node_threshold, above=0)
    if edge_threshold is not None:
        edge_threshold = real("edge_threshold", edge_threshold, above=0)
    if max_nodes is not None:
        whole("max_nodes", max_nodes, 1)
    steps, batch_size = whole("steps", steps, 1), whole("batch_size", batch_size, 1)
    if not isinstance(dictionaries, DictionarySet):
        dictionaries = DictionarySet(dictionaries, model_name=str(getattr(model, "name", "model")))
    dictionaries.check(model, any_name=any_name)
    batches = batches_of(model, pairs, batch_size)
    separate = positions == "separate"
    if separate:
        _one_length(batches, int(batches[0].clean.shape[1]))
    hooks = in_order(model, list(dictionaries))
    cut = units_of(dictionaries, units, hooks, seed)
    passes = Passes(model, hooks)
    found = effects(passes, cut, batches, method, steps, separate)
    if max_nodes is not None:
        node_threshold = max(node_threshold, least_of(found, max_nodes))
    nodes = nodes_of(cut, found, node_threshold, separate)
    value, patched = (
        float(np.concatenate([passes.values(getattr(b, side), b, {}) for b in batches]).mean())
        for side in ("clean", "patch")
    )
    edges = csr_array((len(nodes), len(nodes)))
    if edge_threshold is not None:
        edges = edges_of(passes, cut, batches, nodes, edge_threshold, separate)
    return FeatureCircuit(
        units,
        method,
        hooks,
        nodes,
        edges,
        found,
        value,
        patched,
        node_threshold,
        edge_threshold,
        passes,
        cut,
        batches,
        model,
    )


def _one_length(batches: Sequence[Batch], length: int) -> None:
    lengths = sorted({int(b.clean.shape[1]) for b in batches})
    if length > 1 and lengths != [length]:
        raise ValueError(
            f"pairs: prompts of {', '.join(map(str, lengths))} tokens, expected {length} for all, because positions "
            "are separate; use one template, or positions='summed'"
        )
