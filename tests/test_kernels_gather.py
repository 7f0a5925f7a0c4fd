"""Gathered rows: every stored dtype, every level and the reference, the same bits as NumPy's whole-array operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sparse_sae import _kernels

LEVELS = [*_kernels.loadable_levels(), "reference"]
STORED = ["float16", "bfloat16", "float32", "float64", "int8"]


@pytest.fixture(params=LEVELS)
def kernels(request: pytest.FixtureRequest) -> Any:
    return _kernels.load(request.param)


def stored(dtype: str, n: int, d: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Rows as they are stored, their scales, and the float32 rows that they stand for."""
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32) * 3
    if dtype == "bfloat16":
        bits = (x.view(np.uint32) >> 16).astype(np.uint16)
        return bits, None, (bits.astype(np.uint32) << 16).view(np.float32)
    if dtype == "int8":
        rows, scale = (
            np.clip(x * 20, -127, 127).astype(np.int8),
            np.abs(x[:, 0]) if d else np.ones(n, np.float32),
        )
        return rows, scale, rows.astype(np.float32) * scale[:, None]
    rows = x.astype(np.float64) * 1.1 if dtype == "float64" else x.astype(dtype)
    return rows, None, rows.astype(np.float32)


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (130, 16), (200, 67), (70, 576)])
def test_the_bits_of_whole_arrays(kernels: Any, dtype: str, shape: tuple[int, int]) -> None:
    rows, scale, floats = stored(dtype, *shape)
    rng = np.random.default_rng(1)
    index = rng.integers(0, shape[0], 150)
    center, factor = (rng.standard_normal(shape[1]).astype(np.float32) for _ in range(2))
    for threads in (1, 2, 7):
        out = np.full((150, shape[1]), np.nan, np.float32)
        assert kernels.gather(out, rows, index, scale, num_threads=threads) == -1
        np.testing.assert_array_equal(out, floats[index])
        kernels.gather(out, rows, index, scale, center=center, factor=factor, num_threads=threads)
        np.testing.assert_array_equal(out, (floats[index] - center) * factor)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(STORED), st.integers(0, 40), st.integers(0, 40), st.integers(0, 99))
def test_sizes(dtype: str, n: int, d: int, seed: int) -> None:
    rows, scale, floats = stored(dtype, n, d, seed)
    index = np.random.default_rng(seed).permutation(n)
    out = np.empty((n, d), np.float32)
    assert _kernels.gather(out, rows, index, scale) == -1
    np.testing.assert_array_equal(out, floats[index])


def test_every_half_is_converted_exactly(kernels: Any) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)].reshape(-1, 32)  # subnormals and both zeros among them
    out = np.empty(finite.shape, np.float32)
    assert kernels.gather(out, finite, np.arange(len(finite))) == -1
    np.testing.assert_array_equal(out.view(np.uint32), finite.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_first_row_that_is_not_finite_is_named(kernels: Any, dtype: str, bad: float) -> None:
    rows = stored("float32", 300, 19)[0]
    rows[[31, 250], [3, 18]] = bad
    rows = (rows.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else rows.astype(dtype)
    index = np.arange(299, -1, -1)
    for threads in (1, 7):
        assert kernels.gather(np.empty((300, 19), np.float32), rows, index, num_threads=threads) == 49
    assert kernels.gather(np.empty((2, 19), np.float32), rows, np.array([0, 31])) == 1


def test_a_number_beyond_float32_is_not_finite(kernels: Any) -> None:
    rows = np.array([[1.0], [1e39]])
    assert kernels.gather(np.empty((2, 1), np.float32), rows, np.arange(2)) == 1
    assert kernels.gather(np.empty((2, 1), np.float64), rows, np.arange(2)) == -1


def test_strides_and_columns_of_a_wider_batch(kernels: Any) -> None:
    wide = stored("float32", 50, 30)[0]
    wide.flags.writeable = False
    rows, index = wide[::-2, 5:18], np.arange(25)[::-1].copy()
    out = np.zeros((25, 20), np.float32)
    assert kernels.gather(out[:, 4:17], rows, index) == -1
    np.testing.assert_array_equal(out[:, 4:17], rows[index])
    assert not out[:, :4].any() and not out[:, 17:].any()


def test_float64_batches(kernels: Any) -> None:
    rows = stored("float64", 9, 5)[0]
    out = np.empty((9, 5))
    assert kernels.gather(out, rows, np.arange(9)) == -1
    np.testing.assert_array_equal(out, rows)


def test_what_is_refused(kernels: Any) -> None:
    rows, out = np.ones((4, 3), np.float32), np.empty((2, 3), np.float32)
    for index in ([0, 4], [-1, 0], [0, 2**40]):
        with pytest.raises(IndexError, match="index: row"):
            kernels.gather(out, rows, np.array(index))


@pytest.mark.parametrize("level", _kernels.loadable_levels())
def test_what_the_binding_refuses(level: str) -> None:
    kernels = _kernels.load(level)
    rows, out, index = np.ones((4, 3), np.float32), np.empty((2, 3), np.float32), np.arange(2)
    with pytest.raises(ValueError, match="out: shape"):
        kernels.gather(out[:1], rows, index)
    with pytest.raises(ValueError, match="x: shape"):
        kernels.gather(out, rows[:, :2], index)
    with pytest.raises(ValueError, match="scale: shape"):
        kernels.gather(out, rows, index, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="last axis"):
        kernels.gather(out[:, ::2], rows[:, :2], index)
    with pytest.raises(TypeError, match="x: dtype int32"):
        kernels.gather(out, rows.astype(np.int32), index)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        kernels.gather(out, rows, index)
