"""The measurements of `confirm`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparse_sae.circuits.ablation import How, keeping, without
from sparse_sae.circuits.confirmation import Ablations, Confirmation, Paraphrase
from sparse_sae.circuits.frozen import again
from sparse_sae.circuits.graph import ERROR, FEATURE, AttributionGraph
from sparse_sae.circuits.influence import influence
from sparse_sae.circuits.origin import Origin

_POLICIES: tuple[tuple[Literal["keep", "remove"], How], ...] = (("remove", "model"), ("keep", "frozen"))
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def measure(
    graph: AttributionGraph,
    paraphrases: Sequence[str | Sequence[int]],
    *,
    n_edges: int,
    n_nodes: int,
    n_random: int,
    size: int | None,
    seed: int,
    circuit: NDArray[np.int64] | None = None,
) -> Confirmation:
    """For the arguments see `confirm`."""
    origin = _origin(graph)
    circuit = _circuit(graph, size) if circuit is None else circuit
    frozen, attention = _edges(graph, origin, n_edges)
    ranks = _features(graph)
    kept = {
        "circuit": _mask(origin, circuit),
        "all": np.ones(len(origin.frozen.layer), bool),
        "none": np.zeros(len(origin.frozen.layer), bool),
    }
    sizes = sorted({n for n in (*_SIZES, len(circuit), len(ranks)) if n <= len(ranks)})
    random = _random(origin, kept["circuit"], n_random, seed)
    masks = [
        kept["none"],
        kept["circuit"],
        ~kept["circuit"],
        *(_mask(origin, ranks[:n]) for n in sizes),
        *random,
    ]
    readers = [*map(origin.reader, _targets(origin))]
    values = _metric(origin, keeping(origin.frozen, masks, readers))
    value = float(sum(a.weight * _own(origin, a) for a in origin.asked))
    faithfulness = _share(values, value)
    both = [kept["none"], kept["circuit"]]
    bare, held = (
        _share(_metric(origin, keeping(origin.frozen, both, readers, errors, how)), value)
        for errors, how in _POLICIES
    )
    result = Confirmation(
        frozen,
        attention,
        _nodes(graph, origin, n_nodes),
        circuit,
        sizes,
        [float(x) for x in faithfulness[3 : 3 + len(sizes)]],
        faithfulness[3 + len(sizes) :],
        float(faithfulness[1]),
        float(held[1]),
        float(bare[1]),
        float(faithfulness[2]),
        value,
        float(values[0]),
        [],
    )
    latents = _latents(graph, circuit)
    others = [
        _paraphrase(origin, prompt, len(circuit), latents, n_edges, n_nodes, seed) for prompt in paraphrases
    ]
    return replace(result, paraphrases=others)


def _origin(graph: AttributionGraph) -> Origin:
    if graph.origin is None:
        raise ValueError(
            "graph: it holds no model (it was read from a file, or made by hand); call attribute(...) on its prompt "
            "again and confirm that graph"
        )
    if not (graph.kind == FEATURE).any() or not graph.edges.nnz:
        raise ValueError(
            "graph: it has no features or no edges, so there is nothing to ablate; give dictionaries of more layers, "
            "or prune less"
        )
    return graph.origin


def _features(graph: AttributionGraph) -> NDArray[np.int64]:
    """Feature nodes, the most influential first."""
    features = np.flatnonzero(graph.kind == FEATURE)
    return features[np.argsort(-graph.influence[features], kind="stable")]


def _circuit(graph: AttributionGraph, size: int | None) -> NDArray[np.int64]:
    assert graph.origin is not None
    ranked = _features(graph)
    if size is not None:
        if size > len(ranked):
            raise ValueError(f"size: got {size}, the graph has {len(ranked)} features")
        return ranked[:size]
    if not graph.origin.whole:
        return ranked
    pruned = graph.prune()
    assert pruned.origin is not None
    return np.intersect1d(ranked, pruned.origin.index[pruned.kind == FEATURE])


def _mask(origin: Origin, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(F,) of the frozen model's features."""
    mask = np.zeros(len(origin.frozen.layer), bool)
    mask[origin.index[nodes] - origin.frozen.first_feature] = True
    return mask


def _edges(graph: AttributionGraph, origin: Origin, count: int) -> tuple[Ablations, Ablations]:
    """The edges of largest influence, in the frozen model and with live attention and norms."""
    edges = graph.edges
    rows = np.repeat(np.arange(len(graph)), np.diff(edges.indptr))
    through = graph.influence + graph.weight
    score = graph.normalised().data * through[rows]
    top = np.argsort(-score, kind="stable")[:count]
    targets, sources = rows[top].astype(np.int64), edges.indices[top].astype(np.int64)
    distinct, row = np.unique(origin.index[sources], return_inverse=True)
    readers, column = np.unique(origin.index[targets], return_inverse=True)
    measured = []
    hows: tuple[How, How] = ("frozen", "attention")
    for how in hows:
        falls = without(origin.frozen, [*map(int, distinct)], [origin.reader(int(i)) for i in readers], how)
        measured.append(Ablations(targets, sources, edges.data[top].astype(np.float64), falls[row, column]))
    return measured[0], measured[1]


def _nodes(graph: AttributionGraph, origin: Origin, count: int) -> Ablations:
    """Features and errors in the model itself; the prediction goes along all paths of the whole graph."""
    candidates = np.flatnonzero((graph.kind == FEATURE) | (graph.kind == ERROR))
    top = candidates[np.argsort(-graph.influence[candidates], kind="stable")[:count]]
    numbers = origin.index[top]
    # signed, not normalised: p (A + A² + …) is the change of the targets for each source's share of one
    predicted = influence(origin.edges, origin.weight)[numbers]
    falls = without(origin.frozen, [*map(int, numbers)], [*map(origin.reader, _targets(origin))], "model")
    return Ablations(np.full(len(top), -1), top, predicted, _metric(origin, falls))


def _targets(origin: Origin) -> range:
    return range(origin.frozen.n_sources, origin.frozen.n_sources + len(origin.asked))


def _metric(origin: Origin, values: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = values @ np.array([a.weight for a in origin.asked])
    return total


def _own(origin: Origin, asked: Any) -> float:
    """A target's value in the model; that of a function, not of its gradient."""
    if asked.function is None:
        return float(asked.value)
    return float(asked.function(origin.frozen.logits(asked.row.position)))


def _share(values: NDArray[np.float64], value: float) -> NDArray[np.float64]:
    """Faithfulness of values, of which the first is m(∅); NaN where the features change nothing."""
    empty = float(values[0])
    whole = value - empty
    if abs(whole) <= 1e-6 * max(abs(value), abs(empty)):
        return np.full(len(values), np.nan)
    return (values - empty) / whole


def _random(origin: Origin, mask: NDArray[np.bool_], count: int, seed: int) -> list[NDArray[np.bool_]]:
    """As many features in every layer as the mask has, from all that are active there."""
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        new = np.zeros(len(mask), bool)
        for layer in sorted(origin.frozen.transcoders):
            here = origin.frozen.features_of(layer)
            places = np.arange(here.start, here.stop)
            new[rng.choice(places, int(mask[here].sum()), replace=False)] = True
        drawn.append(new)
    return drawn


def _latents(graph: AttributionGraph, nodes: NDArray[np.int64]) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in zip(graph.layer[nodes], graph.latent[nodes], strict=True)}


def _paraphrase(
    origin: Origin,
    prompt: str | Sequence[int],
    size: int,
    latents: set[tuple[int, int]],
    n_edges: int,
    n_nodes: int,
    seed: int,
) -> Paraphrase:
    from sparse_sae.circuits.attribution import graph_of, prompt_ids

    ids = prompt_ids(origin.tokenizer, prompt)
    frozen = again(origin.frozen, ids)
    graph = graph_of(frozen, origin.targets, tokenizer=origin.tokenizer, **origin.limits)
    size = min(size, int((graph.kind == FEATURE).sum()))
    found = measure(graph, (), n_edges=n_edges, n_nodes=n_nodes, n_random=0, size=size, seed=seed)
    own = _latents(graph, found.circuit)
    return Paraphrase(
        prompt if isinstance(prompt, str) else tuple(ids),
        found.value,
        found.faithfulness,
        found.frozen.correlation,
        found.nodes.correlation,
        len(own & latents) / len(own),
    )
