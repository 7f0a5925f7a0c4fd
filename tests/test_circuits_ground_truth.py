"""Circuits that are known, because the models were wired by hand: every edge found, and no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import wired_models  # noqa: E402
from sparse_sae.circuits import Feature, Logit, attribute, head_scores, qk_attribution  # noqa: E402
from wired_circuits import PROGRAMS, f1, found_edges, induction_edges, repeated  # noqa: E402


@pytest.mark.parametrize(("make", "prompts"), PROGRAMS.values(), ids=PROGRAMS)
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
    edges = induction_edges(ids, place, answer)
    assert f1(found_edges(graph), edges) == 1.0, found_edges(graph) ^ edges
    assert ids[place] == answer

    for node in np.flatnonzero(graph.kind == 2):
        layer, head = np.unravel_index(np.abs(graph.heads_of(node)).argmax(), graph.heads.shape[1:])
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
