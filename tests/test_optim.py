"""Schedules, Adam, initial weights, and the control that follows a target L0."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sparse_sae import L1, BatchTopK, Gated, JumpReLU, Matryoshka, TopK, evaluate, train
from sparse_sae.architectures import Architecture
from sparse_sae.training.optim import Adam, Schedule, geometric_median, initial_params
from sparse_sae.weights import PER_LATENT


def test_schedules() -> None:
    rates = {
        kind: [Schedule(1.0, 0.1, 0.2, kind).at(s, 100) for s in range(100)]
        for kind in ("linear", "cosine", "constant")
    }
    for values in rates.values():
        assert values[0] == pytest.approx(0.1)
        assert values[9] == 1
        assert max(values) == 1
    assert rates["constant"][99] == 1
    assert rates["linear"][79] == 1
    assert rates["linear"][90] == pytest.approx(0.5)
    assert rates["cosine"][55] == pytest.approx(0.5)
    assert 0 < rates["cosine"][99] < 0.01
    assert Schedule(1.0, 0, 0, "linear").at(0, 10) == 1


@pytest.mark.parametrize(
    "wrong", [{"lr": 0}, {"lr": 1, "warmup": 2}, {"lr": 1, "decay": -1}, {"lr": 1, "kind": "step"}]
)
def test_schedule_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(lr|warmup|decay|schedule): got"):
        Schedule(**{"lr": 1, "warmup": 0, "decay": 0, "kind": "linear", **wrong})


def test_adam_on_a_vector_is_the_textbook() -> None:
    adam, w = Adam((0.9, 0.99), 1e-8), np.array([1.0, -2.0])
    adam.attach({"b": w})
    expected, m, v = w.copy(), np.zeros(2), np.zeros(2)
    for step in range(1, 5):
        grad = np.array([0.3, -0.1]) * step
        adam.step = step
        adam._vector("b", w, grad, 0.1)
        m, v = 0.9 * m + 0.1 * grad, 0.99 * v + 0.01 * grad**2
        expected -= 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.99**step)) + 1e-8)
    np.testing.assert_allclose(w, expected, rtol=1e-12)


def test_geometric_median_ignores_what_the_mean_follows() -> None:
    x = np.random.default_rng(0).standard_normal((500, 4))
    x[:20] += 1000
    assert np.linalg.norm(x.mean(axis=0)) > 50
    assert np.linalg.norm(geometric_median(x)) < 0.5


@pytest.mark.parametrize("b_dec", ["geometric_median", "mean", "zero"])
def test_initial_params(b_dec: str) -> None:
    x = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32) + 3
    p = initial_params(x, x, 10, np.random.default_rng(1), tied=True, b_dec=b_dec)
    np.testing.assert_array_equal(p["W_enc"], p["W_dec"])
    np.testing.assert_allclose(p["b_dec"], 0 if b_dec == "zero" else 3, atol=0.3)
    q = initial_params(x, x[:, :2], 10, np.random.default_rng(1), tied=False, b_dec=b_dec, skip=True)
    assert {k: v.shape for k, v in q.items()} == {
        "W_enc": (10, 4),
        "W_dec": (10, 2),
        "b_enc": (10,),
        "b_dec": (2,),
        "W_skip": (2, 4),
    }
    assert b_dec == "zero" or np.abs((x @ q["W_enc"].T + q["b_enc"]).mean(axis=0)).max() < 0.3
    with pytest.raises(ValueError, match="b_dec_init: got 'median'"):
        initial_params(x, x, 10, np.random.default_rng(1), tied=True, b_dec="median")


def planted(n: int = 8000, d: int = 24, m: int = 64, active: float = 4) -> Any:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((m, d))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    codes = np.where(rng.random((n, m)) < active / m, rng.uniform(1, 2, (n, m)), 0)
    return (codes @ features + 0.05 * rng.standard_normal((n, d))).astype(np.float32)


@pytest.mark.parametrize(
    "architecture",
    [
        L1(target_l0=6),
        L1(target_l0=6, free_norms=False),
        Gated(target_l0=6),
        JumpReLU(target_l0=6),
        JumpReLU(target_l0=6, recipe="tanh"),
        BatchTopK(k=6),
        Matryoshka(k=6),
        TopK(k=6),
    ],
    ids=lambda a: f"{a.name}-{getattr(a, 'recipe', '')}{getattr(a, 'free_norms', '')}",
)
def test_target_l0_is_met(architecture: Architecture) -> None:
    x = planted()
    sae = train(x[:7000], architecture, d_sae=96, n_tokens=80_000, batch_size=128, lr=3e-3).sae
    found = evaluate(sae, x[7000:])
    assert found.l0 == pytest.approx(6, rel=0.2)
    assert found.fvu < 0.5
    assert found.dead_fraction < 0.2


@pytest.mark.parametrize("coder", ["sae", "transcoder"])
@pytest.mark.parametrize(
    "architecture",
    [L1(target_l0=6), Gated(target_l0=6), JumpReLU(target_l0=6), JumpReLU(target_l0=6, recipe="tanh")],
    ids=lambda a: f"{a.name}-{getattr(a, 'recipe', '')}",
)
def test_penalties_start_at_their_target(architecture: Architecture, coder: str) -> None:
    """From half of all active, L0 has to fall by a penalty that shrinks what has not formed yet."""
    x = planted() + 3
    data = x if coder == "sae" else (x, x[:, ::-1].copy())
    arguments: dict[str, Any] = {"d_sae": 96, "batch_size": 500, "lr": 1e-9, "log_every": 1}
    first = train(data, architecture, n_tokens=500, coder=coder, **arguments).history[0]
    assert first["l0"] == pytest.approx(6, rel=0.1)


def test_k_and_penalty_are_annealed() -> None:
    x = planted()
    arguments: dict[str, Any] = {
        "d_sae": 96,
        "n_tokens": 20_000,
        "batch_size": 200,
        "log_every": 1,
        "num_threads": 1,
    }
    l0 = [r["l0"] for r in train(x, TopK(k=4, start_k=24, anneal=0.5), **arguments).history]
    assert l0[0] > 20
    # Near the start fewer than k pre-activations are positive in some rows.
    assert all(b < a + 0.5 for a, b in pairwise(l0))
    assert l0[25] == pytest.approx(14, abs=1)
    assert l0[50:] == pytest.approx([4] * 50, abs=0.01)
    history = train(x, L1(coefficient=1e-9, warmup=0.5), **{**arguments, "lr": 1e-9}).history
    price = [r["loss_sparsity"] for r in history]
    assert price[0] == 0
    assert price[25] == pytest.approx(price[60] / 2, rel=0.1)
    assert price[60] == pytest.approx(price[90], rel=0.1)


def test_forgetting_latents_spares_what_has_their_number_by_chance() -> None:
    """With d_in = d_sae, b_dec is as long as there are latents and belongs to none of them."""
    params = {
        name: np.ones(shape)
        for name, shape in {"W_enc": (6, 6), "W_dec": (6, 6), "b_enc": (6,), "b_dec": (6,)}.items()
    }
    adam = Adam((0.9, 0.999), 1e-8, m={name: value.copy() for name, value in params.items()}, v=params)
    adam.forget(np.array([1, 4]))
    for moments in (adam.m, adam.v):
        assert moments["b_dec"].all()
        for name in ("W_enc", "W_dec", "b_enc"):
            assert not moments[name][[1, 4]].any()
            assert moments[name][[0, 2, 3, 5]].all()


def test_every_architectures_own_weights_are_told_apart() -> None:
    """A weight of an architecture that has one entry for each latent is in the table, and no other one is."""
    for architecture in (
        JumpReLU(target_l0=2),
        JumpReLU(recipe="tanh"),
        Gated(target_l0=2),
        BatchTopK(k=2),
        L1(target_l0=2),
    ):
        shapes = {}
        for d_sae in (11, 13):
            params = initial_params(
                planted(100), planted(100), d_sae, np.random.default_rng(0), tied=True, b_dec="mean"
            )
            architecture.init(params, planted(100))
            shapes[d_sae] = {name: value.shape for name, value in params.items()}
        grows = {name for name, shape in shapes[11].items() if shapes[13][name] != shape}
        assert grows == {name for name in shapes[11] if name in PER_LATENT}
