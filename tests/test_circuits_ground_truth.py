"""Circuits that are known, because the models were wired by hand: every edge found, and no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import wired_models  # noqa: E402
from sparse_sae.circuits import AttributionGraph, Feature, Logit, attribute, head_scores, qk_attribution  # noqa: E402

SHARE = 0.02  # of a row's absolute sum: what is less is no edge


def found_edges(graph: AttributionGraph) -> set[Any]:
    """Edges as `wired_models` names them."""

    def name(node: int) -> Any:
        kind, layer, latent, position = (
            int(x[node]) for x in (graph.kind, graph.layer, graph.latent, graph.position)
        )
        if kind == 3:
            return "target"
        return [("token", position), ("error", layer, position), ("feature", layer, latent, position)][kind]

    shares = graph.normalised().tocoo()
    rows, columns = shares.coords
    return {
        (name(int(t)), name(int(s))) for t, s, x in zip(rows, columns, shares.data, strict=True) if x > SHARE
    }


def f1(found: set[Any], true: set[Any]) -> float:
    return 2 * len(found & true) / (len(found) + len(true))


@pytest.mark.parametrize(
    ("make", "prompts"),
    [
        (wired_models.fractions, [[0, 1, 3, 3, 2], [0, 1, 2, 1, 3, 2, 1], [0, 3, 3, 3], [0, 2, 3, 1, 3, 3, 3]]),
        (wired_models.counts, [[0, 1, 2, 1, 1, 3, 2], [0, 1, 1, 1, 1], [0, 3, 2, 1], [0, 2, 2, 3, 3, 3, 2]]),
        (wired_models.backwards, [[0, 1, 2, 3, 4, 5, 1, 1], [0, 4, 2, 2, 1, 5, 1], [0, 4, 2, 3, 1, 5, 1, 2, 3]]),
    ],
    ids=["fractions", "counts", "backwards"],
)  # fmt: skip
def test_every_edge_of_a_compiled_program_and_no_other(make: Any, prompts: list[list[int]]) -> None:
    model, saes, truth = make()
    for ids in prompts:
        answer, edges = truth(ids)
        logits = model(torch.tensor([ids])).logits[0, -1]
        token = int(logits.argmax())
        graph = attribute(model, saes, ids, Logit(token), max_features=None)
        assert f1(found_edges(graph), edges) == 1.0, (found_edges(graph) ^ edges, answer)
        # the program is right, and says so by the edge that the graph names
        assert [i for i, value in enumerate(logits) if value > 1e-3] == [token]
        assert graph.replacement > 0.999
        small = graph.prune()
        assert found_edges(small) <= edges
        assert small.confirm().frozen.correlation > 0.999 or small.edges.nnz < 3


def repeated(seed: int) -> tuple[list[int], int, int]:
    """BOS, letters, and some of them again: ids, the place to look at, what follows."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 8))
    once = [int(i) for i in rng.permutation(wired_models.N_LETTERS)[:n] + 1]
    again = int(rng.integers(1, n))
    ids = [0, *once, *once[:again]]
    return ids, again + 1, once[again]


def test_the_wired_model_continues_what_it_has_seen() -> None:
    model, _ = wired_models.induction()
    right = [
        int(model(torch.tensor([ids])).logits[0, -1].argmax()) == answer
        for ids, _, answer in map(repeated, range(50))
    ]
    assert all(right)


def test_heads_are_named_by_what_they_look_at() -> None:
    model, _ = wired_models.induction()
    scores = head_scores(model, n_sequences=3, length=6)
    assert scores.previous(0.9) == [(0, 0)] and scores.induction(0.9) == [(1, 1)]
    assert 1 / 14 < scores.chance < 1 / 7
    with pytest.raises(ValueError, match="there are 8 tokens to draw from"):
        head_scores(model, length=9)


@pytest.mark.parametrize("seed", range(6))
def test_induction_edges_heads_and_pair(seed: int) -> None:
    model, saes = wired_models.induction()
    ids, place, answer = repeated(seed)
    last = len(ids) - 1
    graph = attribute(model, saes, ids, Logit(answer), max_features=None)
    held = {(("feature", 0, ids[p - 1] - 1, p), ("token", p - 1)) for p in range(2, len(ids))}
    # the second head fetches at every place that repeats a letter
    first = place - 1  # letters seen before the repetition ends
    repeats = range(len(ids) - first, len(ids))
    said = {(("feature", 1, ids[where(ids, p)] - 1, p), ("token", where(ids, p))) for p in repeats}
    edges = held | said | {("target", ("feature", 1, answer - 1, last))}
    assert f1(found_edges(graph), edges) == 1.0, found_edges(graph) ^ edges
    assert ids[place] == answer

    heads = graph.heads
    for node in np.flatnonzero(graph.kind == 2):
        layer, head = np.unravel_index(np.abs(heads[node]).argmax(), heads[node].shape)
        assert (layer, head) == ((0, 0) if graph.layer[node] == 0 else (1, 1))

    why = qk_attribution(graph, 1, 1, query=-1, key=place)
    assert why.pattern > 0.9
    best = why.pairs(1)[0]
    current = ids[last]
    assert best.query == last  # the letter that stands here
    feature = graph.origin.frozen.first_feature
    assert best.key >= feature and best.value > 0.9 * why.score
    node = best.key
    assert (graph.layer[node], graph.latent[node], graph.position[node]) == (0, current - 1, place)
    # and what made that feature is the same letter, one place before, through the head that looks back
    (row,) = (
        attribute(model, saes, ids, Feature(0, place, current - 1), max_features=None).edges[[-1]].toarray()
    )
    assert row.argmax() == place - 1

    # The edges carry the letter, not the attention: without the feature that draws the head there the circuit is
    # faithful only where patterns are held, and with it as it stands.
    features = np.flatnonzero(graph.kind == 2)
    carrying = features[graph.influence[features] > 0.5 * graph.weight.max()]
    without = graph.confirm(circuit=carrying)
    assert without.frozen.correlation > 0.999 and without.patterns_held > 0.999 and without.faithfulness < 0.1
    drawn = graph.confirm(circuit=[*carrying, node])
    assert drawn.faithfulness > 0.99


def where(ids: list[int], p: int) -> int:
    """The place after the earlier one of the same letter."""
    return ids.index(ids[p]) + 1
