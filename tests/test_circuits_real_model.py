"""A real model: induction heads are what repeats, and a feature circuit of agreement holds for other nouns."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from sparse_sae.circuits import feature_circuit
from sparse_sae.lm import load_model

pytestmark = pytest.mark.slow


STUDY = Path(__file__).parent.parent / "studies" / "known_circuits"


def test_induction_heads_are_found_by_prefix_matching_and_are_what_repeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(STUDY))
    from repetition import study

    found = study(load_model(), n_random=2)
    assert len(found["heads"]) >= 3 and max(found["prefix_matching"]) > 10 * found["chance"]
    assert min(layer for layer, _ in found["heads"]) > min(layer for layer, _ in found["previous"])
    # without them the repetition is lost; without as many others of the same layers much less of it is
    lost, random = found["without"] - found["loss"], max(found["without_random"]) - found["loss"]
    assert lost > 2 * random, found


def test_an_agreement_circuit_of_some_nouns_holds_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study of docs/circuits.md, small: two SAEs, few pairs.

    Two, because random circuits of one layer that are as large as this draw its one decisive feature now and then.
    """
    monkeypatch.syspath_prepend(str(STUDY))
    from agreement import NOUNS, done_right, residual_set, templates

    lm = load_model()
    made = residual_set(lm, tmp_path / "set", [9, 27], d_sae=1152, capture_tokens=6000, tokens=30_000)
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
