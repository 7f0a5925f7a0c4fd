"""Attribution graphs for the page: Neuronpedia's JSON as it is, `.npz` files turned into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparse_sae._io.files import FormatError, read_json

_LARGEST = 64 << 20


def read_graph(path: Path) -> dict[str, Any]:
    """A graph of `sparse_sae.circuits` (`.npz` or JSON) or of circuit-tracer, as JSON values.

    Raises:
        FormatError: another kind of file.
    """
    if path.suffix == ".npz":
        from sparse_sae.circuits.files import load_graph
        from sparse_sae.circuits.neuronpedia import document

        return document(load_graph(path), slug="graph")
    graph = read_json(path, _LARGEST)
    for name in ("nodes", "links"):
        if not isinstance(graph.get(name), list):
            raise FormatError(f"{path}: field {name!r}: expected a list, as in Neuronpedia's graphs")
    return graph
