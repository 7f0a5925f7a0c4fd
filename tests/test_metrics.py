"""evaluate against the formulas it states; detectors against hand-made cases and scikit-learn's definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparse_sae import SAE, TopK, evaluate
from sparse_sae.metrics import BLOCK_ROWS
from sparse_sae.probing import auroc, average_precision, best_detector


@pytest.fixture
def sae() -> SAE:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((20, 8)).astype(np.float32)
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    return SAE(
        {"W_enc": w, "W_dec": w, "b_enc": np.zeros(20, np.float32), "b_dec": np.ones(8, np.float32)},
        TopK(k=3),
    )


def test_formulas(sae: SAE) -> None:
    x = np.random.default_rng(1).standard_normal((500, 8)) * 2 + 5
    m = evaluate(sae, x)
    out = sae.reconstruct(x).astype(np.float64)
    assert m.n_rows == 500
    assert m.l0 == pytest.approx(sae.encode(x).nnz / 500)
    assert m.mse == pytest.approx(((out - x) ** 2).mean(), rel=1e-5)
    assert m.fvu == pytest.approx(((out - x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-5)
    assert m.explained_variance == 1 - m.fvu
    assert m.shrinkage == pytest.approx(
        np.linalg.norm(out, axis=1).sum() / np.linalg.norm(x, axis=1).sum(), rel=1e-5
    )
    cosine = (out * x).sum(1) / np.linalg.norm(out, axis=1) / np.linalg.norm(x, axis=1)
    assert m.cosine == pytest.approx(cosine.mean(), rel=1e-5)
    np.testing.assert_allclose(m.density, (sae.encode(x).toarray() != 0).mean(0))
    assert m.dead_fraction == (m.density == 0).mean()


def test_blocks_do_not_change_the_numbers(sae: SAE) -> None:
    x = np.random.default_rng(2).standard_normal((BLOCK_ROWS + 100, 8)).astype(np.float32)
    whole, parts = evaluate(sae, x), evaluate(sae, [x[:50], x[50:]])
    assert whole.fvu == pytest.approx(parts.fvu, rel=1e-9)
    assert whole.l0 == parts.l0


def test_constant_data_has_no_variance(sae: SAE) -> None:
    assert evaluate(sae, np.full((4, 8), 9.0)).fvu == np.inf


def test_prints_and_serialises(sae: SAE) -> None:
    import json

    m = evaluate(sae, np.random.default_rng(0).standard_normal((50, 8)))
    assert "FVU" in str(m)
    assert len(json.loads(json.dumps(m.to_dict()))["density"]) == 20


def test_errors(sae: SAE) -> None:
    with pytest.raises(ValueError, match="no rows"):
        evaluate(sae, np.empty((0, 8)))
    with pytest.raises(ValueError, match=r"expected \(…, 8\)"):
        evaluate(sae, np.zeros((3, 7)))
    with pytest.raises(ValueError, match="NaN"):
        evaluate(sae, np.full((3, 8), np.nan))


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 5)).astype(float)
    labels = rng.random(40) < 0.4
    pos, neg = scores[labels], scores[~labels]
    wins = (pos[:, None] > neg[None]).mean((0, 1)) + 0.5 * (pos[:, None] == neg[None]).mean((0, 1))
    np.testing.assert_allclose(auroc(scores, labels), wins)


def test_average_precision_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores: Any = rng.integers(0, 6, 60).astype(float)
    labels = rng.random(60) < 0.3
    expected = recalled = 0.0
    for threshold in np.unique(scores)[::-1]:
        found = scores >= threshold
        recall = (found & labels).sum() / labels.sum()
        expected += (recall - recalled) * (found & labels).sum() / found.sum()
        recalled = recall
    assert average_precision(scores, labels) == pytest.approx(expected)


def test_best_detector_is_chosen_on_training_examples_only() -> None:
    labels = np.arange(20) % 2 == 0
    good, noise = labels.astype(float), np.random.default_rng(0).random(20)
    found = best_detector(np.c_[noise, -good], labels, np.c_[good, noise], labels)
    assert (found.index, found.sign) == (1, -1)
    assert found.auroc == pytest.approx(float(auroc(-noise, labels)))


def test_labels_all_alike() -> None:
    with pytest.raises(ValueError, match="all alike"):
        auroc(np.arange(3.0), np.ones(3, bool))
