"""The hand-wired models of the tests, and the small trained one: what attribution finds of circuits that are known."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

import trained_models
import wired_models
from sparse_sae.circuits import Logit, attribute, head_scores, qk_attribution
from wired_circuits import PROGRAMS, f1, found_edges, induction_edges, repeated


def programs() -> dict[str, Any]:
    """Edge F1 of each compiled program: the least over its prompts."""
    import torch

    out = {}
    for name, (make, prompts) in PROGRAMS.items():
        model, saes, truth = make()
        scores, edges, frozen = [], 0, []
        for ids in prompts:
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
            graph = attribute(model, saes, ids, Logit(token), max_features=None)
            true = truth(ids)[1]
            scores.append(f1(found_edges(graph), true))
            edges += len(true)
            frozen.append(graph.confirm(n_random=0).frozen.correlation)
        out[name] = {
            "prompts": len(prompts),
            "edges": edges,
            "f1_least": min(scores),
            "frozen_least": float(np.nanmin(frozen)),
        }
    return out


def induction(prompts: int = 20) -> dict[str, Any]:
    """The wired induction model: edges, heads, and the pair that draws the second head."""
    model, saes = wired_models.induction()
    heads = head_scores(model, n_sequences=3, length=6)
    scores, pairs = [], 0
    for seed in range(prompts):
        ids, place, answer = repeated(seed)
        graph = attribute(model, saes, ids, Logit(answer), max_features=None)
        scores.append(f1(found_edges(graph), induction_edges(ids, place, answer)))
        best = qk_attribution(graph, 1, 1, query=-1, key=place).pairs(1)[0]
        node = best.key
        pairs += best.query == len(ids) - 1 and (
            graph.kind[node],
            graph.layer[node],
            graph.latent[node],
            graph.position[node],
        ) == (2, 0, ids[-1] - 1, place)
    return {
        "prompts": prompts,
        "f1_least": min(scores),
        "pair_found": int(pairs),
        "previous": [list(h) for h in heads.previous(0.9)],
        "induction": [list(h) for h in heads.induction(0.9)],
    }


def trained() -> dict[str, Any]:
    """The 2-layer model that has learned to repeat."""
    learned = trained_models.learn()
    return {
        "accuracy": learned.accuracy,
        **trained_models.circuit_in_features(learned),
        "qk": trained_models.head_in_features(learned),
    }
