"""Matching pursuit: every level equals the reference, and the fast way equals the simple one to the bit."""

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
def problems(draw: Any, alike: bool = True) -> tuple[Any, Any, int, Any]:
    """Rows, unit atoms, k and a centre; sizes around the edges of tiles, with latents alike and a dead one."""
    n = draw(st.sampled_from([0, 1, 2, 15, 16, 17, 40]))
    d = draw(st.sampled_from([1, 2, 7, 31, 32, 33, 65]))
    m = draw(st.sampled_from([1, 2, 3, 16, 33, 130]))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    w = unit(rng.standard_normal((m, d)) + draw(st.sampled_from([0, 1])))
    if alike and draw(st.booleans()):  # pairs that rounding in float32 can hardly tell apart
        w[1::2] = unit(w[: m // 2 * 2 : 2] + 1e-6 * rng.standard_normal((m // 2, d)))
    if m > 3:
        w[m // 2] = 0
    center = rng.standard_normal(d) if draw(st.booleans()) else None
    return rng.standard_normal((n, d)), w, min(m, draw(st.sampled_from([1, 2, 5, 12]))), center


def cast(problem: tuple[Any, Any, int, Any], dtype: Any) -> tuple[Any, Any, int, Any]:
    x, w, k, center = problem
    return x.astype(dtype), w.astype(dtype), k, None if center is None else center.astype(dtype)


def dense(codes: tuple[Any, ...], m: int) -> Any:
    return reference.decode(*codes[:3], np.eye(m, dtype=codes[2].dtype))


@compiled
@dtype
@given(problem=problems())
@quick
def test_fast_equals_simple_and_threads_do_not_matter(kernels: Any, dtype: Any, problem: Any) -> None:
    x, w, k, center = cast(problem, dtype)
    want = kernels.encode_omp(x, w, k, center=center, simple=True)
    for threads in (1, 2, 7):
        for simple in (True, False):
            got = kernels.encode_omp(x, w, k, center=center, simple=simple, num_threads=threads)
            for a, b in zip(got, want, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


@compiled
@given(problem=problems(alike=False))
@quick
def test_levels_equal_the_reference(kernels: Any, problem: Any) -> None:
    x, w, k, center = problem
    if w.shape[1] == 1:
        return  # all atoms are alike: every choice is a tie
    want, got = (m.encode_omp(x, w, k, center=center) for m in (reference, kernels))
    if k >= w.shape[1]:  # the residual can vanish before k atoms: rounding then chooses, the sum stays
        np.testing.assert_allclose(dense(got, len(w)) @ w, dense(want, len(w)) @ w, atol=1e-7)
        return
    for a, b in zip(got[:2], want[:2], strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(got[2], want[2], rtol=1e-6, atol=1e-9)


@every
@dtype
def test_codes_are_what_the_definition_says(kernels: Any, dtype: Any) -> None:
    """The first latent is the best one, later ones lower the error, and codes are least squares over z >= 0."""
    from scipy.optimize import nnls

    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((30, 20)).astype(dtype), unit(rng.standard_normal((50, 20))).astype(dtype)
    one = kernels.encode_omp(x, w, 1)
    np.testing.assert_array_equal(one[1], (x @ w.T).argmax(axis=1))
    np.testing.assert_allclose(one[2], (x @ w.T).max(axis=1), rtol=1e-4)
    before = (x**2).sum(axis=1)
    for k in (1, 2, 4, 8):
        codes = dense(kernels.encode_omp(x, w, k), 50)
        error = ((x - codes @ w) ** 2).sum(axis=1)
        assert (error < before).all()
        before = error
        for row, code in zip(x, codes, strict=True):
            active = np.flatnonzero(code)
            assert len(active) <= k
            np.testing.assert_allclose(code[active], nnls(w[active].T, row)[0], atol=1e-4)


@every
def test_ties_dead_latents_and_rows_that_are_not_finite(kernels: Any) -> None:
    w = np.array([[0, 0], [1, 0], [1, 0], [0, 1]], np.float64)
    x = np.array([[2, 0], [np.nan, 1], [-1, -1], [3, 1], [np.inf, 0]], np.float64)
    codes = kernels.encode_omp(x, w, 3)
    assert codes[0].tolist() == [0, 1, 1, 1, 3, 3]
    assert codes[1].tolist() == [1, 1, 3]
    np.testing.assert_allclose(codes[2], [2, 3, 1])


@compiled
def test_inputs_of_any_float_type_and_stride(kernels: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((20, 9)).astype(np.float16), unit(rng.standard_normal((30, 9)))
    wide = np.zeros((20, 12), np.float16)
    wide[:, :9] = x
    wide.flags.writeable = False
    want = kernels.encode_omp(x.astype(np.float64), w, 4)
    for got in (kernels.encode_omp(x, w, 4), kernels.encode_omp(wide[:, :9], w, 4)):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


@every
def test_refuses(kernels: Any) -> None:
    x, w = np.ones((2, 3)), np.eye(3)
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"k: {k}, expected 1 to 3"):
            kernels.encode_omp(x, w, k)
    w[1] *= 2
    with pytest.raises(ValueError, match=r"w: row 1 has norm 2\.0+, expected 1 or 0"):
        kernels.encode_omp(x, w, 2)


@compiled
@dtype
@pytest.mark.parametrize("multiple", [1e3, 1e4, 1e6])
def test_rows_whose_squares_underflow(kernels: Any, dtype: Any, multiple: float) -> None:
    """Found by torture: their norm was taken for zero, and with it all rounding."""
    rng = np.random.default_rng(0)
    size = float(np.finfo(dtype).smallest_subnormal) * multiple
    x = (size * rng.standard_normal((130, 3))).astype(dtype)
    w = unit(rng.standard_normal((97, 3))).astype(dtype)
    want, got = (kernels.encode_omp(x, w, 6, simple=simple) for simple in (True, False))
    for one, other in zip(want, got, strict=True):
        assert one.tobytes() == other.tobytes()
