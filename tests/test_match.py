"""Matching: exact where it says so, within its stated gap elsewhere, and always beside chance."""

from importlib import import_module
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from sparse_sae.match import detectors, duplicates, families, match, random_like, refinement, stability
from sparse_sae.match.assignment import assign
from sparse_sae.match.scores import CodeScores, CosineScores
from sparse_sae.synthetic import lesson


def unit(rng, n, d):
    rows = rng.standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_finds_a_permutation_and_its_negations():
    rng = np.random.default_rng(0)
    truth, order = unit(rng, 12, 6), rng.permutation(12)
    learned = truth[order] * np.where(np.arange(12) % 3, 3.0, -2.0)[:, None]
    m = match(learned, truth, absolute=True)
    assert_array_equal(m.pairs[:, 1], order)
    assert_allclose(m.scores, 1, atol=1e-5)
    assert match(learned, truth).mcc < 0.95


def test_is_optimal_by_brute_force():
    rng = np.random.default_rng(1)
    a, b = unit(rng, 5, 3), unit(rng, 6, 3)
    cosines = a @ b.T
    best = max(np.mean([cosines[i, p[i]] for i in range(5)]) for p in permutations(range(6), 5))
    m = match(a, b, chance=0)
    assert m.mcc == pytest.approx(best, abs=1e-6)
    assert (m.gap, len(m.unmatched_a), len(m.unmatched_b)) == (0, 0, 1)
    assert m.mmcs_a == pytest.approx(cosines.max(1).mean(), abs=1e-6)
    assert m.mmcs_b == pytest.approx(cosines.max(0).mean(), abs=1e-6)


def test_matches_codes_without_directions():
    rng = np.random.default_rng(2)
    codes = csr_array(np.maximum(rng.standard_normal((400, 7)) - 1, 0))
    order = rng.permutation(7)
    m = match(None, None, codes=(codes[:, order] * 5.0, codes))
    assert_array_equal(m.pairs[:, 1], order)
    assert_allclose(m.scores, 1, atol=1e-5)
    assert m.chance["shuffled"].mcc.mean < 0.3
    assert m.cosines is None


def test_code_correlation_is_pearsons():
    rng = np.random.default_rng(3)
    a, b = (np.maximum(rng.standard_normal((50, n)), 0) for n in (4, 3))
    a[:, 1] = 2.5  # never varies: no correlation, not NaN
    scores = CodeScores(csr_array(a), csr_array(b), absolute=False)
    expected = np.corrcoef(a[:, [0, 2, 3]].T, b.T)[:3, 3:]
    assert_allclose(scores.dense()[[0, 2, 3]], expected, atol=1e-6)
    assert_array_equal(scores.dense()[1], 0)
    assert_allclose(scores.at(np.array([0, 3]), np.array([2, 1])), expected[[0, 2], [2, 1]], atol=1e-6)


@pytest.mark.parametrize("shape", [(300, 300), (200, 350), (350, 200)])
@pytest.mark.parametrize("planted", [False, True])
def test_sparse_assignment_keeps_its_promise(shape, planted):
    rng = np.random.default_rng(4)
    a, b = unit(rng, shape[0], 32), unit(rng, shape[1], 32)
    if planted:
        n = min(shape)
        b[:n] = a[:n] + 0.1 * b[:n]
    scores = CosineScores(a, b, absolute=False)
    exact = assign(scores, "dense")
    found = assign(scores, "sparse", candidates=8, tolerance=1e-3)
    n = min(shape)
    assert len(set(found.rows)) == len(set(found.columns)) == n
    assert_allclose(found.scores, scores.dense()[found.rows, found.columns], atol=1e-5)
    assert found.bound / n >= exact.scores.mean() - 1e-6 >= found.scores.mean() - 2e-6
    assert (found.bound - exact.bound) / n < 5e-3
    assert (exact.bound - found.scores.sum()) / n < 5e-3
    assert_allclose(found.best_of_row, exact.best_of_row, atol=1e-6)
    assert_allclose(found.best_of_column, exact.best_of_column, atol=1e-6)


def test_sparse_assignment_survives_rows_that_all_want_the_same_columns():
    rng = np.random.default_rng(5)
    a = np.ones((60, 8)) + 0.01 * rng.standard_normal((60, 8))
    b = np.vstack([np.ones((5, 8)), unit(rng, 95, 8)])
    m = match(a, b, method="sparse", candidates=4, chance=0)
    exact = match(a, b, method="dense", chance=0)
    assert len(np.unique(m.pairs[:, 1])) == 60
    assert m.mcc <= exact.mcc + 1e-6 <= m.mcc + m.gap + 2e-6


def test_lesson_chance_is_what_random_directions_reach():
    """The level of 32, 64, 128 random unit directions; the single draws of the lesson's table were .63, .71,
    .78."""
    truth = lesson(n_samples=1)
    for n, single_draw in ((32, 0.63), (64, 0.71), (128, 0.78)):
        m = match(np.random.default_rng(0).standard_normal((n, 8)), truth)
        level = m.chance["random"].mcc
        assert abs(level.mean - single_draw) < 0.03
        assert level.low < level.mean < level.high
        assert abs(m.corrected) < 0.15
        assert m.chance["random"].above(0.9).mean < 3


def test_matched_chance_is_higher_where_the_dictionary_uses_few_dimensions():
    rng = np.random.default_rng(6)
    plane = np.zeros((40, 64))
    plane[:, :4] = unit(rng, 40, 4)
    m = match(random_like(plane, rng), plane)
    assert m.chance["matched"].mcc.mean > m.chance["random"].mcc.mean + 0.3
    assert abs(m.corrected) < 0.1


def test_controls_keep_norms_and_covariance():
    rng = np.random.default_rng(7)
    a = rng.standard_normal((4000, 5)) * [3, 1, 1, 0.3, 0.1] + [0, 0, 1, 0, 0]
    control = random_like(a, rng)
    assert_allclose(np.sort(np.linalg.norm(control, axis=1)), np.sort(np.linalg.norm(a, axis=1)), rtol=1e-4)
    unit_a, unit_c = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, control))
    assert_allclose(np.cov(unit_c.T), np.cov(unit_a.T), atol=0.08)


def test_takes_anything_with_directions():
    class Sae:
        W_dec = np.eye(3, 4)

    assert match(Sae(), np.eye(3, 4), chance=0).mcc == 1
    assert match(lesson(n_samples=1), lesson(n_samples=1), chance=0).mcc == pytest.approx(1, abs=1e-6)


def test_refuses_what_it_cannot_match():
    a = np.eye(3, 4)
    with pytest.raises(ValueError, match="different spaces: d is 4 in a and 5 in b"):
        match(a, np.eye(3, 5))
    with pytest.raises(ValueError, match="NaN or infinity"):
        match(a * np.nan, a)
    with pytest.raises(ValueError, match="shape"):
        match(a[0], a)
    with pytest.raises(TypeError, match="sparse"):
        match(csr_array(a), a)
    with pytest.raises(TypeError, match="numbers"):
        match([["x"]], a)
    with pytest.raises(ValueError, match="nothing to match"):
        match(None, None)
    with pytest.raises(ValueError, match="both"):
        match(a, None)
    with pytest.raises(ValueError, match="method"):
        match(a, a, method="greedy")
    with pytest.raises(ValueError, match="share at least two samples; got 3 and 2 rows"):
        match(None, None, codes=(csr_array(a), csr_array(a[:2])))
    with pytest.raises(ValueError, match="a has 3 directions but its codes have 4 columns"):
        match(a, a, codes=(csr_array(a), csr_array(a)))
    with pytest.raises(ValueError, match="chance=0"):
        _ = match(a, a, chance=0).corrected


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
def test_detector_scores_equal_their_definitions(seed, n, n_latents, n_features):
    rng = np.random.default_rng(seed)
    z = np.maximum(rng.integers(-3, 4, (n, n_latents)), 0).astype(float)  # many zeros, many ties
    t = rng.random((n, n_features)) < 0.3
    found = detectors(csr_array(z), csr_array(t * 2.5))
    for i in range(n_latents):
        for j in range(n_features):
            on, yes = z[:, i] > 0, t[:, j]
            both = (on & yes).sum()
            if not both:
                assert found.f1[i, j] == found.best_f1[i, j] == 0
                continue
            assert found.precision[i, j] == pytest.approx(both / on.sum())
            assert found.recall[i, j] == pytest.approx(both / yes.sum())
            assert found.f1[i, j] == pytest.approx(2 * both / (on.sum() + yes.sum()))
            by_threshold = {
                v: 2 * ((z[:, i] >= v) & yes).sum() / ((z[:, i] >= v).sum() + yes.sum())
                for v in set(z[on, i])
            }
            assert found.best_f1[i, j] == pytest.approx(max(by_threshold.values()))
            assert by_threshold[found.best_threshold[i, j]] == pytest.approx(found.best_f1[i, j])
            assert found.auroc[i, j] == pytest.approx(plain_auroc(z[:, i], yes))


def plain_auroc(values, yes):
    higher = values[yes][:, None] - values[~yes]
    return ((higher > 0) + 0.5 * (higher == 0)).mean() if higher.size else 0.5


def test_detectors_work_in_blocks(monkeypatch):
    rng = np.random.default_rng(1)
    z, t = (csr_array(np.maximum(rng.standard_normal((200, n)) - 1, 0)) for n in (9, 12))
    whole = detectors(z, t)
    monkeypatch.setattr(import_module("sparse_sae.match.detectors"), "EVENTS", 40)
    in_blocks = detectors(z, t)
    for name in ("precision", "recall", "f1", "best_f1", "best_threshold", "auroc"):
        assert_allclose(getattr(whole, name).toarray(), getattr(in_blocks, name).toarray())


def test_detectors_of_pairs_and_best():
    rng = np.random.default_rng(2)
    t = csr_array(np.maximum(rng.standard_normal((300, 4)) - 0.8, 0))
    z = t[:, [3, 1, 0]]
    found = detectors(z, t)
    latents, f1 = found.best_latent()
    assert latents[[3, 1, 0]].tolist() == [0, 1, 2]
    assert_allclose(f1[[3, 1, 0]], 1)
    scores = found.of_pairs([0, 1], [3, 1])
    assert_allclose(scores["auroc"], 1)
    dense_z, dense_t = z.toarray(), t.toarray() > 0
    dense_z[dense_t[:, 2], 0] = 0  # latent 0 and feature 2 never together
    apart = detectors(csr_array(dense_z), t).of_pairs([0], [2])
    assert apart["f1"] == 0
    assert apart["auroc"] == pytest.approx(plain_auroc(dense_z[:, 0], dense_t[:, 2]))
    with pytest.raises(ValueError, match="score: got"):
        found.best_latent("accuracy")


def test_detectors_refuse():
    z = csr_array(np.eye(3))
    with pytest.raises(TypeError, match="sparse"):
        detectors(np.eye(3), z)
    with pytest.raises(ValueError, match="share their samples"):
        detectors(z, z[:2])
    with pytest.raises(ValueError, match="expected finite values of at least 0"):
        detectors(-z, z)


def test_stability_separates_what_comes_back_from_what_does_not():
    rng = np.random.default_rng(3)
    shared = unit(rng, 20, 30)
    seeds = [np.vstack([shared, unit(rng, 10, 30)])[rng.permutation(30)] for _ in range(3)]
    found = stability(seeds)
    comes_back = (seeds[0] @ shared.T).max(axis=1) > 0.999
    assert found.per_latent[0][comes_back].min() > 0.99
    assert found.per_latent[0][~comes_back].max() < 0.6
    nothing = stability([unit(rng, 30, 30) for _ in range(3)])
    assert abs(nothing.corrected) < 0.1 < 0.4 < found.corrected
    with pytest.raises(ValueError, match="at least two"):
        stability(seeds[:1])


def test_refinement_names_what_happened():
    e = np.eye(6)
    earlier = np.array([e[0], e[1], e[2] + 0.2 * e[5], e[2], e[4]])
    later = np.array([e[0], e[1] + 0.3 * e[5], e[1] - 0.3 * e[5], e[2], e[3]])
    r = refinement(earlier, later)
    assert r.split == {1: [1, 2]}
    assert r.merged == {3: [2, 3]}
    assert r.new.tolist() == [4]
    assert r.gone.tolist() == [4]
    assert [0, 0] in r.kept.tolist()


def test_duplicates_in_blocks(monkeypatch):
    rng = np.random.default_rng(4)
    rows = unit(rng, 50, 40)
    rows[31], rows[7] = rows[4] * 3, -rows[20]
    assert duplicates(rows)[0].tolist() == [[4, 31]]
    monkeypatch.setattr(import_module("sparse_sae.match.stability"), "BLOCK", 120)
    pairs, cosines = duplicates(rows, absolute=True)
    assert sorted(pairs.tolist()) == [[4, 31], [7, 20]]
    assert_allclose(cosines, 1, atol=1e-5)


def family_world(n=4000):
    """One parent (0) with two children (1, 2), and a loner (3)."""
    rng = np.random.default_rng(5)
    p = rng.random(n) < 0.3
    which = rng.integers(0, 4, n)
    truth = np.column_stack([p, p & (which == 1), p & (which == 2), rng.random(n) < 0.1]).astype(float)
    return np.eye(4, 8), truth, np.array([-1, 0, 0, -1])


def test_faithful_latents_neither_absorb_nor_split():
    features, truth, parent = family_world()
    found = families(features, csr_array(truth), features, csr_array(truth), parent)
    assert found.pairs.tolist() == [[0, 1], [0, 2]]
    assert found.absorption == 0
    assert found.missed.max() == 0
    assert found.split.tolist() == [1, 1, 1, 1]
    assert found.split_fraction == 0


def test_absorption_is_seen_where_it_was_planted():
    """Child 1's latent carries the parent and silences it; child 2's latent is silent with the parent for no
    such reason."""
    features, truth, parent = family_world()
    codes, W = truth.copy(), features.copy()
    codes[truth[:, 1] > 0, 0] = 0
    W[1] = features[1] + features[0]
    found = families(W, csr_array(codes), features, csr_array(truth), parent)
    assert_allclose(found.absorbed, [1, 0])
    assert_allclose(found.missed, [1, 0])
    assert_allclose(found.missed_without_children, 0)
    blameless = families(features, csr_array(codes), features, csr_array(truth), parent)
    assert_allclose(
        blameless.missed, [1, 0]
    )  # missed, but the child's latent does not lean towards the parent
    assert blameless.absorption == 0


def test_splitting_is_seen_where_it_was_planted():
    features, truth, parent = family_world()
    half = np.arange(len(truth)) % 2 == 0
    codes = np.column_stack([truth[:, 0] * half, truth[:, 0] * ~half, truth[:, 1:]])
    W = np.vstack([features[[0]], features])
    found = families(W, csr_array(codes), features, csr_array(truth), parent)
    assert found.split[0] == 2
    assert found.split[3] == 1
    with pytest.raises(ValueError, match="sizes disagree"):
        families(features, csr_array(codes), features, csr_array(truth), parent)
