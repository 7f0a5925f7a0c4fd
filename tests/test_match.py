"""Matching: exact where it says so, within its stated gap elsewhere, and always beside chance."""

from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from sparse_sae.match import match, random_like
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
