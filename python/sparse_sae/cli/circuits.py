"""The command circuit: from a prompt and a target to a graph, its file and its page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sparse_sae.cli._parsing import AddCommand, count
from sparse_sae.cli.models import add_model, lines, open_model


def add_circuit(add: AddCommand) -> None:
    """`sparse-sae circuit`."""
    trace = add("circuit", _circuit, "which features make a model say what it says, held against ablations")
    trace.add_argument("prompt", help="what the user says; given to the model in its chat template")
    trace.add_argument("--plain", action="store_true", help="no chat template")
    trace.add_argument("--set", type=Path, required=True, metavar="DIR", help="directory of train-set")
    trace.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="TOKEN",
        help="the next token to explain, such as ' Yes' (default: the likeliest ones); may be given several times",
    )
    trace.add_argument(
        "--minus", metavar="TOKEN", help="explain by how much the target's logit exceeds this one's"
    )
    trace.add_argument(
        "--out", type=Path, metavar="FILE", help="graph as JSON for Neuronpedia and circuit-tracer"
    )
    trace.add_argument(
        "--npz", type=Path, metavar="FILE", help="whole graph, for sparse_sae.circuits.load_graph"
    )
    trace.add_argument("--html", type=Path, metavar="FILE", help="page that opens without a network")
    trace.add_argument(
        "--max-features", type=count, default=1000, help="whose inputs are computed (default: 1000)"
    )
    trace.add_argument(
        "--node-threshold", type=float, default=0.8, help="influence that is kept (default: 0.8)"
    )
    trace.add_argument("--edge-threshold", type=float, default=0.98, help="of the edges (default: 0.98)")
    trace.add_argument(
        "--no-confirm", action="store_true", help="no ablations: the graph is then only a claim"
    )
    trace.add_argument(
        "--paraphrase",
        action="append",
        default=[],
        metavar="PROMPT",
        help="another wording to confirm it on, plain",
    )
    trace.add_argument(
        "--names", type=Path, metavar="FILE", help='your names of features, JSON: {"12/345": "a name"}'
    )
    trace.add_argument(
        "--label-tokens",
        type=count,
        metavar="N",
        help="label the features by the tokens of N tokens of text on which they fire, and by what they promote",
    )
    trace.add_argument(
        "--texts", type=Path, metavar="FILE", help="that text, one a line (default: Python's prose)"
    )
    trace.add_argument(
        "--save-names", type=Path, metavar="FILE", help="write the names used there, to be edited"
    )
    add_model(trace)


def _circuit(options: argparse.Namespace) -> int:
    targets = _targets(options)
    model = open_model(options)
    from sparse_sae.circuits import (
        DictionarySet,
        attribute,
        load_names,
        named,
        save_graph,
        save_names,
        supernodes,
        write_neuronpedia,
        write_page,
    )
    from sparse_sae.lm.model.prompts import token_ids

    def ids(prompt: str) -> list[int]:
        return token_ids(prompt if options.plain else [{"role": "user", "content": prompt}], model.tokenizer)

    own = load_names(options.names) if options.names else {}
    made = DictionarySet.load(options.set)
    whole = attribute(model, made, ids(options.prompt), targets, max_features=options.max_features)
    thresholds = {"node_threshold": options.node_threshold, "edge_threshold": options.edge_threshold}
    graph = whole.prune(**thresholds)
    if not options.no_confirm:
        graph.confirm(paraphrases=[ids(prompt) for prompt in options.paraphrase])
    names, codes = _named(options, model, made, graph, own)
    graph = named(graph, names)
    groups = supernodes(graph, model, made, names, codes)
    print(f"{str(whole).splitlines()[0]}\npruned: {graph}")
    _print_strongest(graph)
    if options.save_names:
        save_names(names, options.save_names)
    if options.npz:
        save_graph(whole, options.npz)
    if options.out:
        write_neuronpedia(
            graph, options.out, slug=_slug(options.prompt), names=names, supernodes=groups, **thresholds
        )
    if options.html:
        write_page(graph, options.html, whole=whole, names=names, supernodes=groups)
    return 0


def _targets(options: argparse.Namespace) -> Any:
    from sparse_sae.circuits import Logit, LogitDifference

    if options.minus is None:
        return [Logit(token) for token in options.target] or None
    if not options.target:
        raise ValueError("--minus: needs --target, the token it is held against")
    return [LogitDifference(token, options.minus) for token in options.target]


def _named(
    options: argparse.Namespace, model: Any, made: Any, graph: Any, own: dict[Any, str]
) -> tuple[Any, Any]:
    """Names of the graph's features, the user's own before labels, and the codes that the labels are from."""
    if options.label_tokens is None:
        return own, None
    from sparse_sae.circuits import encode_texts, features_of, label_features
    from sparse_sae.lm import english_documents

    texts = lines(options.texts) if options.texts else english_documents()
    codes = encode_texts(model, made, texts, max_tokens=options.label_tokens)
    return {**label_features(model, made, codes, features_of(graph)), **own}, codes


def _slug(prompt: str) -> str:
    """Letters and digits of a prompt, for addresses."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in prompt.lower()).split()
    return "-".join(words)[:60].strip("-") or "graph"


def _print_strongest(graph: Any, n: int = 12) -> None:
    """The features through which most influence passes, and where it comes from."""
    value = graph.influence
    for i in [int(i) for i in (-value).argsort(kind="stable") if graph.kind[i] == 2][:n]:
        print(f"{value[i]:8.4f}  {graph.labels[i]}")
