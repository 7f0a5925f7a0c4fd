"""An attribution graph: nodes, signed edges as CSR, influence, pruning, and the two scores of a graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae.circuits.influence import (
    csr_rows,
    edges_where,
    influence,
    normalise,
    ordered_influence,
    scores_of,
    spans,
    threshold,
)
from sparse_sae.circuits.memory import give_back

if TYPE_CHECKING:
    from sparse_sae.circuits.confirmation import Confirmation
    from sparse_sae.circuits.origin import Origin

KINDS = ("token", "error", "feature", "target")
TOKEN, ERROR, FEATURE, TARGET = range(4)


@dataclass(eq=False)
class AttributionGraph:
    """Which sources make which features, and the target, on one prompt.

    Nodes are tokens, errors, features and targets, in this order. Edge (t, s) is what source s adds to the
    pre-activation of t in the frozen model; the row of t and its bias add up to that pre-activation.

    Attributes:
        model_name: the model. tokens: the prompt's token ids. words: their texts, or their numbers.
        n_layers: layers of the model.
        kind, layer, position, latent: (n,) of the nodes; -1 where it does not apply. A target that is a token has
            its number for latent, and n_layers for layer.
        activation: (n,) of features; the norm of an error; a target's value.
        weight: (n,) of targets (their probabilities, or 1), 0 elsewhere.
        labels: (n,) texts.
        edges: (n, n) CSR, row = target, column = source. Features whose row was not computed have an empty one.
        bias, rest: (n,) what no source carries; the sum of |edges| of a row beyond `max_edges`.
        expanded: (n,) whether the row was computed.
        heads: (e, n_layers, H) what of a pre-activation came through each head, of the e expanded nodes in their
            order; see `heads_of`.
        missing_layers: layers without a transcoder, whose MLP is an error at every position.
        confirmation: what the last `confirm` measured, else None; it is not saved.
        origin: the frozen model, which `confirm` runs; None in a graph read from a file.
    """

    model_name: str
    tokens: list[int]
    words: list[str]
    n_layers: int
    kind: NDArray[np.int8]
    layer: NDArray[np.int32]
    position: NDArray[np.int32]
    latent: NDArray[np.int64]
    activation: NDArray[np.float64]
    weight: NDArray[np.float64]
    labels: list[str]
    edges: csr_array
    bias: NDArray[np.float64]
    rest: NDArray[np.float64]
    expanded: NDArray[np.bool_]
    heads: NDArray[np.float32]
    missing_layers: list[int]
    confirmation: Confirmation | None = field(default=None, repr=False)
    origin: Origin | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.kind)

    def __str__(self) -> str:
        counts = ", ".join(f"{int((self.kind == i).sum())} {name}s" for i, name in enumerate(KINDS))
        scores = f"replacement {self.replacement:.3f}, completeness {self.completeness:.3f}"
        lacking = f"; no transcoder in layers {self.missing_layers}" if self.missing_layers else ""
        verdict = self.confirmation.verdict if self.confirmation else "not confirmed: call graph.confirm()"
        return (
            f"<AttributionGraph of {self.model_name!r}: {counts}, {self.edges.nnz} edges; {scores}{lacking}>\n"
            f"  {verdict}"
        )

    def confirm(self, **options: Any) -> Confirmation:
        """Ablate what the graph says matters and measure what changes; for the options see `circuits.confirm`.

        Raises:
            ValueError: the graph was read from a file, or has no features.
        """
        from sparse_sae.circuits.confirmation import confirm

        self.confirmation = confirm(self, **options)
        return self.confirmation

    def heads_of(self, node: int) -> NDArray[np.float32]:
        """(n_layers, H) what of a node's pre-activation came through each head; zeros where it was not computed."""
        if not self.expanded[node]:
            return np.zeros(self.heads.shape[1:], np.float32)
        found: NDArray[np.float32] = self.heads[int(self.expanded[:node].sum())]
        return found

    def normalised(self) -> csr_array:
        """|edges|, each row divided by its sum (what was left out of the row counts in it)."""
        return normalise(self.edges, self.rest)

    @property
    def influence(self) -> NDArray[np.float64]:
        """(n,) p (Â + Â² + …): how much of the targets' weight comes through each node."""
        value = ordered_influence(csr_rows(self.edges, self.rest), self.weight, self._depth)
        return influence(self.normalised(), self.weight) if value is None else value

    @property
    def _depth(self) -> NDArray[np.int32]:
        """(n,) edges go from a node to a deeper one: tokens, errors and features by layer, targets."""
        return np.where(self.kind == TARGET, self.n_layers + 1, self.layer).astype(np.int32)

    @property
    def replacement(self) -> float:
        """Influence of the tokens over that of tokens and errors: 1 if no path passes an error."""
        value = self.influence
        tokens, errors = value[self.kind == TOKEN].sum(), value[self.kind == ERROR].sum()
        return float(tokens / (tokens + errors)) if tokens + errors else 0.0

    @property
    def completeness(self) -> float:
        """The share of the inputs of nodes, weighted by their influence, that does not come from errors."""
        through, is_error = self.influence + self.weight, self.kind == ERROR
        errors = np.zeros(len(self))
        for row in csr_rows(self.edges, self.rest):
            errors[row.place] = np.abs(row.values[is_error[row.columns]]).sum(dtype=np.float64) / row.total
        return float(((1 - errors) * through).sum() / max(through.sum(), 1e-10))

    def strongest(self, n: int = 20) -> list[tuple[int, int, float]]:
        """(target, source, edge) of the n edges of largest absolute value."""
        order = np.argsort(-np.abs(self.edges.data), kind="stable")[:n]
        rows = np.repeat(np.arange(len(self)), np.diff(self.edges.indptr))
        return [(int(rows[i]), int(self.edges.indices[i]), float(self.edges.data[i])) for i in order]

    def prune(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> AttributionGraph:
        """The nodes that carry `node_threshold` of all influence, and the edges that carry `edge_threshold` of it.

        Tokens and targets are always kept. Features left without an edge in or out, and errors without one out,
        are dropped. Scores of a pruned graph are not those of the whole one: read them before.

        Raises:
            ValueError: a threshold not in (0, 1], or no edge remains.
        """
        for name, value in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}: got {value}, expected more than 0 and at most 1")
        through = self.influence
        always = (self.kind == TOKEN) | (self.kind == TARGET)
        kept = always | (through >= threshold(through.copy(), node_threshold))
        give_back()
        whole = self.edges
        inside = edges_where(whole, lambda place, at: kept[whole.indices[at]] & kept[place])
        inner = ordered_influence(csr_rows(inside), self.weight, self._depth)
        through = (influence(normalise(inside), self.weight) if inner is None else inner) + self.weight
        least = threshold(scores_of(inside, through), edge_threshold)
        edge = scores_of(inside, through) >= least
        kept = self._connected(inside, edge, kept, always)
        if not edge.any():
            raise ValueError(
                "prune: no edge is left above the thresholds; raise node_threshold or edge_threshold towards 1"
            )
        inside = edges_where(inside, lambda _place, at: edge[at])  # the larger one goes before what follows
        return self.subgraph(kept, inside)

    def _connected(
        self,
        edges: csr_array,
        live: NDArray[np.bool_],
        kept: NDArray[np.bool_],
        always: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """The nodes that stay when those without live edges go, again and again; edges of the others die."""
        while True:
            has_in, has_out = np.zeros((2, len(self)), bool)
            for place, at in spans(edges):
                has_in[place] = live[at].any()
                has_out[edges.indices[at][live[at]]] = True
            fit: NDArray[np.bool_] = kept & (always | (has_out & ((self.kind == ERROR) | has_in)))
            for place, at in spans(edges):
                live[at] &= fit[edges.indices[at]] & fit[place]
            if np.array_equal(fit, kept):
                return kept
            kept = fit

    def subgraph(self, kept: NDArray[np.bool_], edges: csr_array | None = None) -> AttributionGraph:
        """Only those nodes (n,), with these edges or all between them; edges left out count in `rest`."""
        if np.shape(kept) != (len(self),):
            raise ValueError(
                f"kept: shape {np.shape(kept)}, expected a boolean for each of the {len(self)} nodes"
            )
        whole = self.edges if edges is None else edges
        index = np.flatnonzero(kept)
        inside = csr_array(csr_array(whole[index])[:, index])
        sums = np.zeros((2, len(self)))
        for number, matrix in enumerate((self.edges, inside)):
            for row in csr_rows(matrix):
                sums[number, row.place] = row.total
        left = sums[0, index] - sums[1, : len(index)]
        return AttributionGraph(
            self.model_name,
            self.tokens,
            self.words,
            self.n_layers,
            self.kind[index],
            self.layer[index],
            self.position[index],
            self.latent[index],
            self.activation[index],
            self.weight[index],
            [self.labels[i] for i in index],
            inside,
            self.bias[index],
            self.rest[index] + np.maximum(left, 0),
            self.expanded[index],
            self.heads[np.asarray(kept, bool)[self.expanded]],
            self.missing_layers,
            origin=None if self.origin is None else self.origin.part(index),
        )
