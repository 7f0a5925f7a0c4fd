"""The judge: its threshold is the best one, its margins are the model's own, and it serves as an outcome."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparse_sae.lm import Judge, calibrated_judge, choice_logprobs, experiment, steer_direction
from sparse_sae.probing import auroc, balanced_threshold

WORDS = ["parcel", "refund", "late", "order", "price", "angry", "money", "shipping"]
EXAMPLES = [("my money back please", True), ("the price is available", False)]


def texts(n: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 4)) for _ in range(n)]


@pytest.fixture
def judge(tiny_lm: Any) -> Judge:
    some = texts(24, 0)
    return calibrated_judge(
        tiny_lm,
        "can you refund",
        EXAMPLES,
        some,
        ["refund" in text for text in some],
        before="order ",
        after=" refund",
        yes="yes",
        no="no",
    )


def test_no_threshold_separates_better() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 9, 30):
        labels = np.arange(n) % 2 == 0
        scores = rng.integers(0, 7, n) + labels

        def balanced(cut: float, scores: Any = scores, labels: Any = labels) -> float:
            above = scores > cut
            return float(above[labels].mean() + (~above)[~labels].mean())

        found = balanced(balanced_threshold(scores, labels))
        assert found == max(balanced(cut) for cut in np.arange(-2, 9, 0.25))


def test_margins_are_the_models_own(tiny_lm: Any, judge: Judge) -> None:
    prompts = [judge.prompt(text) for text in texts(5, 1)]
    assert prompts[0].startswith("can you refund\n\norder my money back please refundyes\n\norder the price")
    assert prompts[0].endswith(f"order {texts(5, 1)[0]} refund")
    plain = choice_logprobs(tiny_lm, prompts, ["yes", "no"])
    np.testing.assert_allclose(
        judge.margins(tiny_lm, prompts), plain[:, 0] - plain[:, 1] - judge.threshold, atol=1e-4
    )


def test_it_is_fitted_on_the_texts_given(tiny_lm: Any, judge: Judge) -> None:
    some = texts(24, 0)
    labels = np.array(["refund" in text for text in some])
    margins = judge.margins(tiny_lm, [judge.prompt(text) for text in some])
    assert judge.auroc == pytest.approx(float(auroc(margins, labels)))
    correct = (margins > 0) == labels
    assert correct[labels].mean() + correct[~labels].mean() >= 1  # no worse than always the same answer


def test_as_the_outcome_of_an_experiment(tiny_lm: Any, judge: Judge) -> None:
    direction = np.random.default_rng(0).standard_normal(32)
    push = {"push": lambda: steer_direction(tiny_lm, "blocks.1.hook_resid_post", direction, 2.0)}
    found = experiment(tiny_lm, [judge.prompt(text) for text in texts(6, 2)], judge, push)
    assert {change.outcome for change in found.changes} == {"yes", "margin"}
    np.testing.assert_array_equal(found.values["push"]["yes"], found.values["push"]["margin"] > 0)
    assert abs(next(c for c in found.changes if c.outcome == "margin").change) > 1e-3


def test_misuse_is_explained(tiny_lm: Any) -> None:
    with pytest.raises(ValueError, match=r"labels: got shape \(1,\), expected \(2,\)"):
        calibrated_judge(tiny_lm, "is", [], ["a", "the"], [True])
    with pytest.raises(ValueError, match="labels: got all alike"):
        calibrated_judge(tiny_lm, "is", [], ["a", "the"], [True, True])
    with pytest.raises(ValueError, match="examples: got a text that the threshold is fitted on"):
        calibrated_judge(tiny_lm, "is", [("a", True)], ["a", "the"], [True, False])
