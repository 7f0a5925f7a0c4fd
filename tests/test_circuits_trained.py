"""A two-layer transformer learns to continue repeated sequences; its induction circuit is found in its SAE features."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from sparse_sae.circuits import head_scores
from trained_models import Learned, circuit_in_features, head_in_features, learn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def learned() -> Learned:
    return learn()


def test_the_induction_circuit_is_found_in_the_features(learned: Learned) -> None:
    assert learned.accuracy > 0.9
    heads = head_scores(learned.model, n_sequences=16, length=12)
    back, induction = heads.previous(), heads.induction(0.5)
    assert {layer for layer, _ in back} == {0} and {layer for layer, _ in induction} == {1}
    assert heads.chance < 0.06

    found = circuit_in_features(learned)
    assert found["right"] >= 18 and found["pairs"] == 24  # two letters share a latent now and then
    # over all pairs: the effect is at that place, and features carry it in fewer nodes than neurons or directions do
    assert found["place"] == 8 and found["share_at_place"] > 0.6
    assert found["cpr"]["features"] > max(found["cpr"]["neurons"], found["cpr"]["random"]) + 0.2
    assert found["cmd"]["features"] < 0.25


def test_the_induction_head_is_drawn_by_the_letter_before(learned: Learned) -> None:
    found = head_in_features(learned)
    assert found["frozen_least"] > 0.99
    assert found["from_letter"] >= 12 and found["through_back"] >= 14
