"""Files of attribution graphs: our own without loss, Neuronpedia's by its schema and its traps."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from sparse_sae.circuits.files import load_graph, save_graph
from sparse_sae.circuits.graph import AttributionGraph
from sparse_sae.circuits.neuronpedia import document, write_neuronpedia

SCHEMA = json.loads((Path(__file__).parent / "golden" / "neuronpedia_graph.schema.json").read_text())


def graph() -> AttributionGraph:
    """Two tokens; an error of layer 0 at position 1; features 0/1 and 1/5; targets: a token, a difference."""
    n = 7
    edges = np.zeros((n, n), np.float32)
    edges[3, 0], edges[3, 1], edges[4, 3], edges[4, 2], edges[5, 4], edges[6, 4] = 1, -2, 3, 0.5, 2, -1
    return AttributionGraph(
        "tiny",
        [4, 9],
        ["The", " cat"],
        2,
        np.array([0, 0, 1, 2, 2, 3, 3], np.int8),
        np.array([-1, -1, 0, 0, 1, 2, 2], np.int32),
        np.array([0, 1, 1, 1, 1, 1, 1], np.int32),
        np.array([4, 9, -1, 1, 5, 7, -1]),
        np.linspace(1, 2, n),
        np.array([0, 0, 0, 0, 0, 0.25, 1.0]),
        ["The", " cat", "error", "L0/1", "L1/5", "' sat'", "'a' minus 'b'"],
        csr_array(edges),
        np.arange(n) / 7,
        np.arange(n) / 3,
        np.array([0, 0, 0, 1, 1, 1, 1], bool),
        np.ones((4, 2, 3), np.float32),
        [0],
    )


def violations(value: Any, schema: Any, at: str = "$") -> list[str]:
    """What is wrong by the words of JSON Schema that the file in golden/ uses."""
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "number": (int, float),
        "boolean": bool,
        "integer": int,
    }
    found = []
    if "type" in schema and (
        not isinstance(value, types[schema["type"]])
        or (isinstance(value, bool) and schema["type"] in ("number", "integer"))
    ):
        return [f"{at}: not of type {schema['type']}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} not allowed")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{at}: {value!r} does not match {schema['pattern']}")
    if isinstance(value, dict):
        found += [f"{at}: no {name}" for name in schema.get("required", []) if name not in value]
        known = schema.get("properties", {})
        if schema.get("additionalProperties") is False:
            found += [f"{at}: unknown {name}" for name in value if name not in known]
        for name, inner in known.items():
            if name in value:
                found += violations(value[name], inner, f"{at}.{name}")
    if isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            found += violations(item, schema["items"], f"{at}[{i}]")
    return found


def test_our_own_file_loses_nothing(tmp_path: Path) -> None:
    save_graph(graph(), tmp_path / "g.npz")
    back, whole = load_graph(tmp_path / "g.npz"), graph()
    for field in fields(AttributionGraph):
        a, b = getattr(whole, field.name), getattr(back, field.name)
        if field.name == "edges":
            a, b = a.toarray(), b.toarray()
        np.testing.assert_array_equal(a, b, err_msg=field.name)
        assert type(a) is type(b) and getattr(a, "dtype", None) == getattr(b, "dtype", None), field.name


def test_malformed_files_name_file_field_and_expectation(tmp_path: Path) -> None:
    path = tmp_path / "g.npz"
    save_graph(graph(), path)
    with np.load(path) as file:
        good = dict(file)

    def head(**changes: Any) -> Any:
        text = json.loads(good["json"].tobytes()) | changes
        return np.frombuffer(json.dumps(text).encode(), np.uint8)

    for changes, message in (
        ({"layer": None}, "no field 'layer'"),
        ({"layer": good["layer"][:3]}, r"'layer': int32 .* and length 7"),
        ({"heads": good["heads"][:3]}, "'heads': .* and length 4"),
        ({"bias": good["bias"] * np.nan}, "'bias': holds NaN"),
        ({"kind": good["kind"] + 9}, "'kind': expected 0 to 3"),
        ({"edges_indices": good["edges_indices"] + 9}, "CSR matrix of 7 nodes"),
        ({"json": head(version=1)}, "'version' is 1"),
        ({"json": head(format="x")}, "'format' should read"),
        ({"json": head(labels=3)}, "'labels': expected list"),
        ({"json": good["json"][:5]}, "'json': not JSON"),
        ({"json": None}, "no field 'json'"),
        ({"labels": None, "heads": good["heads"].astype(str)}, "'heads'"),
    ):
        np.savez(path, **{k: v for k, v in {**good, **changes}.items() if v is not None})
        with pytest.raises(ValueError, match=message) as raised:
            load_graph(path)
        assert str(path) in str(raised.value)
    np.savez(path, **good | {"layer": np.array([{}] * 7)})
    with pytest.raises(ValueError, match="not a complete"):
        load_graph(path)
    path.write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match="not a complete"):
        load_graph(path)
    with pytest.raises(FileNotFoundError):
        load_graph(tmp_path / "none.npz")


def test_neuronpedia_file_fits_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "g.json"
    write_neuronpedia(
        graph(),
        path,
        slug="a-cat",
        names={(1, 5): "animals"},
        supernodes=[("both", [3, 4])],
        node_threshold=0.8,
        edge_threshold=0.98,
    )
    made = json.loads(path.read_text())
    assert violations(made, SCHEMA) == []
    ids = [node["node_id"] for node in made["nodes"]]
    assert len(set(ids)) == len(ids) and set(ids) >= {"E_4_0", "err_0_1", "0_1_1", "1_5_1", "3_7_1"}
    by_id = {node["node_id"]: node for node in made["nodes"]}
    assert by_id["1_5_1"]["feature"] == 6 * 7 // 2 + 5 and by_id["1_5_1"]["clerp"] == "animals"
    assert by_id["3_7_1"]["clerp"] == 'Output " sat" (p=0.250)' and by_id["3_7_1"]["layer"] == "3"
    assert made["qParams"]["supernodes"] == [["both", "0_1_1", "1_5_1"]]
    assert all(link["source"] in by_id and link["target"] in by_id for link in made["links"])
    weights = {(link["source"], link["target"]): link["weight"] for link in made["links"]}
    assert weights["E_9_1", "0_1_1"] == -2 and len(weights) == graph().edges.nnz
    assert made["metadata"]["prompt"] == "The cat"


def test_the_schema_can_fail() -> None:
    made = document(graph(), slug="x")
    made["nodes"][0]["layer"] = 0
    made["links"][0]["weight"] = "2"
    del made["metadata"]["slug"], made["nodes"][1]["clerp"]
    found = violations(made, SCHEMA)
    assert len(found) == 4 and any("no slug" in f for f in found), found


def test_what_the_pages_cannot_open_is_refused() -> None:
    with pytest.raises(ValueError, match="slug: got 'a b'"):
        document(graph(), slug="a b")
    with pytest.raises(ValueError, match="outside 0 to 6"):
        document(graph(), slug="x", supernodes=[("s", [7])])
    flat = replace(graph(), layer=np.minimum(graph().layer, 0))
    with pytest.raises(ValueError, match="no feature or error above layer 0"):
        document(flat, slug="x")
