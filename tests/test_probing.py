"""Probes and their evidence: planted units are found, intervals cover, pairs and groups matter, specificity counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparse_sae.data.store import ActivationStore, StoreWriter
from sparse_sae.probing import (
    auroc,
    average_precision,
    balanced_threshold,
    compare,
    dense_probe,
    document_means,
    sparse_probe,
    specificity,
    unit_probe,
)


def planted(n: int, seed: int, m: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Column 3 alone tells the label fairly well, 5 and 9 together exactly, 11 the other way round."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, m))
    y = x[:, 5] + x[:, 9] > 0
    x[:, 3] += 1.5 * y
    x[:, 11] -= 3.0 * y
    return x, y


def test_the_best_single_unit_of_the_signs_allowed() -> None:
    (x, y), (fresh, fresh_y) = planted(800, 0), planted(800, 1)
    both, firing = unit_probe(x, y), unit_probe(x, y, signs=(1,))
    assert (both.columns, both.weights) == ((11,), (-1.0,))
    assert firing.weights == (1.0,)
    areas = auroc(x, y)
    assert firing.columns[0] == int(areas.argmax())
    assert float(auroc(both(fresh), fresh_y)) == pytest.approx(float(1 - auroc(fresh[:, 11], fresh_y)))


def test_sets_of_units_find_what_no_single_one_tells() -> None:
    (x, y), (fresh, fresh_y) = planted(800, 0), planted(800, 1)
    x, fresh = np.delete(x, (3, 11), 1), np.delete(fresh, (3, 11), 1)  # leaves the pair, at 4 and 8
    alone = float(auroc(unit_probe(x, y)(fresh), fresh_y))
    pair = sparse_probe(x, y, 2)
    assert sorted(pair.columns) == [4, 8]
    assert alone < 0.9 < 0.99 < float(auroc(pair(fresh), fresh_y))
    assert len(sparse_probe(x, y, 5).columns) == 5


def test_constant_and_repeated_columns_are_not_taken_twice() -> None:
    x, y = planted(300, 0)
    repeated = np.column_stack([np.ones(300), x[:, 5], x[:, 5], x[:, 9]])
    assert sorted(sparse_probe(repeated, y, 4).columns) in ([1, 3], [2, 3])
    with pytest.raises(ValueError, match="values: got 'columns that are all constant'"):
        sparse_probe(np.ones((300, 3)), y, 1)


def test_the_logistic_fit_is_the_minimum_of_its_loss() -> None:
    x, y = planted(300, 2, m=12)
    found = dense_probe(x, y, ridges=(3.0,))
    scale, signs = x.std(0), np.where(y, 1.0, -1.0)

    def loss(weights: np.ndarray, intercept: float) -> float:
        margins = signs * (x @ weights + intercept)
        return float(np.logaddexp(0, -margins).sum() + 1.5 * ((weights * scale) ** 2).sum())

    weights = np.array(found.weights)
    least = loss(weights, found.intercept)
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert (
            loss(weights + 1e-3 * rng.standard_normal(12), found.intercept + 1e-3 * rng.standard_normal())
            > least
        )


def test_the_ridge_is_chosen_for_groups_not_seen() -> None:
    """Columns that name the group tell the label perfectly inside a group and nothing outside."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    y = groups % 2 == 0
    name = np.eye(40)[groups] * 4
    signal = (y * 1.0)[:, None] + rng.standard_normal((400, 1))
    x = np.column_stack([name, signal])
    fresh_y = np.arange(300) % 2 == 0
    fresh = np.column_stack([np.zeros((300, 40)), fresh_y[:, None] + rng.standard_normal((300, 1))])
    assert float(auroc(dense_probe(x, y, groups=groups)(fresh), fresh_y)) > 0.7


def test_without_groups_a_draw_is_the_usual_bootstrap() -> None:
    """The interval of the AUROC has about the width of the textbook's (Hanley and McNeil 1982)."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 2 == 0
    scores = y + rng.standard_normal(400)
    found = compare({"a": scores, "b": rng.standard_normal(400)}, y, against="b", n_draws=800)["a"]
    area = float(auroc(scores, y))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 199 * (q1 - area**2) + 199 * (q2 - area**2)) / 200**2)
    assert found.auroc.value == area
    assert found.average_precision.value == average_precision(scores, y)
    assert found.auroc.high - found.auroc.low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert found.auroc.low < area < found.auroc.high


def test_weighted_scores_are_those_of_repeated_texts() -> None:
    from sparse_sae.probing.evidence import _weighted

    rng = np.random.default_rng(0)
    scores, y = rng.integers(0, 6, 50).astype(float), rng.random(50) < 0.4
    weights = rng.integers(0, 4, (7, 50)).astype(float)
    areas, precisions = _weighted(scores, y, weights)
    for w, area, precision in zip(weights.astype(int), areas, precisions, strict=True):
        assert area == pytest.approx(float(auroc(np.repeat(scores, w), np.repeat(y, w))))
        assert precision == pytest.approx(average_precision(np.repeat(scores, w), np.repeat(y, w)))


def test_intervals_over_groups_are_wider_and_cover() -> None:
    """Texts of a group share a score: the grouped interval holds the true AUROC far more often than the plain one."""
    truth, covered, width = 0.76, {"grouped": 0, "plain": 0}, {"grouped": 0.0, "plain": 0.0}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        names = np.repeat(np.arange(40), 12)
        y = names % 2 == 0
        scores = (rng.standard_normal(40) + (np.arange(40) % 2 == 0))[names] + 0.01 * rng.standard_normal(480)
        for kind, groups in (("grouped", names), ("plain", None)):
            found = compare({"a": scores}, y, against="a", groups=groups, n_draws=200)["a"].auroc
            covered[kind] += found.low <= truth <= found.high
            width[kind] += found.high - found.low
    assert covered["grouped"] >= 25 > covered["plain"]
    assert width["grouped"] > 2 * width["plain"]


def test_differences_are_paired() -> None:
    """Two detectors that differ by little noise: their difference is surer than either."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 2 == 0
    one = y + rng.standard_normal(300)
    found = compare({"one": one, "other": one + 0.2 * rng.standard_normal(300)}, y, against="other")
    assert found["other"].auroc_difference is None
    gap = found["one"].auroc_difference
    assert gap is not None and gap.low <= gap.value <= gap.high
    assert gap.high - gap.low < 0.4 * (found["one"].auroc.high - found["one"].auroc.low)
    assert set(found["one"].to_dict()) == {
        "auroc",
        "average_precision",
        "auroc_difference",
        "average_precision_difference",
    }


def test_specificity_counts_where_it_fires() -> None:
    labels = {"refund": np.array([1, 1, 1, 0, 0, 0]), "late": np.array([1, 0, 0, 1, 1, 0])}
    found = specificity([5, 4, 0, 3, 0, 0], labels, "refund", 2.0, neutral=[6, 1, 1, 1], top=3)
    assert (found.recall, found.precision, found.without, found.neutral) == (2 / 3, 2 / 3, 1 / 3, 0.25)
    assert found.others == {"late": 0.5} and found.top_share == 2 / 3
    # all are alike: ties are not decided for the label
    assert specificity(np.zeros(6), labels, "refund", 0.0, top=3).top_share == 0.0
    silent = specificity(np.zeros(6), labels, "refund", 1.0, top=3)
    assert np.isnan(silent.precision) and silent.to_dict()["precision"] is None


def test_the_threshold_has_the_highest_balanced_accuracy() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 3, 9, 40):
        y = np.arange(n) % 2 == 0
        scores = rng.integers(0, 7, n) + y

        def balanced(cut: float, y: np.ndarray = y, scores: np.ndarray = scores) -> float:
            return float((scores > cut)[y].mean() + (scores <= cut)[~y].mean())

        assert balanced(balanced_threshold(scores, y)) == max(balanced(c) for c in np.arange(-2, 9, 0.25))


def test_means_of_texts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 9, 70)
    rows = rng.standard_normal((int(lengths.sum()), 3)).astype(np.float32)
    names = np.repeat(np.arange(70), lengths)
    writer = StoreWriter(tmp_path, d_in=3, dtype="float32")
    writer.append(rows, tokens=np.zeros(len(rows), int), positions=np.ones(len(rows), int), documents=names)
    writer.finish()
    expected = np.stack([rows[names == i].mean(0) for i in range(70)])
    np.testing.assert_allclose(document_means(ActivationStore(tmp_path)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: unit_probe(x, y, signs=(2,)), r"signs: got \(2,\), expected \(1,\)"),
        (lambda x, y: sparse_probe(x, y[:-1], 2), r"labels: got shape \(299,\), expected \(300,\)"),
        (lambda x, y: sparse_probe(x, y, 0), "k: got 0, expected a whole number from 1"),
        (lambda x, y: dense_probe(x, y | True), "labels: got all alike"),
        (lambda x, y: dense_probe(x, y, groups=[1]), r"groups: got 'shape \(1,\)', expected \(300,\)"),
        (lambda x, y: dense_probe(x, y, ridges=()), r"ridges: got \(\), expected at least one penalty"),
        (lambda x, y: compare({"a": x[:, 0]}, y, against="b"), "against: got 'b', expected one of a"),
        (lambda x, y: compare({"a": x[:9, 0]}, y, against="a"), r"scores\['a'\]: got 'shape \(9,\)'"),
        (lambda x, y: compare({"a": x[:, 0]}, y, against="a", confidence=1.0), "confidence: got 1.0"),
        (lambda x, y: specificity(x[:, 0], {"a": y}, "b", 0.0), "label: got 'b', expected one of a"),
        (lambda x, y: specificity(x[:, 0], {"a": y[:9]}, "a", 0.0), r"labels\['a'\]: got 'shape \(9,\)'"),
        (lambda x, y: specificity(x[:, 0], {"a": y}, "a", 0.0, top=301), "top: got 301"),
        (lambda x, y: balanced_threshold(x[:, 0], y & False), "labels: got 'all alike'"),
    ],
)
def test_bad_arguments_are_named(call, message) -> None:
    x, y = planted(300, 0)
    with pytest.raises(ValueError, match=message):
        call(x, y)
