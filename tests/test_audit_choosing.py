"""Rates, divisions and the choice of detectors: what is found, what is chance, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from sparse_sae.audit.choosing import chance_interval, choose, watch_explanation, watch_labels
from sparse_sae.audit.detectors import logistic
from sparse_sae.audit.examples import Examples, Seal, SealBroken, divide
from sparse_sae.audit.features import Features, text_features
from sparse_sae.audit.kept import Kept
from sparse_sae.audit.rates import (
    Unsupported,
    auroc_interval,
    calibration,
    clopper_pearson,
    delays,
    operating_point,
    threshold_at,
)
from sparse_sae.lm.model.hooks import resolve

HOOK = "blocks.1.hook_resid_post"


def planted(n: int = 400, strength: float = 3.0, seed: int = 0) -> tuple[Examples, Features]:
    """Latent 7 of 500 fires on the label; a raw direction tells it too; words and lengths know nothing."""
    rng = np.random.default_rng(seed)
    labels = np.tile([True, False], n // 2)
    latents = np.maximum(rng.standard_normal((n, 500)), 0).astype(np.float32)
    latents[:, 7] = np.maximum(rng.standard_normal(n) + strength * labels, 0)
    raw = rng.standard_normal((n, 16)).astype(np.float32)
    raw[:, 3] += strength * labels
    words = rng.choice(["late", "parcel", "refund", "price", "box"], (n, 6))
    texts = [" ".join([str(i), *row]) for i, row in enumerate(words)]
    groups = [str(i // 2) for i in range(n)]
    sources = [["mail", "chat"][(i // 2) % 2] for i in range(n)]
    return Examples(texts, labels, groups, sources, ~labels & (rng.random(n) < 0.3)), Features(
        raw, latents, rng.integers(5, 40, n)
    )


def test_the_planted_latent_is_chosen_and_baselines_are_at_chance() -> None:
    examples, features = planted()
    division = divide(examples, seed=1)
    found = choose(examples, features, division, fprs=(0.05, 0.01))
    assert found["latent"].detector.what["latent"] == 7
    for kind in ("latent", "raw probe"):
        measured = found[kind]
        assert (
            measured.auroc[1] > 0.9
            and measured.nested > 0.9
            and measured.hard is not None
            and measured.hard > 0.9
        )
        assert set(measured.left_out) == {"mail", "chat"} and min(measured.left_out.values()) > 0.9
        at = measured.operating[0.05]
        assert not isinstance(at, str) and at.tpr.value > 0.7 and at.false_positives.value < 0.15
        refused = measured.operating[0.01]
        assert isinstance(refused, str) and "needs at least 299 independent cases, there are 100" in refused
    low, high = chance_interval(100, 100, 0.999)
    for kind in ("random latent", "bag of words", "length"):
        assert low < found[kind].auroc[0] < high
    ece = found["raw probe"].calibration
    assert ece is not None and ece["brier"] < 0.1


def test_nested_selection_does_not_fool_itself() -> None:
    """Of 500 latents that know nothing the best looks good where it was chosen; both honest figures are at chance."""
    examples, features = planted(120, strength=0.0)
    found = choose(examples, features, divide(examples, seed=2), kinds=("latent",), fprs=())["latent"]
    assert found.detector.what["development_auroc"] > 0.65
    low, high = chance_interval(30, 30, 0.999)
    assert low < found.nested < high and low < found.auroc[0] < high


def test_groups_and_duplicates_stay_on_one_side() -> None:
    texts = [f"text {i}" for i in range(40)]
    texts[31] = "  TEXT   4"
    division = divide(Examples(texts, np.arange(40) % 2 == 0, [str(i // 4) for i in range(40)]), seed=3)
    assert division.duplicates == [(4, 31)]
    sides = np.isin(np.arange(40), division.test)
    assert sides[4] == sides[31] and all(len(set(sides[i : i + 4])) == 1 for i in range(0, 40, 4))
    with pytest.raises(ValueError, match="expected both classes"):
        Examples(["a", "b"], [True, True])
    with pytest.raises(ValueError, match="one class only"):
        divide(Examples(["a", "b"], [True, False], ["g", "g"]))


def test_a_seal_remembers(tmp_path: Path) -> None:
    seal = Seal(tmp_path / "s.json", "p1")
    assert [seal.read("a", "t"), seal.read("b", "t"), seal.read("a", "t")] == [1, 1, 2]
    assert Seal(tmp_path / "s.json", "p1").read("a", "t") == 3
    with pytest.raises(SealBroken, match="fixed before its results"):
        Seal(tmp_path / "s.json", "p2")
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a seal"):
        Seal(tmp_path / "s.json", "p1")


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 50), (299, 300)])
def test_clopper_pearson_is_scipys(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(0.95, method="exact")
    rate = clopper_pearson(k, n)
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_rates_that_n_cannot_support_are_refused() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal(600), np.arange(600) < 300
    operating_point(scores, scores, labels, 0.01)
    with pytest.raises(Unsupported, match="needs at least 2995"):
        operating_point(scores, scores, labels, 0.001)
    with pytest.raises(Unsupported, match="there are 40"):
        operating_point(scores, scores, labels, 0.01, independent=40)
    with pytest.raises(ValueError, match="NaN"):
        auroc_interval([0.0, np.nan], [True, False])
    assert threshold_at(np.arange(100.0), 0.05) == 94.0
    assert calibration([0.3] * 10, [True] * 3 + [False] * 7)["ece"] == pytest.approx(0.0)
    assert delays(np.array([5.0, np.nan, 9.0]), np.array([3, 3, 3])) == {
        "found": 2.0,
        "median": 4.0,
        "p90": 5.6,
    }


def test_intervals_by_group_are_wider() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 20)
    labels = group % 2 == 0
    scores = labels + 2 * rng.standard_normal(20)[group] + 0.1 * rng.standard_normal(400)
    _, low, high = auroc_interval(scores, labels, resamples=200)
    _, low_g, high_g = auroc_interval(scores, labels, group, resamples=200)
    assert high_g - low_g > 2 * (high - low)


def test_the_bootstrap_draws_what_drawing_cases_would() -> None:
    """Weights of a draw stand for the cases themselves, ties included."""
    from sparse_sae.audit.rates import _weighted_auroc
    from sparse_sae.probing import auroc

    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=50)
    expected = [float(auroc(np.repeat(scores, w), np.repeat(labels, w))) for w in weights]
    np.testing.assert_allclose(_weighted_auroc(scores, labels, weights), expected)


def test_logistic_regression_is_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 5))
    y = x[:, 0] + rng.standard_normal(80) > 0.5
    w, b = logistic(x, y, 2.0)
    theirs = sklearn.LogisticRegression(C=0.5, class_weight="balanced", tol=1e-8).fit(x, y)
    np.testing.assert_allclose([*w, b], [*theirs.coef_[0], *theirs.intercept_], atol=2e-3)


def test_watches_from_labels_and_from_an_explanation() -> None:
    from sparse_sae.lm.explaining.explanation import Effect, Explanation, Place

    examples, features = planted()
    latent, probe = watch_labels(examples, features, "late", fpr=0.05)
    assert latent.latent == 7 and latent.provenance["examples"] == examples.sha256
    negatives = features.latents[~examples.labels, 7] if features.latents is not None else np.zeros(1)
    assert (negatives > latent.threshold).mean() <= 0.05
    assert probe.kind == "direction" and probe.provenance["development_auroc"] > 0.9
    effects = [Effect(5, 0.1, -0.7, [Place(2, "x", 4.0, 0.1)]), Effect(6, 0.3, None, [])]
    made: Any = Explanation(-1.0, "log p(No)", "gradient", "h", [], effects, 0.0, 0.0, None)
    (watch,) = watch_explanation(made, "refusal", 2.5)
    assert (watch.latent, watch.threshold) == (5, 2.5) and "+0.700" in watch.reason


def test_texts_that_were_read_are_not_read_again(tiny_lm: Any, tiny_sae: Any, tmp_path: Path) -> None:
    """A reading that is stopped goes on, to the same bits; and the model is run for the rest alone."""
    prompts = [
        "the parcel is late",
        "money back",
        "please",
        "the price is three weeks",
        "angry and late",
        "no",
    ]
    prompts = [f"{prompt} and the parcel" for prompt in prompts]
    kept = Kept(tmp_path / "kept", "c" * 64)
    runs = []
    with resolve(tiny_lm, HOOK).attach(lambda x: runs.append(len(x))):
        whole = text_features(tiny_lm, prompts, HOOK, tiny_sae, batch_size=2, memory=kept)
        assert runs == [2, 2, 2] and len(kept) == 3
        del kept[next(iter(kept))]
        again = text_features(tiny_lm, prompts, HOOK, tiny_sae, batch_size=2, memory=kept)
        assert runs == [2, 2, 2, 2] and len(kept) == 3
    assert whole.latents is not None and again.latents is not None and whole.latents.any()
    np.testing.assert_array_equal(again.raw, whole.raw)
    np.testing.assert_array_equal(again.latents, whole.latents)
    alone = text_features(tiny_lm, prompts, HOOK, batch_size=2)
    assert alone.latents is None
    np.testing.assert_array_equal(alone.raw, whole.raw)
