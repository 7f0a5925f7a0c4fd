"""Gradients beyond the table of test_architectures: clipping, dense products, and what must get no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparse_sae import Gated, JumpReLU, TopK, _kernels
from sparse_sae.architectures import Batch, Codes, products
from sparse_sae.architectures.auxiliary import auxiliary
from sparse_sae.training.optim import Adam

RNG = np.random.default_rng


def setting(m: int = 30, d: int = 8, n: int = 50, seed: int = 0) -> tuple[dict[str, Any], Any]:
    rng = RNG(seed)
    w = rng.standard_normal((m, d))
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    params = {"W_enc": w.copy(), "W_dec": w, "b_enc": rng.standard_normal(m) / 10, "b_dec": np.zeros(d)}
    return params, rng.standard_normal((n, d))


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_dense_products_are_the_sparse_ones(density: float, monkeypatch: pytest.MonkeyPatch) -> None:
    params, x = setting()
    rng = RNG(1)
    values = np.where(rng.random((len(x), 30)) < density, rng.standard_normal((len(x), 30)), 0)
    indptr = np.concatenate([[0], np.cumsum((values != 0).sum(axis=1))]).astype(np.int32)
    codes = Codes(indptr, np.nonzero(values)[1].astype(np.int32), values[values != 0])
    monkeypatch.setattr(products, "DENSE_FORWARD", -1.0)
    monkeypatch.setattr(products, "_CHUNK_BYTES", 1)  # many chunks
    dense = products.residual_products(codes, params["W_dec"], x, 2)
    for found, expected in zip(dense, _kernels.decode_residual(*codes, params["W_dec"], x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        products.dense_weight_grad(*codes, x[:25], 30, 2),
        _kernels.weight_grad(*codes, x[:25], 30),
        atol=1e-12,
    )


def test_where_keeps_rows_together() -> None:
    codes = Codes(np.array([0, 2, 2, 5], np.int32), np.array([1, 4, 0, 2, 3], np.int32), np.arange(5.0))
    kept = codes.where(np.array([False, True, True, False, True]))
    assert kept.indptr.tolist() == [0, 1, 1, 3]
    assert kept.indices.tolist() == [4, 0, 3]
    assert kept.values.tolist() == [1, 2, 4]
    assert kept.rows().tolist() == [0, 2, 2]


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("sources", [(), (5, 3)])
def test_clipping_scales_every_gradient_by_one_factor(
    dense: bool, sources: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sparse_sae

    monkeypatch.setattr(products, "DENSE_BACKWARD", -1.0 if dense else 2.0)
    architecture = sparse_sae.L1(coefficient=0.5)
    found = []
    for clip in (0.0, 1e-3):
        params, x = setting()
        architecture.init(params, x)
        g = architecture.step(params, Batch(x, x, 8.0, np.zeros(30, bool), 0.5, 1, sources))
        adam = Adam((0.0, 0.999), 1e-8, clip)
        adam.attach(params)
        vectors = {"b_enc": g.d_pre, "b_dec": g.output.sum(axis=0)}
        scale = adam.update(params, g, x, vectors, 1e-3, unit_norm=False, num_threads=1, sources=sources)
        found.append((scale, {k: v.copy() for k, v in adam.m.items()}))
    (one, whole), (scale, clipped) = found
    assert one == 1
    assert scale < 1
    total = sum(float((v**2).sum()) for v in clipped.values())
    assert total**0.5 == pytest.approx(1e-3, rel=1e-6)
    for name in whole:
        np.testing.assert_allclose(clipped[name], whole[name] * scale, rtol=1e-9)


def test_auxk_reaches_a_dead_latent_whose_preactivations_are_all_negative() -> None:
    """The reason why AuxK has no ReLU here: with it, such a latent would get no gradient at all."""
    params, x = setting()
    params["b_enc"][7] = -100
    dead = np.zeros(30, bool)
    dead[7] = True
    block, loss = auxiliary(params, Batch(x, x, 8.0, dead), x, None, 1 / 32) or pytest.fail("nothing")
    assert set(block.codes.indices) == {7}
    assert (block.codes.values < 0).all()
    assert np.abs(block.dz).max() > 0
    assert loss > 0


def test_a_step_with_auxk_is_its_two_blocks_joined_without_a_copy() -> None:
    params, x = setting()
    dead = np.zeros(30, bool)
    dead[:9] = True
    batch = Batch(x, x, 8.0, dead)
    plain, step = (TopK(k=4, aux_k=aux_k).step(params, batch) for aux_k in (0, 3))
    error = x - _kernels.decode(*plain.codes, params["W_dec"])
    block, loss = auxiliary(params, batch, error, 3, 1 / 32) or pytest.fail("nothing")
    assert step.out.base is not None and step.out.shape == (2 * len(x), 8)
    np.testing.assert_allclose(step.out, np.concatenate([plain.out, block.out]), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(step.dz, np.concatenate([plain.dz, block.dz]), rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(step.indices, np.concatenate([plain.indices, block.codes.indices]))
    np.testing.assert_array_equal(step.z, np.concatenate([plain.z, block.codes.values]))
    np.testing.assert_array_equal(step.codes.values, plain.z)
    assert step.parts["aux"] == pytest.approx(loss, rel=1e-12)
    assert np.shares_memory(step.codes.values, step.z) and np.shares_memory(step.output, step.out)


def test_auxk_is_off_where_nothing_is_dead_and_where_it_is_switched_off() -> None:
    params, x = setting()
    alive, dead = np.zeros(30, bool), np.ones(30, bool)
    assert auxiliary(params, Batch(x, x, 8.0, alive), x, None, 1 / 32) is None
    assert auxiliary(params, Batch(x, x, 8.0, dead), x, 0, 1 / 32) is None
    assert auxiliary(params, Batch(x, x, 8.0, dead), x, None, 0.0) is None
    assert auxiliary(params, Batch(x, x, 8.0, dead), 0 * x, None, 1 / 32) is None


def test_auxk_and_multi_topk_reach_the_encoder() -> None:
    """sparsify 1.3.3 gives the encoder no gradient from either."""
    params, x = setting()
    dead = np.zeros(30, bool)
    dead[:5] = True
    plain, both = (
        arch.step(params, Batch(x, x, 8.0, dead))
        for arch in (TopK(k=2, aux_k=0), TopK(k=2, aux_k=3, multi_k=8))
    )
    n = len(plain.dz)
    np.testing.assert_array_equal(both.dz[:n], plain.dz)
    for block in (both.dz[n : n + 8 * 50], both.dz[n + 8 * 50 :]):
        assert np.abs(block).max() > 0


def test_jumprelu_window_below_the_threshold_moves_only_the_threshold() -> None:
    params, x = setting()
    architecture = JumpReLU(bandwidth=0.3, start_threshold=0.8, coefficient=0.01, warmup=0)
    architecture.init(params, x)
    g = architecture.step(params, Batch(x, x, 8.0, np.zeros(30, bool), 0.5))
    below = g.z == 0
    assert below.any()
    assert (g.dz[below] == 0).all()
    assert np.abs(g.vectors["log_threshold"]).max() > 0
    assert (g.codes.values > 0.8).all()


def test_gated_auxiliary_term_leaves_the_decoder_alone() -> None:
    """Its entries have z from the magnitudes alone: closing all magnitudes leaves the decoder no gradient."""
    params, x = setting()
    architecture = Gated(coefficient=0.1, warmup=0)
    architecture.init(params, x)
    params["b_mag"][:] = -100
    g = architecture.step(params, Batch(x, x, 8.0, np.zeros(30, bool), 0.5))
    assert g.parts["gate"] > 0
    assert (g.z == 0).all()
    assert np.abs(g.dz).max() > 0
