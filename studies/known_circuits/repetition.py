"""Induction heads of SmolLM2, found by prefix matching, and what the model loses of a repetition without them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from sparse_sae.circuits import head_scores
from sparse_sae.lm import resolve

LEAST = 0.3  # prefix matching of a head that counts as one
SMALL = 0.1  # and of those that are taken out beside


def loss_of_repetition(lm: Any, heads: list[tuple[int, int]]) -> float:
    """Mean loss, in nats, on the second half of random tokens said twice, with the outputs of heads set to zero."""
    rng = np.random.default_rng(5)
    width = lm.d_model // lm.config.num_attention_heads
    blocks = [rng.integers(100, 40_000, 25).tolist() for _ in range(4)]
    ids = torch.tensor([[lm.config.bos_token_id, *block, *block] for block in blocks])
    with ExitStack() as stack, torch.no_grad():
        for layer in {layer for layer, _ in heads}:
            gone = [head for at, head in heads if at == layer]

            def edit(x: Any, gone: list[int] = gone) -> Any:
                x = x.clone()
                for head in gone:
                    x[..., head * width : (head + 1) * width] = 0
                return x

            stack.enter_context(resolve(lm, f"blocks.{layer}.attn.hook_z").attach(edit))
        logits = lm.model(ids, use_cache=False).logits.log_softmax(-1)
    return -float(logits[:, 26:-1].gather(-1, ids[:, 27:, None]).mean())


def study(lm: Any, n_random: int = 5) -> dict[str, Any]:
    """The heads found, and the loss of a repetition without the six best, beside as many others of their layers."""
    scores = head_scores(lm, n_sequences=2)
    found, rng = scores.induction(LEAST), np.random.default_rng(0)
    six = found[:6]
    others = [(a, h) for a in sorted({a for a, _ in six}) for h in range(scores.prefix_matching.shape[1])]
    others = [place for place in others if scores.prefix_matching[place] < SMALL]
    return {
        "model": lm.name,
        "heads": [list(h) for h in found],
        "previous": [list(h) for h in scores.previous(LEAST)],
        "prefix_matching": [float(scores.prefix_matching[h]) for h in found],
        "chance": scores.chance,
        "loss": loss_of_repetition(lm, []),
        "without": loss_of_repetition(lm, six),
        "taken_out": len(six),
        "without_random": [
            loss_of_repetition(lm, [others[i] for i in rng.permutation(len(others))[: len(six)]])
            for _ in range(n_random)
        ],
    }
