"""The command circuit: from a prompt and a target to a graph, its file and its page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._parsing import AddCommand, count
from .models import add_model, open_model


def add_circuit(add: AddCommand) -> None:
    """`sparse-sae circuit`."""
    trace = add("circuit", _circuit, "which features make a model say what it says, held against ablations")
    trace.add_argument("prompt", help="what the user says; given to the model in its chat template")
    trace.add_argument("--plain", action="store_true", help="no chat template")
    trace.add_argument("--set", type=Path, required=True, metavar="DIR", help="directory of train-set")
    trace.add_argument(
        "--target", action="append", default=[], metavar="TOKEN",
        help="the next token to explain, such as ' Yes' (default: the likeliest ones); may be given several times",
    )  # fmt: skip
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
    add_model(trace)


def _circuit(options: argparse.Namespace) -> int:
    targets = _targets(options)
    model = open_model(options)
    from ..circuits import DictionarySet, attribute, save_graph, write_neuronpedia, write_page
    from ..lm.model.prompts import token_ids

    def ids(prompt: str) -> list[int]:
        return token_ids(prompt if options.plain else [{"role": "user", "content": prompt}], model.tokenizer)

    whole = attribute(
        model,
        DictionarySet.load(options.set),
        ids(options.prompt),
        targets,
        max_features=options.max_features,
    )
    thresholds = {"node_threshold": options.node_threshold, "edge_threshold": options.edge_threshold}
    graph = whole.prune(**thresholds)
    if not options.no_confirm:
        graph.confirm(paraphrases=[ids(prompt) for prompt in options.paraphrase])
    print(f"{str(whole).splitlines()[0]}\npruned: {graph}")
    _print_strongest(graph)
    if options.npz:
        save_graph(whole, options.npz)
    if options.out:
        write_neuronpedia(graph, options.out, slug=_slug(options.prompt), **thresholds)
    if options.html:
        write_page(graph, options.html, whole=whole)
    return 0


def _targets(options: argparse.Namespace) -> Any:
    from ..circuits import Logit, LogitDifference

    if options.minus is None:
        return [Logit(token) for token in options.target] or None
    if not options.target:
        raise ValueError("--minus: needs --target, the token it is held against")
    return [LogitDifference(token, options.minus) for token in options.target]


def _slug(prompt: str) -> str:
    """Letters and digits of a prompt, for addresses."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in prompt.lower()).split()
    return "-".join(words)[:60].strip("-") or "graph"


def _print_strongest(graph: Any, n: int = 12) -> None:
    """The features through which most influence passes, and where it comes from."""
    value = graph.influence
    for i in [int(i) for i in (-value).argsort(kind="stable") if graph.kind[i] == 2][:n]:
        print(f"{value[i]:8.4f}  {graph.labels[i]}")
