"""Decoding, gradients and updates: every level against the NumPy twins, across threads, to the bit where
arithmetic is exact (small integers) and to rounding where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sparse_sae import _kernels
from sparse_sae._kernels import reference

COMPILED = _kernels.loadable_levels()
compiled = pytest.mark.parametrize("kernels", [_kernels.load(name) for name in COMPILED], ids=COMPILED)
dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
quick = settings(max_examples=25, deadline=None, derandomize=True)
ADAM = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "step": 3}


@st.composite
def codes(draw: Any) -> dict[str, Any]:
    """A random pattern with integer values, weights and rows; some rows and latents are empty."""
    n = draw(st.sampled_from([0, 1, 2, 17, 40]))
    m = draw(st.sampled_from([1, 5, 33, 100]))
    d = draw(st.sampled_from([1, 3, 8, 32, 45]))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    kept = rng.random((n, m)) < draw(st.sampled_from([0.0, 0.1, 0.6, 1.0]))
    return {
        "indptr": np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32),
        "indices": np.nonzero(kept)[1].astype(np.int32),
        "values": rng.integers(-3, 4, kept.sum()),
        "w": rng.integers(-3, 4, (m, d)),
        "x": rng.integers(-3, 4, (n, d)),
        "bias": rng.integers(-3, 4, d),
    }


def unpack(p: dict[str, Any], dtype: Any) -> tuple[tuple[Any, ...], Any, Any, Any]:
    triple = (p["indptr"], p["indices"], p["values"].astype(dtype))
    return triple, p["w"].astype(dtype), p["x"].astype(dtype), p["bias"].astype(dtype)


@compiled
@dtype
@given(problem=codes())
@quick
def test_sparse_products_equal_the_reference(kernels: Any, dtype: Any, problem: dict[str, Any]) -> None:
    triple, w, x, bias = unpack(problem, dtype)
    pattern, m = triple[:2], len(w)
    for name, args in {
        "decode": (*triple, w, bias),
        "code_grad": (*pattern, x, w),
        "decode_residual": (*triple, w, x),
        "weight_grad": (*triple, x, m),
        "latent_sums": (*triple, m),
        "matmul_nt": (x, w),
    }.items():
        want = getattr(reference, name)(*args)
        for threads in (1, 2, 7):
            got = getattr(kernels, name)(*args, num_threads=threads)
            for a, b in zip(got, want, strict=True) if isinstance(want, tuple) else [(got, want)]:
                assert a.dtype == dtype
                np.testing.assert_array_equal(a, b)


def gaussian(dtype: Any, seed: int = 0, density: float = 0.1) -> dict[str, Any]:
    """Codes of 40 stacked rows over 20 dense ones (so that rows wrap around), unit weight rows, moments."""
    rng = np.random.default_rng(seed)
    kept = rng.random((40, 70)) < density
    w = rng.standard_normal((70, 45))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    return {
        "indptr": np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32),
        "indices": np.nonzero(kept)[1].astype(np.int32),
        "values": rng.standard_normal(kept.sum()).astype(dtype),
        "dense": rng.standard_normal((20, 45)).astype(dtype),
        "w": w.astype(dtype),
        "m": (0.1 * rng.standard_normal((70, 45))).astype(dtype),
        "v": (0.1 * rng.random((70, 45))).astype(dtype),
        "along": rng.standard_normal(70).astype(dtype),
        "outer": rng.standard_normal(70).astype(dtype),
        "common": rng.standard_normal(45).astype(dtype),
    }


@compiled
@dtype
def test_many_codes_a_row_decode_to_the_bits_of_each_row_alone(kernels: Any, dtype: Any) -> None:
    """A batch of these goes by panels and ranges of latents, a single row does not."""
    g = gaussian(dtype, density=0.9)
    indptr, indices, values = g["indptr"], g["indices"], g["values"]
    target = np.random.default_rng(1).standard_normal((40, 45)).astype(dtype)
    for threads in (1, 2, 7):
        decoded = kernels.decode(indptr, indices, values, g["w"], g["common"], num_threads=threads)
        gradient = kernels.code_grad(indptr, indices, target, g["w"], num_threads=threads)
        both = kernels.decode_residual(indptr, indices, values, g["w"], target, num_threads=threads)
        for n in range(40):
            own = slice(indptr[n], indptr[n + 1])
            row = (np.array([0, own.stop - own.start], np.int32), indices[own])
            np.testing.assert_array_equal(
                kernels.decode(*row, values[own], g["w"], g["common"])[0], decoded[n]
            )
            np.testing.assert_array_equal(kernels.code_grad(*row, target[n : n + 1], g["w"]), gradient[own])
            alone = kernels.decode_residual(*row, values[own], g["w"], target[n : n + 1])
            for a, b in zip(alone, (both[0][n : n + 1], both[1][own], both[2][n : n + 1]), strict=True):
                np.testing.assert_array_equal(a, b)


def update(g: dict[str, Any], *extra: str, unit_norm: bool) -> dict[str, Any]:
    state = {name: g[name].copy() for name in ("w", "m", "v")}
    state |= {name: g[name] for name in ("values", "dense", *extra)}
    return {**state, "unit_norm": unit_norm}


@compiled
@dtype
@pytest.mark.parametrize("density", [0.1, 0.9])  # few and many entries a latent: rows of dense, or its panels
@pytest.mark.parametrize("unit_norm", [False, True])
def test_update_rows_is_weight_grad_then_adam_rows(
    kernels: Any, dtype: Any, unit_norm: bool, density: float
) -> None:
    g = gaussian(dtype, density=density)
    grad = kernels.weight_grad(g["indptr"], g["indices"], g["values"], g["dense"], 70)
    want = update(g, unit_norm=unit_norm)
    kernels.adam_rows(want["w"], want["m"], want["v"], grad, unit_norm=unit_norm, scale=0.5, **ADAM)
    for threads in (1, 2, 7):
        got = [update(g, unit_norm=unit_norm), update(g, unit_norm=not unit_norm)]
        kernels.update_rows(got, g["indptr"], g["indices"], 70, scale=0.5, num_threads=threads, **ADAM)
        for name in ("w", "m", "v"):
            np.testing.assert_array_equal(got[0][name], want[name])
        assert not np.array_equal(got[1]["w"], want["w"])


@compiled
@dtype
@pytest.mark.parametrize("extra", [(), ("along",), ("outer", "common"), ("along", "outer", "common")])
def test_updates_are_close_to_the_reference(kernels: Any, dtype: Any, extra: tuple[str, ...]) -> None:
    g = gaussian(dtype)
    for unit_norm in (False, True):
        got, want = ([update(g, *extra, unit_norm=unit_norm)] for _ in range(2))
        args = (g["indptr"], g["indices"], 70)
        norms = [k.grad_squared_norm(u, *args) for k, u in ((kernels, got), (reference, want))]
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
        assert norms[0] == kernels.grad_squared_norm(got, *args, num_threads=7)
        kernels.update_rows(got, *args, scale=0.5, num_threads=2, **ADAM)
        reference.update_rows(want, *args, scale=0.5, **ADAM)
        for name in ("w", "m", "v"):
            tolerance = 1e-5 if dtype == np.float32 else 1e-12
            np.testing.assert_allclose(got[0][name], want[0][name], rtol=tolerance, atol=tolerance)
        if unit_norm:
            np.testing.assert_allclose(np.linalg.norm(got[0]["w"], axis=1), 1, rtol=1e-6)


@compiled
def test_a_row_of_zeros_stays_zero_under_unit_norm(kernels: Any) -> None:
    w, m, v, grad = (np.zeros((3, 5), np.float32) for _ in range(4))
    kernels.adam_rows(w, m, v, grad, unit_norm=True, **ADAM)
    np.testing.assert_array_equal(w, 0)


@compiled
@dtype
def test_threads_do_not_matter(kernels: Any, dtype: Any) -> None:
    g = gaussian(dtype, seed=1)
    triple = (g["indptr"], g["indices"], g["values"])
    target = np.random.default_rng(2).standard_normal((40, 45)).astype(dtype)
    for name, args in {
        "decode": (*triple, g["w"], None),
        "decode_residual": (*triple, g["w"], target),
        "code_grad": (*triple[:2], target, g["w"]),
        "weight_grad": (*triple, g["dense"], 70),
        "latent_sums": (*triple, 70),
        "matmul_nt": (g["dense"], g["w"]),
    }.items():
        want = getattr(kernels, name)(*args)
        for threads in (2, 7):
            got = getattr(kernels, name)(*args, num_threads=threads)
            for a, b in zip(got, want, strict=True):
                np.testing.assert_array_equal(a, b)


@compiled
def test_decode_residual_is_its_parts(kernels: Any) -> None:
    g = gaussian(np.float32)
    triple = (g["indptr"], g["indices"], g["values"])
    target = np.random.default_rng(2).standard_normal((40, 45)).astype(np.float32)
    residual, projected, squared = kernels.decode_residual(*triple, g["w"], target)
    np.testing.assert_allclose(residual, kernels.decode(*triple, g["w"], None) - target, atol=2e-6)
    np.testing.assert_array_equal(projected, kernels.code_grad(*triple[:2], residual, g["w"]))
    np.testing.assert_allclose(squared, (residual**2).sum(axis=1), rtol=1e-5)
    in_place = target.copy()
    again = kernels.decode_residual(*triple, g["w"], in_place, out=in_place)
    assert np.shares_memory(again[0], in_place)
    for one, other in zip(again, (residual, projected, squared), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="out: shape"):
        kernels.decode_residual(*triple, g["w"], target, out=in_place[:-1])


@compiled
def test_wrong_arguments_are_named(kernels: Any) -> None:
    g = gaussian(np.float32)
    triple = (g["indptr"], g["indices"], g["values"])
    with pytest.raises(ValueError, match="indices: latent 69, expected 0 to 9"):
        kernels.decode(g["indptr"], np.full_like(g["indices"], 69), g["values"], g["w"][:10])
    falling = g["indptr"].copy()
    falling[3] = falling[-1]
    with pytest.raises(ValueError, match="indptr: must start at 0, never fall"):
        kernels.decode(falling, *triple[1:], g["w"])
    with pytest.raises(ValueError, match=r"target: shape \(20, 45\), expected \(40, 45\)"):
        kernels.decode_residual(*triple, g["w"], g["dense"])
    with pytest.raises(ValueError, match="step: 0, counted from 1"):
        kernels.update_rows([update(g, unit_norm=False)], *triple[:2], 70, **{**ADAM, "step": 0})
    frozen = update(g, unit_norm=False)
    frozen["v"].flags.writeable = False
    with pytest.raises(ValueError, match="v: read-only"):
        kernels.update_rows([frozen], *triple[:2], 70, **ADAM)
    with pytest.raises(TypeError, match="updates: no array for dense"):
        kernels.update_rows([{**frozen, "v": g["v"], "dense": None}], *triple[:2], 70, **ADAM)
    with pytest.raises(ValueError, match="outer and common go together"):
        kernels.update_rows([update(g, "outer", unit_norm=False)], *triple[:2], 70, **ADAM)
    with pytest.raises(ValueError, match="updates: empty"):
        kernels.update_rows([], *triple[:2], 70, **ADAM)
