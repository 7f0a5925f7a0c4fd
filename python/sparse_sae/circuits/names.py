"""Names of features: labels from where they fire and what they promote, a user's own, and groups of features."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sae._arguments import real, whole
from sparse_sae._io.atomic import write_json
from sparse_sae.circuits.codes import SetCodes
from sparse_sae.circuits.dictionaries import DictionarySet
from sparse_sae.circuits.graph import FEATURE, AttributionGraph

Names = Mapping[tuple[int, int], str]
_FORMAT = "sparse_sae feature names"


def label_features(
    model: Any,
    dictionaries: DictionarySet,
    codes: SetCodes,
    features: Sequence[tuple[int, int]],
    *,
    contexts: int = 20,
    shown: int = 3,
) -> dict[tuple[int, int], str]:
    """A label for each feature: the tokens on which it fires most, and those that it promotes directly.

    « late, delayed → refund, back»: the most frequent tokens of its top contexts, weighted by activation, and the
    tokens whose logits its decoder row raises most through the final norm and the unembedding (the logit lens, which
    says little in early layers). No language model judges these labels: they are a hint where to look.

    Args:
        model: a `LanguageModel`; its tokenizer names tokens.
        dictionaries: the set; codes: of it, on texts like those of interest.
        features: (layer, latent) of transcoders of MLPs.
        contexts: top tokens that are looked at. shown: tokens of each sort in a label.

    Raises:
        ValueError: a layer without transcoder, or a latent that it does not have.

    >>> label_features(lm, made, codes, [(12, 345)])  # doctest: +SKIP
    {(12, 345): 'late, delayed → refund, back'}
    """
    from sparse_sae.lm import direct_logits

    found: dict[tuple[int, int], str] = {}
    by_layer: dict[int, list[int]] = {}
    for layer, latent in features:
        hook = _hook(dictionaries, layer)
        whole("latent", latent, least=0, most=dictionaries[hook].sae.d_sae - 1)
        by_layer.setdefault(layer, []).append(latent)
    for layer, latents in by_layer.items():
        hook = _hook(dictionaries, layer)
        columns = codes.of(hook)[:, latents].tocsc()
        promoted = np.argsort(-direct_logits(model, dictionaries[hook].sae, latents), axis=1, kind="stable")
        for i, latent in enumerate(latents):
            part = slice(columns.indptr[i], columns.indptr[i + 1])
            fires = _words(model, codes, columns.indices[part], columns.data[part], contexts)[:shown]
            words = [_word(model, int(t)) for t in promoted[i, : 4 * shown]]
            makes = list(dict.fromkeys(w for w in words if w))[:shown]
            found[layer, latent] = f"{', '.join(fires) or 'never fires here'} → {', '.join(makes)}"
    return found


def _words(model: Any, codes: SetCodes, rows: NDArray[Any], values: NDArray[Any], contexts: int) -> list[str]:
    """Texts of the tokens of the top contexts, those with the largest sum of activations first."""
    total: dict[str, float] = {}
    for i in np.argsort(-values, kind="stable")[:contexts]:
        word = _word(model, int(codes.tokens[rows[i]])) or "⏎"
        total[word] = total.get(word, 0.0) + float(values[i])
    return sorted(total, key=lambda word: -total[word])


def _word(model: Any, token: int) -> str:
    return " ".join(str(model.tokenizer.decode([token])).split())


def _hook(dictionaries: DictionarySet, layer: int) -> str:
    hook = f"blocks.{layer}.hook_mlp_out"
    if hook not in dictionaries:
        raise ValueError(
            f"layer: {layer} has no transcoder in this set, expected one of {', '.join(dictionaries)}"
        )
    return hook


def save_names(names: Names, path: str | Path) -> None:
    """Write names as JSON that is meant to be edited by hand: {"12/345": "asks for a refund"}.

    >>> save_names({(12, 345): "asks for a refund"}, "names.json")  # doctest: +SKIP
    """
    write_json(
        path, {"format": _FORMAT, "names": {f"{a}/{b}": text for (a, b), text in sorted(names.items())}}
    )


def load_names(path: str | Path) -> dict[tuple[int, int], str]:
    """Read names from a file of `save_names`, or from a plain JSON object of "layer/latent": text.

    Raises:
        FileNotFoundError: no file there. ValueError: not such a file; the message names the entry.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    names = content.get("names", content) if isinstance(content, dict) else None
    if not isinstance(names, dict):
        raise ValueError(f'{path}: expected an object such as {{"12/345": "asks for a refund"}}')
    found = {}
    for key, text in names.items():
        match = re.fullmatch(r"(\d+)/(\d+)", key)
        if key == "format":
            continue
        if match is None or not isinstance(text, str):
            raise ValueError(f'{path}: entry {key!r}: {text!r:.60}, expected "layer/latent": "a name"')
        found[int(match[1]), int(match[2])] = text
    return found


def named(graph: AttributionGraph, names: Names) -> AttributionGraph:
    """The same graph, whose features are called by their names wherever it is printed."""
    labels = list(graph.labels)
    for i in np.flatnonzero(graph.kind == FEATURE):
        layer, latent = int(graph.layer[i]), int(graph.latent[i])
        if (layer, latent) in names:
            labels[i] = f"{names[layer, latent]} (L{layer}/{latent} at {graph.words[graph.position[i]]!r})"
    return replace(graph, labels=labels)


def features_of(graph: AttributionGraph) -> list[tuple[int, int]]:
    """(layer, latent) of the features of a graph, each once, in its order."""
    nodes = np.flatnonzero(graph.kind == FEATURE)
    return list(dict.fromkeys((int(graph.layer[i]), int(graph.latent[i])) for i in nodes))


def supernodes(
    graph: AttributionGraph,
    model: Any,
    dictionaries: DictionarySet,
    names: Names | None = None,
    codes: SetCodes | None = None,
    *,
    similarity: float = 0.5,
) -> list[tuple[str, list[int]]]:
    """Features of a graph that do the same, clustered: what circuit pages call supernodes.

    Two features are alike by the mean of two cosines: of what they write to the logits (decoder rows through the
    final norm's gain and the unembedding), and of what they are connected to (with codes, their TWERA to and from all
    features of the graph; without, their edges in it). Clusters are average linkage, cut at `similarity`.

    Args:
        graph: usually a pruned one. model, dictionaries: what it was made of.
        names: a group is called after the name that most of its members' nodes have; else by its strongest latent.
        codes: of the set, from `encode_texts`.
        similarity: between 0 and 1; higher makes more and smaller groups.

    Returns:
        (name, numbers of nodes) of every group of two or more latents, or of one at several positions.
    """
    from scipy.cluster.hierarchy import fcluster, linkage

    real("similarity", similarity, least=0)
    nodes = np.flatnonzero(graph.kind == FEATURE)
    features = features_of(graph)
    if len(features) < 2:
        return []
    number = {feature: i for i, feature in enumerate(features)}
    owner = np.array([number[int(graph.layer[i]), int(graph.latent[i])] for i in nodes])
    connected = (
        _by_edges(graph, nodes, owner) if codes is None else _by_twera(model, dictionaries, features, codes)
    )
    alike = (_logit_cosines(model, dictionaries, features) + _normalised(connected @ connected.T)) / 2
    distance = 1 - alike[np.triu_indices(len(features), 1)]
    cluster = fcluster(linkage(np.clip(distance, 0, None), "average"), 1 - similarity, "distance")
    influence = graph.influence
    groups = []
    for which in dict.fromkeys(cluster[owner]):
        members = [int(i) for i in nodes[cluster[owner] == which]]
        if len(members) < 2:
            continue
        members.sort(key=lambda i: -influence[i])
        first = [(int(graph.layer[i]), int(graph.latent[i])) for i in members]
        named = Counter((names or {}).get(f, "") for f in first)
        named.pop("", None)
        groups.append((named.most_common(1)[0][0] if named else f"L{first[0][0]}/{first[0][1]}", members))
    groups.sort(key=lambda g: -sum(influence[i] for i in g[1]))
    return groups


def _logit_cosines(
    model: Any, dictionaries: DictionarySet, features: Sequence[tuple[int, int]]
) -> NDArray[Any]:
    from sparse_sae.circuits.families import transformer_of

    tf = transformer_of(model)
    rows = np.stack([dictionaries[_hook(dictionaries, a)].sae.rows["W_dec"][b] for a, b in features])
    rows = rows * tf.norm_final.gain.float().cpu().numpy()
    U = tf.W_U.float().cpu().numpy()
    U = U - U.mean(0)  # softmax does not see what all logits share
    return _normalised(rows @ (U.T @ U) @ rows.T)


def _by_edges(graph: AttributionGraph, nodes: NDArray[Any], owner: NDArray[Any]) -> NDArray[Any]:
    """(n, 2 nodes) edges from and to each feature, added over its positions."""
    n, edges = int(owner.max()) + 1, graph.edges.toarray()
    out, into = np.zeros((n, len(graph))), np.zeros((n, len(graph)))
    np.add.at(out, owner, edges[:, nodes].T)
    np.add.at(into, owner, edges[nodes])
    return np.hstack([out, into])


def _by_twera(
    model: Any, dictionaries: DictionarySet, features: Sequence[tuple[int, int]], codes: SetCodes
) -> NDArray[Any]:
    """(n, 2 n) TWERA from and to each feature."""
    from sparse_sae.circuits.virtual import twera, virtual_weights

    found = np.zeros((len(features), len(features)))
    layers, latents = np.array(features).T
    for a in np.unique(layers):
        for b in np.unique(layers[layers > a]):
            low, high = np.flatnonzero(layers == a), np.flatnonzero(layers == b)
            hooks = _hook(dictionaries, int(a)), _hook(dictionaries, int(b))
            met = twera(codes.of(hooks[0])[:, latents[low]], codes.of(hooks[1])[:, latents[high]])
            virtual = virtual_weights(model, dictionaries, *hooks)
            found[np.ix_(low, high)] = met * virtual[np.ix_(latents[low], latents[high])]
    return np.hstack([found, found.T])


def _normalised(gram: NDArray[Any]) -> NDArray[Any]:
    size = np.sqrt(np.maximum(np.diag(gram), 1e-30))
    return np.asarray(gram / size[:, None] / size)
