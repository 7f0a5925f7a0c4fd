"""Graphs in the JSON that Neuronpedia and circuit-tracer open (schema 1.0.0)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.atomic import write_json
from sparse_sae.circuits.graph import ERROR, FEATURE, TOKEN, AttributionGraph

_KINDS = ("embedding", "mlp reconstruction error", "cross layer transcoder", "logit")


def write_neuronpedia(
    graph: AttributionGraph,
    path: str | Path,
    *,
    slug: str,
    scan: str | None = None,
    names: Mapping[tuple[int, int], str] | None = None,
    supernodes: Sequence[tuple[str, Sequence[int]]] = (),
    node_threshold: float | None = None,
    edge_threshold: float | None = None,
) -> None:
    """Write a graph for Neuronpedia's and circuit-tracer's pages.

    Args:
        graph: usually a pruned one: the pages are slow beyond some thousand nodes.
        path: the file.
        slug: what the graph is called in addresses: letters, digits, `-` and `_`.
        scan: what the pages call the model; `graph.model_name` by default.
        names: (layer, latent) -> name of a feature.
        supernodes: (name, numbers of nodes).
        node_threshold, edge_threshold: how it was pruned, for the record.

    Raises:
        ValueError: a slug that is no slug; a supernode outside the graph; no node above layer 0, which the pages
            cannot open.

    >>> write_neuronpedia(graph.prune(), "paris.json", slug="paris")  # doctest: +SKIP
    """
    write_json(
        path,
        document(
            graph,
            slug=slug,
            scan=scan,
            names=names,
            supernodes=supernodes,
            node_threshold=node_threshold,
            edge_threshold=edge_threshold,
        ),
    )


def document(
    graph: AttributionGraph,
    *,
    slug: str,
    scan: str | None = None,
    names: Mapping[tuple[int, int], str] | None = None,
    supernodes: Sequence[tuple[str, Sequence[int]]] = (),
    node_threshold: float | None = None,
    edge_threshold: float | None = None,
) -> dict[str, Any]:
    """What `write_neuronpedia` writes, as JSON values."""
    if not slug or not all(c.isascii() and (c.isalnum() or c in "-_") for c in slug):
        raise ValueError(f"slug: got {slug!r}, expected letters, digits, '-' and '_'")
    inner = (graph.kind == FEATURE) | (graph.kind == ERROR)
    if not (graph.layer[inner] > 0).any():
        raise ValueError(
            "graph: no feature or error above layer 0, which these pages cannot open; prune less, or use save_graph"
        )
    ids = [_node_id(graph, i) for i in range(len(graph))]
    for name, members in supernodes:
        if not all(0 <= m < len(graph) for m in members):
            raise ValueError(f"supernodes: {name!r} names a node outside 0 to {len(graph) - 1}")
    influence = _cumulative(graph)
    rows = np.repeat(np.arange(len(graph)), np.diff(graph.edges.indptr))
    pruning = {"node_threshold": node_threshold, "edge_threshold": edge_threshold}
    metadata: dict[str, Any] = {
        "slug": slug,
        "scan": scan or graph.model_name,
        "prompt_tokens": graph.words,
        "prompt": "".join(graph.words),
        "schema_version": 1,
        "transcoder_list": [],
        "info": {
            "description": f"Attribution graph of {graph.model_name}",
            "generator": {"name": "sparse_sae", "version": _version()},
            "create_time_ms": int(time.time() * 1000),
        },
        "pruning_settings": {k: v for k, v in pruning.items() if v is not None},
    }
    if node_threshold is not None:
        metadata["node_threshold"] = node_threshold
    return {
        "metadata": metadata,
        "qParams": {
            "pinnedIds": [],
            "supernodes": [[name, *(ids[m] for m in members)] for name, members in supernodes],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [_node(graph, i, ids[i], influence[i], names or {}) for i in range(len(graph))],
        "links": [
            {"source": ids[s], "target": ids[t], "weight": float(w)}
            for t, s, w in zip(rows, graph.edges.indices, graph.edges.data, strict=True)
        ],
    }


def _version() -> str:
    from sparse_sae import __version__

    return __version__


def _node_id(g: AttributionGraph, i: int) -> str:
    kind, layer, position, latent = int(g.kind[i]), int(g.layer[i]), int(g.position[i]), int(g.latent[i])
    if kind == TOKEN:
        return f"E_{latent}_{position}"
    if kind == ERROR:  # the peers' 0_{L}_{position} would be a feature of layer 0
        return f"err_{layer}_{position}"
    if kind == FEATURE:
        return f"{layer}_{latent}_{position}"
    if layer == g.n_layers and latent >= 0:
        return f"{g.n_layers + 1}_{latent}_{position}"
    return f"target_{i}"


def _node(
    g: AttributionGraph, i: int, node_id: str, influence: float, names: Mapping[Any, str]
) -> dict[str, Any]:
    kind, layer, position, latent = int(g.kind[i]), int(g.layer[i]), int(g.position[i]), int(g.latent[i])
    node: dict[str, Any] = {
        "node_id": node_id,
        "feature": -1,
        "layer": str(layer),
        "ctx_idx": position,
        "feature_type": _KINDS[kind],
        "jsNodeId": f"{node_id}-0",
        "clerp": g.labels[i],
        "influence": float(influence),
        "reverse_ctx_idx": 0,
        "is_target_logit": False,
        "token_prob": 0.0,
    }
    if kind == TOKEN:
        node |= {"layer": "E", "feature": position, "jsNodeId": f"E_{latent}-{position}"}
    elif kind == FEATURE:
        pair = (layer + latent) * (layer + latent + 1) // 2 + latent
        node |= {"feature": pair, "jsNodeId": f"{layer}_{latent}-0", "activation": float(g.activation[i])}
        node["clerp"] = names.get((layer, latent), "")
    elif kind != ERROR:
        text = str(g.labels[i]).strip("'")
        node |= {
            "layer": str(g.n_layers + 1),
            "feature": max(latent, 0),
            "jsNodeId": f"L_{node_id}-{position}",
            "clerp": f'Output "{text}" (p={g.weight[i]:.3f})',
            "token_prob": float(g.weight[i]),
            "is_target_logit": True,
        }
    return node


def _cumulative(g: AttributionGraph) -> Any:
    """The share of all influence that a node and those above it carry: what the pages' slider prunes by."""
    value = g.influence
    order = np.argsort(-value, kind="stable")
    result = np.empty(len(g))
    result[order] = np.cumsum(value[order]) / max(value.sum(), 1e-10)
    return result
