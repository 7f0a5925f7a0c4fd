"""A real model: induction heads are what repeats, and a feature circuit of agreement holds for other nouns."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from sparse_sae.circuits import feature_circuit, head_scores  # noqa: E402
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


def test_an_agreement_circuit_of_some_nouns_holds_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study of docs/circuits.md, small: one SAE, few pairs."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "studies" / "known_circuits"))
    from agreement import NOUNS, done_right, residual_set, templates

    lm = load_model()
    made = residual_set(lm, tmp_path / "set", [12], d_sae=1152, capture_tokens=6000, tokens=30_000)
    sides = [done_right(lm, templates(*NOUNS[i : i + 2], 16, i)) for i in (0, 2)]
    (pairs, _), (others, margins) = sides
    assert min(len(pairs), len(others)) >= 10 and (margins > 0).mean() > 0.8
    assert not {w for p in pairs for w in p.clean.split()[1::3]} & {
        w for p in others for w in p.clean.split()[1::3]
    }
    circuit = feature_circuit(
        lm, made, pairs, node_threshold=1e-9, max_nodes=40, edge_threshold=None, batch_size=16
    )
    random = circuit.random(others, n_random=5)
    assert circuit.faithfulness(others) > 0.5 and circuit.faithfulness(others) > random.max() + 0.2
    assert circuit.completeness(others) < 0.3
    # what carries the number stands where the subject stood, and is carried on to the verb's place
    assert {node.position for node in sorted(circuit.nodes, key=lambda n: -abs(n.effect))[:6]} <= {1, 4}
