"""`attribute`: from a prompt and a target to the graph of what made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae._arguments import whole
from sparse_sae.circuits.dictionaries import DictionarySet
from sparse_sae.circuits.frozen import Frozen, freeze
from sparse_sae.circuits.graph import TARGET, AttributionGraph
from sparse_sae.circuits.influence import EdgeRow, edge_row, ordered_influence
from sparse_sae.circuits.memory import give_back
from sparse_sae.circuits.origin import Origin, source_kinds, source_labels
from sparse_sae.circuits.pull import Pulled, pull
from sparse_sae.circuits.rows import Row, feature_row
from sparse_sae.circuits.targets import Logit, Target, rows_of
from sparse_sae.lm.model.prompts import Prompt, token_ids
from sparse_sae.sae import SAE

_GROWTH = 1 << 20  # edges that room is made for at a time: what is not needed of it is memory too
_ROUND = 128  # rows chosen by the influence that the rows before them give; fixed, so that no batch size changes it


def attribute(
    model: Any,
    dictionaries: DictionarySet | Mapping[Any, SAE],
    prompt: Prompt,
    targets: Sequence[Target] | Target | None = None,
    *,
    max_features: int | None = 1000,
    max_edges: int = 20_000,
    first_position: bool = False,
    any_name: bool = False,
    confirm: bool = False,
) -> AttributionGraph:
    """The attribution graph of a prompt on transcoders (Ameisen et al. 2025; Dunefsky et al. 2024).

    Args:
        model: a `LanguageModel` or a transformers model: Llama, Mistral, Qwen 2 and 3, GPT-2.
        dictionaries: transcoders, with or without skip, of some or all layers.
        prompt: a text or chat messages (with the model's tokenizer), or token ids as they are.
        targets: what is explained: a token (its text or number, or `Logit`), `LogitDifference`, `Feature`,
            `LogitFunction`, or several of them. None for the likeliest tokens after the prompt: up to 10, or .95 of
            the probability.
        max_features: features whose own inputs are computed, the most influential first; None for all.
        max_edges: edges kept in a row, the largest; the sum of the others is in `graph.rest`.
        first_position: whether features and errors of the first position are nodes.
        any_name: accept dictionaries made for a model of another name.
        confirm: also ablate what the graph says matters (`graph.confirm()`), which costs about as much as 300
            forward passes of the prompt; `print(graph)` then ends with the verdict.

    Raises:
        ValueError: a prompt, target or dictionary that does not fit the model; the message says what to do.

    >>> graph = attribute(model, transcoders, "The capital of France is")  # doctest: +SKIP
    >>> print(graph.prune())  # doctest: +SKIP
    """
    for name, value in (("max_features", max_features), ("max_edges", max_edges)):
        if name == "max_edges" or value is not None:
            whole(name, value, 1)
    ids = prompt_ids(_tokenizer(model), prompt)
    frozen = freeze(model, dictionaries, ids, first_position=first_position, any_name=any_name)
    graph = graph_of(
        frozen, targets, max_features=max_features, max_edges=max_edges, tokenizer=_tokenizer(model)
    )
    if confirm:
        graph.confirm()
    return graph


def attribute_many(
    model: Any,
    dictionaries: DictionarySet | Mapping[Any, SAE],
    prompts: Sequence[Prompt],
    targets: Sequence[Target] | Target | None = None,
    **options: Any,
) -> list[AttributionGraph]:
    """`attribute` of several prompts with the same targets, each alone: without padding, and so the same bits.

    >>> first, second = attribute_many(model, transcoders, ["A refund is", "A return is"])  # doctest: +SKIP
    """
    if isinstance(prompts, str):
        raise TypeError("prompts: got one text, expected a list of them; call attribute for one")
    return [attribute(model, dictionaries, prompt, targets, **options) for prompt in prompts]


def graph_of(
    frozen: Frozen,
    targets: Sequence[Target] | Target | None = None,
    *,
    max_features: int | None = 1000,
    max_edges: int = 20_000,
    tokenizer: Any = None,
) -> AttributionGraph:
    """The graph of a frozen model, for the arguments see `attribute`."""
    asked = rows_of(frozen, targets, tokenizer)
    n_features, first = len(frozen.layer), frozen.first_feature
    wanted = n_features if max_features is None else min(max_features, n_features)
    rows = _Rows(frozen, max_edges)
    places = [frozen.n_sources + i for i in range(len(asked))]
    rows.compute(places, [a.row for a in asked])
    weight = np.zeros(frozen.n_sources + len(asked))
    weight[frozen.n_sources :] = [a.weight for a in asked]
    done = np.zeros(n_features, bool)
    while done.sum() < wanted:
        left = wanted - int(done.sum())
        if wanted == n_features:
            chosen = np.flatnonzero(~done)
        else:
            value = rows.influence(weight)[first : first + n_features]
            value[done] = -1
            chosen = np.sort(np.argsort(-value, kind="stable")[: min(_ROUND, left)])
        new = [
            feature_row(frozen, int(frozen.layer[i]), int(frozen.position[i]), int(frozen.latent[i]))
            for i in chosen
        ]
        rows.compute([first + int(i) for i in chosen], new)
        done[chosen] = True
    graph = _assemble(frozen, asked, rows, weight, tokenizer)
    if targets is None:  # the same tokens are asked where the graph is confirmed on another prompt
        targets = [Logit(a.latent) for a in asked]
    limits = {"max_features": max_features, "max_edges": max_edges}
    graph.origin = Origin(frozen, asked, targets, tokenizer, limits, graph.edges, np.arange(len(graph)))
    return graph


class _Rows:
    """Rows as they come, one after the other in two arrays that grow in place."""

    def __init__(self, frozen: Frozen, max_edges: int) -> None:
        self.frozen, self.max_edges = frozen, max_edges
        self.columns = np.empty(0, np.int32)
        self.values = np.empty(0, frozen.activation.cpu().numpy().dtype)
        self.ends, self.places = [0], list[int]()
        self.rest: list[float] = []
        self.bias: list[float] = []
        self.heads: list[NDArray[np.float32]] = []

    def compute(self, places: list[int], rows: list[Row]) -> None:
        def keep(numbers: list[int], pulled: Pulled) -> None:
            edges, heads = pulled.edges.cpu().numpy(), pulled.heads.float().cpu().numpy()
            for i, number in enumerate(numbers):
                columns, values, rest = _largest(edges[i], self.max_edges)
                begin, end = self.ends[-1], self.ends[-1] + len(columns)
                if end > len(self.values):
                    for array in (self.columns, self.values):
                        # No view of them is alive while rows are computed.
                        array.resize(max(end, len(array) + _GROWTH), refcheck=False)
                self.columns[begin:end], self.values[begin:end] = columns, values
                self.ends.append(end)
                self.places.append(places[number])
                self.rest.append(rest)
                self.bias.append(float(pulled.bias[i]))
                self.heads.append(heads[i])

        give_back()
        pull(self.frozen, rows, keep)

    def _edges(self) -> Iterator[EdgeRow]:
        for number, place in enumerate(self.places):
            at = slice(self.ends[number], self.ends[number + 1])
            yield edge_row(place, self.columns[at], self.values[at], self.rest[number])

    def influence(self, weight: NDArray[Any]) -> NDArray[np.float64]:
        """That of all nodes by the rows so far."""
        f = self.frozen
        n, layers = f.n_positions, f.transformer.n_layers
        asked = np.full(len(weight) - f.n_sources, layers + 1)
        depth = np.concatenate([np.full(n, -1), np.repeat(range(layers), n), f.layer.cpu().numpy(), asked])
        value = ordered_influence(self._edges(), weight, depth)
        if value is None:
            raise AssertionError("a row reads from its own layer or above")
        return value

    def matrix(self, n: int) -> csr_array:
        """(n, n) edges, rows in the order of the nodes. What is here is given up."""
        give_back()
        # SciPy widens the columns to the bounds' type.
        bounds = np.zeros(n + 1, np.int32 if self.ends[-1] < 1 << 31 else np.int64)
        bounds[np.add(self.places, 1)] = np.diff(self.ends)
        np.cumsum(bounds, out=bounds)
        # One array after the other, so that only one of the two lies in memory twice.
        self.columns = self._ordered(self.columns, bounds)
        self.values = self._ordered(self.values, bounds)
        return csr_array((self.values, self.columns, bounds), shape=(n, n))

    def _ordered(self, array: NDArray[Any], bounds: NDArray[Any]) -> NDArray[Any]:
        out = np.empty(self.ends[-1], array.dtype)
        for number, place in enumerate(self.places):
            out[bounds[place] : bounds[place + 1]] = array[self.ends[number] : self.ends[number + 1]]
        return out


def _largest(values: NDArray[Any], most: int) -> tuple[NDArray[np.int32], NDArray[Any], float]:
    """Columns and values of the edges of largest |value|, the first of equal ones, and the sum of the others'."""
    columns = np.flatnonzero(values).astype(np.int32)
    found = values[columns]
    if len(columns) <= most:
        return columns, found, 0.0
    size = np.abs(found)
    least = np.partition(size, len(size) - most)[len(size) - most]
    kept = size > least
    equal = np.flatnonzero(size == least)
    kept[equal[: most - int(kept.sum())]] = True
    return columns[kept], found[kept], float(size[~kept].sum(dtype=np.float64))


def _assemble(
    f: Frozen, asked: Sequence[Any], rows: _Rows, weight: NDArray[Any], tokenizer: Any
) -> AttributionGraph:
    n_tokens, n_layers, n = f.n_positions, f.transformer.n_layers, len(weight)
    edges = rows.matrix(n)  # first: it takes more memory than what is made after it
    errors = np.arange(n_layers * n_tokens)
    features = [x.cpu().numpy() for x in (f.layer, f.position, f.latent, f.activation)]
    words = [_word(tokenizer, i) for i in f.ids]
    n_asked, none = len(asked), np.full(n_tokens, -1)
    kind = np.concatenate([source_kinds(f), np.full(n_asked, TARGET)])
    labels = [*source_labels(f, words), *(a.label for a in asked)]
    bias, rest, expanded = np.zeros(n), np.zeros(n), np.zeros(n, bool)
    bias[rows.places], rest[rows.places], expanded[rows.places] = rows.bias, rows.rest, True
    heads = np.stack([rows.heads[i] for i in np.argsort(rows.places)])
    norms = f.error.norm(dim=-1).flatten().cpu().numpy()
    return AttributionGraph(
        f.transformer.name,
        f.ids,
        words,
        n_layers,
        kind.astype(np.int8),
        np.concatenate([none, errors // n_tokens, features[0], [a.layer for a in asked]]).astype(np.int32),
        np.concatenate(
            [np.arange(n_tokens), errors % n_tokens, features[1], [a.row.position for a in asked]]
        ).astype(np.int32),
        np.concatenate([f.ids, np.full(len(errors), -1), features[2], [a.latent for a in asked]]).astype(
            np.int64
        ),
        np.concatenate([np.ones(n_tokens), norms, features[3], [a.value for a in asked]]).astype(np.float64),
        weight,
        labels,
        edges,
        bias,
        rest,
        expanded,
        heads,
        sorted(set(range(n_layers)) - set(f.transcoders)),
    )


def _tokenizer(model: Any) -> Any:
    return None if isinstance(model, torch.nn.Module) else model.tokenizer


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of a prompt; ids are taken as they are."""
    if isinstance(prompt, str) or (len(prompt) and isinstance(prompt[0], Mapping)):
        if tokenizer is None:
            raise ValueError(
                "prompt: a text, but the model has no tokenizer; give token ids, or a model of load_model"
            )
        return token_ids(prompt, tokenizer)
    return [whole("prompt", i) for i in prompt]


def _word(tokenizer: Any, token: int) -> str:
    return str(token) if tokenizer is None else str(tokenizer.decode([token]))
