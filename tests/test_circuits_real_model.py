"""Induction heads of a real model: found by prefix matching, and what repeats."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from sparse_sae.circuits import head_scores  # noqa: E402
from sparse_sae.lm import load_model, resolve  # noqa: E402

pytestmark = pytest.mark.slow


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


def test_induction_heads_are_found_by_prefix_matching_and_are_what_repeats() -> None:
    lm = load_model()
    scores = head_scores(lm, n_sequences=2)
    found = scores.induction(0.3)
    assert len(found) >= 3 and scores.prefix_matching.max() > 10 * scores.chance
    assert min(layer for layer, _ in found) > min(layer for layer, _ in scores.previous(0.3))
    # without them the repetition is lost; without as many others of the same layers much less of it is
    rng, six = np.random.default_rng(0), found[:6]
    others = [(a, h) for a in sorted({a for a, _ in six}) for h in range(scores.prefix_matching.shape[1])]
    others = [place for place in others if scores.prefix_matching[place] < 0.1]
    clean, without = loss_of_repetition(lm, []), loss_of_repetition(lm, six)
    random = [
        loss_of_repetition(lm, [others[i] for i in rng.permutation(len(others))[: len(six)]])
        for _ in range(2)
    ]
    assert without - clean > 2 * (max(random) - clean), (clean, without, random)
