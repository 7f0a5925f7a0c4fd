"""A graph as one HTML file that opens without a network: nodes, edges on hover, and what `confirm` measured."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.atomic import atomic_write
from sparse_sae.circuits.confirmation import Ablations, Confirmation
from sparse_sae.circuits.graph import ERROR, FEATURE, KINDS, TOKEN, AttributionGraph

_MOST_NODES = 3000  # beyond that a browser draws for seconds


def write_page(
    graph: AttributionGraph,
    path: str | Path,
    *,
    title: str | None = None,
    whole: AttributionGraph | None = None,
    names: Mapping[tuple[int, int], str] | None = None,
    supernodes: Sequence[tuple[str, Sequence[int]]] = (),
) -> None:
    """Write a graph as a page of its own: no request leaves it, and texts of the prompt cannot act in it.

    Args:
        graph: usually a pruned one. What `graph.confirm()` measured is shown with it.
        path: the file.
        title: of the page; the target's label by default.
        whole: the graph it was pruned from, whose replacement and completeness are then given.
        names: (layer, latent) -> name of a feature.
        supernodes: (name, numbers of nodes).

    Raises:
        ValueError: more than 3,000 nodes; a supernode outside the graph.

    >>> write_page(graph.prune(), "paris.html", title="Why Paris?")  # doctest: +SKIP
    """
    text = page(graph, title=title, whole=whole, names=names, supernodes=supernodes)
    with atomic_write(path) as file:
        file.write(text.encode())


def page(
    graph: AttributionGraph,
    *,
    title: str | None = None,
    whole: AttributionGraph | None = None,
    names: Mapping[tuple[int, int], str] | None = None,
    supernodes: Sequence[tuple[str, Sequence[int]]] = (),
) -> str:
    """What `write_page` writes."""
    if len(graph) > _MOST_NODES:
        raise ValueError(f"graph: {len(graph)} nodes, a page shows up to {_MOST_NODES}; prune it first")
    targets = [graph.labels[i] for i in np.flatnonzero(graph.kind == len(KINDS) - 1)]
    title = title or "What makes " + ", ".join(targets)
    part = {name: _asset(f"page.{name}") for name in ("html", "css", "js")}
    data = json.dumps(
        contents(graph, title, names or {}, supernodes, whole), allow_nan=False, separators=(",", ":")
    )
    for character in "<>&\u2028\u2029":  # no text can end the element that holds it
        data = data.replace(character, f"\\u{ord(character):04x}")
    slots = {
        "TITLE": html.escape(title),
        "STYLE": part["css"],
        "STYLE_HASH": _digest(part["css"]),
        "SCRIPT": part["js"],
        "SCRIPT_HASH": _digest(part["js"]),
        "DATA": data,
    }
    pieces = part["html"].split("@")
    # every second piece names a slot; what fills one is never searched for others
    return "".join(slots[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def contents(
    graph: AttributionGraph,
    title: str,
    names: Mapping[tuple[int, int], str],
    supernodes: Sequence[tuple[str, Sequence[int]]] = (),
    whole: AttributionGraph | None = None,
) -> dict[str, Any]:
    """What the page draws, as JSON values."""
    group: dict[int, str] = {}
    for name, members in supernodes:
        for member in members:
            if not 0 <= member < len(graph):
                raise ValueError(f"supernodes: {name!r} names a node outside 0 to {len(graph) - 1}")
            group[int(member)] = name
    influence = graph.influence
    rows = np.repeat(np.arange(len(graph)), np.diff(graph.edges.indptr))
    lacking = graph.missing_layers
    scored = whole or graph
    facts = [
        f"{graph.model_name}: {len(graph)} of {len(scored)} nodes, {graph.edges.nnz} of {scored.edges.nnz} edges",
        f"replacement {scored.replacement:.2f}, completeness {scored.completeness:.2f}",
    ]
    if lacking:
        facts.append(
            f"no dictionary in {len(lacking)} of {graph.n_layers} layers ({_ranges(lacking)}): their MLPs are errors"
        )
    return {
        "title": title,
        "words": graph.words,
        "n_layers": graph.n_layers,
        "facts": "; ".join(facts),
        "nodes": [_node(graph, i, float(influence[i]), names, group.get(i)) for i in range(len(graph))],
        "links": [
            [int(t), int(s), _number(w)]
            for t, s, w in zip(rows, graph.edges.indices, graph.edges.data, strict=True)
        ],
        "groups": [{"name": name, "members": [int(m) for m in members]} for name, members in supernodes],
        "confirmation": None if graph.confirmation is None else _confirmation(graph.confirmation),
    }


def _node(
    g: AttributionGraph, i: int, influence: float, names: Mapping[tuple[int, int], str], group: str | None
) -> dict[str, Any]:
    kind, layer, position, latent = int(g.kind[i]), int(g.layer[i]), int(g.position[i]), int(g.latent[i])
    label = f"{g.words[position]!r} at {position}" if kind == TOKEN else g.labels[i]
    facts = [f"influence {influence:.4f}"]
    if kind == FEATURE:
        name = names.get((layer, latent))
        if name and not label.startswith(name):
            label = f"{name} (L{layer}/{latent} at {g.words[position]!r})"
        facts.insert(0, f"L{layer}/{latent}, position {position}, activation {g.activation[i]:.3g}")
        if not g.expanded[i]:
            facts.append("its own inputs were not computed")
    elif kind == ERROR:
        facts.insert(0, f"position {position}, norm {g.activation[i]:.3g}")
    elif kind != TOKEN:
        facts = [f"value {g.activation[i]:.3g}", f"weight {g.weight[i]:.3g}"]
    return {
        "kind": KINDS[kind],
        "row": -1 if kind == TOKEN else layer if kind in (FEATURE, ERROR) else g.n_layers,
        "position": position,
        "name": label,
        "facts": ", ".join(facts),
        "influence": influence,
        "group": group,
    }


def _confirmation(c: Confirmation) -> dict[str, Any]:
    return {
        "verdict": c.verdict,
        "failed": c.failed,
        "frozen": _pairs(c.frozen),
        "attention": _pairs(c.attention),
        "nodes": _pairs(c.nodes),
        "sizes": list(c.sizes),
        "curve": [_number(v) for v in c.curve],
        "random": [_number(v) for v in c.random],
        "paraphrases": [
            {"prompt": str(p.prompt), "faithfulness": _number(p.faithfulness), "overlap": _number(p.overlap)}
            for p in c.paraphrases
        ],
    }


def _pairs(a: Ablations) -> dict[str, Any]:
    return {
        "text": str(a),
        "pairs": [[_number(p), _number(m)] for p, m in zip(a.predicted, a.measured, strict=True)],
    }


def _number(value: Any) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _ranges(numbers: Sequence[int]) -> str:
    """0-4, 7 of 0, 1, 2, 3, 4, 7."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def _asset(name: str) -> str:
    return (files("sparse_sae.circuits") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
