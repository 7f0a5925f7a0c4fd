"""Input normalisation: applied and undone, folded, refused where it cannot be."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest

import sparse_sae
from sparse_sae import BatchTopK, TopK, Transform, evaluate, train
from sparse_sae.activations import JumpReLU
from sparse_sae.transforms import Normalize


def data(n: int = 3000, d: int = 10, scale: float = 30.0) -> Any:
    rng = np.random.default_rng(0)
    codes = np.where(rng.random((n, 24)) < 0.1, rng.uniform(1, 2, (n, 24)), 0)
    x = scale * (codes @ rng.standard_normal((24, d)) + rng.standard_normal(d))
    return x.astype(np.float32)


@pytest.mark.parametrize("kind", get_args(Normalize))
def test_undo_undoes(kind: str) -> None:
    x = data().astype(np.float64)
    t = Transform.fit(kind, x)
    new, undo = t.apply(x[:50])
    np.testing.assert_allclose(undo(new), x[:50], rtol=1e-9, atol=1e-4 if kind == "layer_norm" else 1e-9)
    if kind in ("scale", "token_norm"):
        power = (t.apply(x)[0] ** 2).sum(axis=1)
        assert power.mean() == pytest.approx(10)
        assert kind == "scale" or np.ptp(power) < 1e-9
    if kind == "whiten":
        np.testing.assert_allclose(np.cov(t.apply(x)[0].T, bias=True), np.eye(10), atol=1e-8)
    if kind == "layer_norm":
        assert np.abs(new.mean(axis=1)).max() < 1e-12


def test_each_source_of_a_crosscoder_has_its_own_scale() -> None:
    x = np.hstack([data(d=4, scale=1.0), data(d=6, scale=1000.0)])
    t = Transform.fit("scale", x, (4, 6))
    new = t.apply(x)[0].astype(np.float64)
    assert (new[:, :4] ** 2).sum(axis=1).mean() == pytest.approx(4, rel=1e-4)
    assert (new[:, 4:] ** 2).sum(axis=1).mean() == pytest.approx(6, rel=1e-4)


@pytest.mark.parametrize("kind", ["token_norm", "layer_norm"])
def test_token_transforms_are_refused_where_they_are_undefined(kind: str) -> None:
    x = data()
    with pytest.raises(ValueError, match=r"normalize: .* transcoder"):
        train((x, x), TopK(k=2), d_sae=20, n_tokens=500, coder="transcoder", normalize=kind)
    with pytest.raises(ValueError, match="cannot be folded"):
        Transform.fit(kind, x).fold({}, encoder=True, decoder=True, centered=True)


def test_units_of_the_data_change_nothing_but_the_codes() -> None:
    """A thousandfold input gives a thousandfold codes, thresholds and b_dec, and the same FVU."""
    x = data(scale=1.0)
    found = []
    for factor in (1.0, 1024.0):
        sae = train(factor * x, BatchTopK(k=3), d_sae=40, n_tokens=20_000, lr=3e-3).sae
        found.append((sae, evaluate(sae, factor * x).fvu))
    (one, fvu), (other, fvu_other) = found
    assert isinstance(one.activation, JumpReLU)
    assert fvu_other == pytest.approx(fvu, rel=1e-3)
    np.testing.assert_allclose(other.params["threshold"], 1024 * one.params["threshold"], rtol=1e-3)
    np.testing.assert_allclose(other.b_dec, 1024 * one.b_dec, rtol=1e-2, atol=1)
    np.testing.assert_allclose(np.linalg.norm(other.W_dec, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", get_args(Normalize))
def test_metrics_are_in_raw_units(kind: str) -> None:
    x = data()
    sae = train(x, TopK(k=4), d_sae=40, n_tokens=30_000, lr=3e-3, normalize=kind).sae
    found = evaluate(sae, x)
    out = sae.reconstruct(x).astype(np.float64)
    assert found.mse == pytest.approx(((out - x) ** 2).mean(), rel=1e-6)
    assert found.fvu == pytest.approx(
        ((out - x) ** 2).sum() / ((x - x.mean(axis=0, dtype=np.float64)) ** 2).sum(), rel=1e-4
    )
    assert found.fvu < 0.5


def test_whitening_survives_a_direction_without_variance() -> None:
    x = data()
    x[:, 3] = 7
    sae = train(x, TopK(k=4), d_sae=40, n_tokens=5000, normalize="whiten").sae
    assert np.isfinite(sae.reconstruct(x)).all()
    with pytest.raises(ValueError, match="transform: got 'zca'"):
        sparse_sae.Transform("zca")
