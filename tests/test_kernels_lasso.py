"""The lasso and hard thresholding: optimal, equal to the reference, and both ways to the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sparse_sae import _kernels
from sparse_sae._kernels import reference

LEVELS = _kernels.loadable_levels()
compiled = pytest.mark.parametrize("kernels", [_kernels.load(name) for name in LEVELS], ids=LEVELS)
every = pytest.mark.parametrize("kernels", [_kernels.load(n) for n in [*LEVELS, "reference"]])
dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
quick = settings(max_examples=25, deadline=None, derandomize=True)


def unit(w: Any) -> Any:
    return w / np.linalg.norm(w, axis=1, keepdims=True)


@st.composite
def problems(draw: Any, alike: bool = True) -> tuple[Any, Any, Any]:
    """Rows, unit atoms and a centre; sizes around the edges of tiles, with latents alike and a dead one."""
    n = draw(st.sampled_from([0, 1, 2, 15, 16, 17, 40]))
    d = draw(st.sampled_from([2, 7, 31, 32, 33, 65]))
    m = draw(st.sampled_from([1, 2, 3, 16, 33, 130]))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    w = unit(rng.standard_normal((m, d)) + draw(st.sampled_from([0, 1])))
    if alike and draw(st.booleans()):
        w[1::2] = unit(
            w[: m // 2 * 2 : 2] + draw(st.sampled_from([0, 1e-6])) * rng.standard_normal((m // 2, d))
        )
    if m > 3:
        w[m // 2] = 0
    center = rng.standard_normal(d) if draw(st.booleans()) else None
    return rng.standard_normal((n, d)), w, center


def cast(problem: tuple[Any, Any, Any], dtype: Any) -> tuple[Any, Any, Any]:
    x, w, center = problem
    return x.astype(dtype), w.astype(dtype), None if center is None else center.astype(dtype)


def dense(codes: tuple[Any, ...], m: int) -> Any:
    return reference.decode(*codes[:3], np.eye(m, dtype=codes[2].dtype))


def same(got: tuple[Any, ...], want: tuple[Any, ...]) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


def top_eigenvalue(w: Any) -> float:
    return max(float(np.linalg.eigvalsh(w.astype(np.float64) @ w.T.astype(np.float64))[-1]), 1.0)


@compiled
@dtype
@given(problem=problems(), penalty=st.sampled_from([0.02, 0.3, 2.0]), rounds=st.sampled_from([0, 2]))
@quick
def test_lasso_by_both_ways_and_any_threads(
    kernels: Any, dtype: Any, problem: Any, penalty: float, rounds: int
) -> None:
    x, w, center = cast(problem, dtype)
    want = kernels.encode_lasso(x, w, penalty, rounds=rounds, center=center, simple=True)
    for threads in (1, 2, 7):
        for simple in (True, False):
            how = {"rounds": rounds, "center": center, "simple": simple, "num_threads": threads}
            same(kernels.encode_lasso(x, w, penalty, **how), want)


@compiled
@dtype
@given(problem=problems(), k=st.sampled_from([1, 4, 12]), n_steps=st.sampled_from([1, 3, 40]))
@quick
def test_thresholding_by_both_ways_and_any_threads(
    kernels: Any, dtype: Any, problem: Any, k: int, n_steps: int
) -> None:
    x, w, center = cast(problem, dtype)
    k = min(k, len(w))
    how: dict[str, Any] = {"step": 0.99 / top_eigenvalue(w), "n_steps": n_steps, "center": center}
    want = kernels.encode_iht(x, w, k, simple=True, **how)
    assert (np.diff(want[0]) <= k).all()
    for threads in (1, 2, 7):
        for simple in (True, False):
            same(kernels.encode_iht(x, w, k, simple=simple, num_threads=threads, **how), want)


@compiled
@given(problem=problems(alike=False), penalty=st.sampled_from([0.1, 0.5]))
@quick
def test_lasso_equals_the_reference(kernels: Any, problem: Any, penalty: float) -> None:
    x, w, center = problem
    if w.shape[1] == 2:
        return  # a hundred latents in a plane: descent is slow there, the gap stays at up to 1e-6 and says so
    want, got = (m.encode_lasso(x, w, penalty, center=center, tolerance=1e-12) for m in (reference, kernels))
    assert (got[3] <= 1e-12).all()
    # The gap bounds the squared distance of reconstructions; codes are unique up to what the atoms determine.
    np.testing.assert_allclose(dense(got, len(w)) @ w, dense(want, len(w)) @ w, atol=2e-5)
    np.testing.assert_allclose(dense(got, len(w)).sum(axis=1), dense(want, len(w)).sum(axis=1), atol=2e-4)
    if len(w) <= w.shape[1] // 2:
        np.testing.assert_allclose(dense(got, len(w)), dense(want, len(w)), atol=1e-4)


@compiled
def test_reweighted_equals_the_reference(kernels: Any) -> None:
    rng = np.random.default_rng(0)
    w = unit(rng.standard_normal((60, 40)))
    x = np.maximum(rng.standard_normal((50, 60)) - 1.5, 0) @ w + 0.02 * rng.standard_normal((50, 40))
    want, got = (m.encode_lasso(x, w, 0.1, rounds=3, tolerance=1e-12) for m in (reference, kernels))
    np.testing.assert_allclose(dense(got, 60), dense(want, 60), atol=1e-4)
    plain = kernels.encode_lasso(x, w, 0.1)
    assert len(got[1]) < len(plain[1])


@compiled
@given(problem=problems(alike=False), k=st.sampled_from([1, 3, 6]))
@quick
def test_thresholding_equals_the_reference(kernels: Any, problem: Any, k: int) -> None:
    x, w, center = problem
    k = min(k, len(w))
    how: dict[str, Any] = {"step": 0.99 / top_eigenvalue(w), "n_steps": 25, "center": center}
    want, got = (m.encode_iht(x, w, k, **how) for m in (reference, kernels))
    if k < w.shape[1] // 2:
        for a, b in zip(got[:2], want[:2], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(got[2], want[2], rtol=1e-4, atol=1e-7)


@every
@dtype
@pytest.mark.parametrize("penalty", [0.05, 0.4])
def test_lasso_codes_are_optimal(kernels: Any, dtype: Any, penalty: float) -> None:
    """The conditions of optimality, and a gap that is what it says: no other codes are better by more than that."""
    rng = np.random.default_rng(3)
    w = unit(rng.standard_normal((90, 24))).astype(dtype)
    x = rng.standard_normal((30, 24)).astype(dtype)
    tolerance = 1e-6 if dtype is np.float32 else 1e-11
    indptr, indices, values, gaps = kernels.encode_lasso(x, w, penalty, tolerance=tolerance)
    assert (np.diff(indptr) > 0).all() and (values > 0).all()
    assert (gaps <= 10 * tolerance).all()
    z = dense((indptr, indices, values), 90).astype(np.float64)
    products = (x - z @ w) @ w.T.astype(np.float64)
    close = 40 * np.sqrt(tolerance)
    assert products.max() < penalty * (1 + close)
    assert np.abs(products[z > 0] - penalty).max() < close
    best = kernels.encode_lasso(x.astype(float), unit(w.astype(float)), penalty, tolerance=1e-12)
    cost = [((x - c @ w) ** 2).sum(axis=1) / 2 + penalty * c.sum(axis=1) for c in (z, dense(best, 90))]
    assert (cost[0] - cost[1] <= (gaps + 2e-6) * (x.astype(float) ** 2).sum(axis=1) / 2).all()


@every
def test_one_latent_has_a_code_that_can_be_written_down(kernels: Any) -> None:
    w = np.array([[0, 0], [1, 0], [0, 1]], np.float64)
    x = np.array([[2, 0.1], [np.nan, 1], [-1, -1], [3, 1], [np.inf, 0]], np.float64)
    codes = kernels.encode_lasso(x, w, 0.5, tolerance=1e-12)
    assert codes[0].tolist() == [0, 1, 1, 1, 3, 3]
    assert codes[1].tolist() == [1, 1, 2]
    np.testing.assert_allclose(codes[2], [1.5, 2.5, 0.5], atol=1e-6)
    assert codes[3].shape == (5,) and (codes[3] <= 1e-12).all()
    # With weights: z = 2 - p v / (v + z) at the fixed point, v = p / 4, approached round by round.
    z, v = 1.5, 0.125
    for _ in range(2):
        z = 2 - 0.5 * v / (v + z)
    again = kernels.encode_lasso(x[:1], w, 0.5, rounds=2, tolerance=1e-12)
    np.testing.assert_allclose(again[2], [z], atol=1e-6)
    hard = kernels.encode_iht(x, w, 1, step=0.9)
    assert hard[0].tolist() == [0, 1, 1, 1, 2, 2]
    np.testing.assert_allclose(hard[2], [2, 3], rtol=1e-6)


@compiled
@dtype
def test_two_latents_alike_do_not_hinder(kernels: Any, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    w = unit(rng.standard_normal((20, 6))).astype(dtype)
    twice = np.concatenate([w, w])
    x = rng.standard_normal((50, 6)).astype(dtype)
    one, two = (kernels.encode_lasso(x, a, 0.1, tolerance=1e-6) for a in (w, twice))
    np.testing.assert_allclose(dense(two, 40) @ twice, dense(one, 20) @ w, atol=5e-3)
    assert (two[3] <= 1e-5).all()


@compiled
def test_inputs_of_any_float_type_and_stride(kernels: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((20, 9)).astype(np.float16), unit(rng.standard_normal((30, 9)))
    wide = np.zeros((20, 12), np.float16)
    wide[:, :9] = x
    wide.flags.writeable = False
    want = kernels.encode_lasso(x.astype(np.float64), w, 0.2)
    hard = kernels.encode_iht(x.astype(np.float64), w, 3, step=0.1)
    for rows in (x, wide[:, :9]):
        same(kernels.encode_lasso(rows, w, 0.2), want)
        same(kernels.encode_iht(rows, w, 3, step=0.1), hard)


@every
def test_refuses(kernels: Any) -> None:
    x, w = np.ones((2, 3)), np.eye(3)
    for penalty in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"penalty: .*expected a finite number above 0"):
            kernels.encode_lasso(x, w, penalty)
    with pytest.raises(ValueError, match="tolerance"):
        kernels.encode_lasso(x, w, 1.0, tolerance=-1.0)
    with pytest.raises(ValueError, match="rounds"):
        kernels.encode_lasso(x, w, 1.0, rounds=-1)
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k: {k}, expected 1 to 3"):
            kernels.encode_iht(x, w, k, step=0.1)
    for step in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"step: .*expected above 0, at most 1"):
            kernels.encode_iht(x, w, 1, step=step)
    with pytest.raises(ValueError, match="n_steps: 0, expected at least 1"):
        kernels.encode_iht(x, w, 1, step=0.1, n_steps=0)
    w[1] *= 2
    for call in (lambda: kernels.encode_lasso(x, w, 1.0), lambda: kernels.encode_iht(x, w, 1, step=0.1)):
        with pytest.raises(ValueError, match=r"w: row 1 has norm 2\.0+, expected 1 or 0"):
            call()


@compiled
@dtype
@pytest.mark.parametrize("multiple", [1e3, 1e6, 1e30])
def test_rows_at_the_edges_of_the_numbers(kernels: Any, dtype: Any, multiple: float) -> None:
    rng = np.random.default_rng(0)
    w = unit(rng.standard_normal((97, 3))).astype(dtype)
    smallest = float(np.finfo(dtype).smallest_subnormal)
    for size in (smallest * multiple, float(np.sqrt(np.finfo(dtype).max)) / 4):
        x = (size * rng.standard_normal((130, 3))).astype(dtype)
        penalty = max(size / 10, smallest)
        same(kernels.encode_lasso(x, w, penalty), kernels.encode_lasso(x, w, penalty, simple=True))
        hard = [
            kernels.encode_iht(x, w, 5, step=s, simple=simple)
            for s in (0.02, 1.0)
            for simple in (True, False)
        ]
        same(hard[0], hard[1])
        same(hard[2], hard[3])  # steps too long for the dictionary run away, alike
