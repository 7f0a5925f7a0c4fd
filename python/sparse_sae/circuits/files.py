"""Attribution graphs as one `.npz` file: arrays, and a JSON text for what is not a number. Nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from sparse_sae._io.atomic import atomic_write
from sparse_sae._io.npz import read_npz
from sparse_sae.circuits.graph import KINDS, AttributionGraph

_FORMAT, _VERSION = "sparse_sae attribution graph", 2
_TEXTS = ("model_name", "tokens", "words", "n_layers", "labels", "missing_layers")
# array -> (kind of its dtype, axes); all but the edges and heads have a row for each node
_ARRAYS = {
    "kind": ("i", 1),
    "layer": ("i", 1),
    "position": ("i", 1),
    "latent": ("i", 1),
    "activation": ("f", 1),
    "weight": ("f", 1),
    "bias": ("f", 1),
    "rest": ("f", 1),
    "expanded": ("b", 1),
    "heads": ("f", 3),
}
_EDGES = {"data": "f", "indices": "i", "indptr": "i"}


def save_graph(graph: AttributionGraph, path: str | Path) -> None:
    """Write a graph, whole or not at all. The name should end in `.npz`.

    >>> save_graph(graph, "paris.npz")  # doctest: +SKIP
    """
    head = {"format": _FORMAT, "version": _VERSION, **{name: getattr(graph, name) for name in _TEXTS}}
    arrays: dict[str, Any] = {name: getattr(graph, name) for name in _ARRAYS}
    arrays |= {f"edges_{name}": getattr(graph.edges, name) for name in _EDGES}
    arrays["json"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # not compressed: then a reader knows what a file may take in memory


def load_graph(path: str | Path) -> AttributionGraph:
    """Read what `save_graph` wrote.

    Raises:
        FileNotFoundError: no file there. ValueError: another kind of file, or a field that is missing or of another
            kind or length than expected; the message names file, field and expectation.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no file there, expected one of save_graph")
    arrays: dict[str, Any] = {**read_npz(path)}
    head = _head(path, arrays)
    n = len(head["labels"])
    for name, (kind, axes) in _ARRAYS.items():
        _check(path, arrays, name, kind, axes, int(arrays["expanded"].sum()) if name == "heads" else n)
    for name, kind in _EDGES.items():
        _check(path, arrays, f"edges_{name}", kind, 1, n + 1 if name == "indptr" else None)
    if n and not 0 <= arrays["kind"].min() <= arrays["kind"].max() < len(KINDS):
        raise ValueError(f"{path}: field 'kind': expected 0 to {len(KINDS) - 1}")
    data, indices, indptr = (arrays[f"edges_{name}"] for name in _EDGES)
    if not (
        indptr[0] == 0
        and (np.diff(indptr) >= 0).all()
        and indptr[-1] == len(indices) == len(data)
        and (not len(indices) or 0 <= indices.min() <= indices.max() < n)
    ):
        raise ValueError(f"{path}: fields 'edges_…': expected a CSR matrix of {n} nodes")
    edges = csr_array((data, indices, indptr), shape=(n, n))
    return AttributionGraph(
        edges=edges, **{name: head[name] for name in _TEXTS}, **{name: arrays[name] for name in _ARRAYS}
    )


def _head(path: Path, arrays: dict[str, Any]) -> dict[str, Any]:
    if "json" not in arrays:
        raise ValueError(f"{path}: no field 'json'; expected a file of save_graph")
    try:
        head = json.loads(arrays["json"].tobytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: field 'json': not JSON ({error})") from error
    if not isinstance(head, dict) or head.get("format") != _FORMAT:
        raise ValueError(f"{path}: field 'format' should read {_FORMAT!r}")
    if head.get("version") != _VERSION:
        raise ValueError(f"{path}: field 'version' is {head.get('version')!r}, this program reads {_VERSION}")
    kinds = {"model_name": str, "n_layers": int}
    for name in _TEXTS:
        expected = kinds.get(name, list)
        if not isinstance(head.get(name), expected):
            raise ValueError(f"{path}: field {name!r}: expected {expected.__name__} in its JSON")
    return head


def _check(path: Path, arrays: dict[str, Any], name: str, kind: str, axes: int, n: int | None) -> None:
    a = arrays.get(name)
    if a is None:
        raise ValueError(f"{path}: no field {name!r}; the file is incomplete")
    if a.dtype.kind != kind or a.ndim != axes or (n is not None and len(a) != n):
        raise ValueError(
            f"{path}: field {name!r}: {a.dtype} of shape {a.shape}, expected kind {kind!r} with {axes} axes"
            + ("" if n is None else f" and length {n}")
        )
    if kind == "f" and not np.isfinite(a).all():
        raise ValueError(f"{path}: field {name!r}: holds NaN or infinity")
