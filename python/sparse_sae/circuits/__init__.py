"""Circuits: which features make which, as graphs on a prompt, confirmed by ablation.

    graph = attribute(model, transcoders, "The capital of France is", confirm=True)
    print(graph)                      # its last line is the verdict; "not confirmed: call graph.confirm()" before
    small = graph.prune()
    found = small.confirm(n_edges=64, n_nodes=32, n_random=20, paraphrases=[...], seed=0)
    found.verdict, found.failed       # one line with the numbers; the names of the tests that were not passed
    found.frozen.correlation          # edges ablated in the frozen model: predicted against measured
    found.attention.sign_agreement    # the same edges under live attention and norms
    found.nodes.predicted             # nodes ablated in the model itself, .measured, .source, .target
    found.faithfulness, found.random, found.p_random, found.completeness, found.sizes, found.curve, found.spread

    why = qk_attribution(graph, layer, head, query, key)   # which pairs of sources make the head attend
    why.pairs(10, kinds=("token", "feature")), why.by_key

    circuit = feature_circuit(model, saes, [Pair(clean, patch, right, wrong), ...], method="integrated")
    circuit.nodes, circuit.edges, circuit.faithfulness(held_out, errors="default"), circuit.curve(held_out).cpr
    circuit.random(held_out)          # faithfulness of random circuits of as many features at the same places

torch is imported with the first name that is used; it comes with the extra `lm`.
"""

from __future__ import annotations

from typing import Any

from sparse_sae._lazy import public

_PUBLIC = {
    "Ablations": "confirmation",
    "AttributionGraph": "graph",
    "Confirmation": "confirmation",
    "DictionarySet": "dictionaries",
    "Feature": "targets",
    "FeatureCircuit": "feature_circuits",
    "Frozen": "frozen",
    "InPlace": "set_measures",
    "Logit": "targets",
    "LogitDifference": "targets",
    "LogitFunction": "targets",
    "Pair": "pairs",
    "QKAttribution": "qk",
    "SetCodes": "codes",
    "ablated": "in_place",
    "attribute": "attribution",
    "attribute_many": "attribution",
    "confirm": "confirmation",
    "encode_texts": "codes",
    "era": "virtual",
    "feature_circuit": "feature_circuits",
    "features_of": "names",
    "freeze": "frozen",
    "graph_of": "attribution",
    "head_scores": "heads",
    "label_features": "names",
    "load_graph": "files",
    "load_names": "names",
    "named": "names",
    "neighbours": "virtual",
    "pair_margins": "pairs",
    "places_of": "set_training",
    "qk_attribution": "qk",
    "replacement_quality": "set_measures",
    "save_graph": "files",
    "save_names": "names",
    "set_quality": "set_measures",
    "supernodes": "names",
    "train_set": "set_training",
    "twera": "virtual",
    "virtual_weights": "virtual",
    "write_neuronpedia": "neuronpedia",
    "write_page": "page",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    return public(__name__, _PUBLIC, name)


def __dir__() -> list[str]:
    return __all__
