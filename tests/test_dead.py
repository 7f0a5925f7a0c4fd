"""Remedies for dead latents revive them; diverging runs keep their last good checkpoint; several runs at once."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparse_sae
from sparse_sae import (
    L1,
    BatchTopK,
    Coder,
    Gated,
    JumpReLU,
    Matryoshka,
    Resampling,
    TopK,
    TrainingDiverged,
    train,
    train_many,
)
from sparse_sae.architectures import Architecture
from sparse_sae.data.opening import open_source
from sparse_sae.training import checkpoint
from sparse_sae.training.config import TrainConfig
from sparse_sae.training.resampling import draw_by_loss, mean_to_spread
from sparse_sae.training.run import Run

D_SAE, BATCH = 128, 128


def planted(n: int = 6000, d: int = 24, m: int = 96) -> Any:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((m, d))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    codes = np.where(rng.random((n, m)) < 4 / m, rng.uniform(1, 2, (n, m)), 0)
    return (codes @ features).astype(np.float32)


def half_dead(architecture: Architecture, resampling: Resampling | None = None) -> tuple[float, float]:
    """Share of latents alive, and FVU, after training a dictionary of which half could not fire at the start."""
    x = planted()
    config = TrainConfig(
        architecture,
        d_sae=D_SAE,
        n_tokens=50_000,
        batch_size=BATCH,
        lr=3e-3,
        dead_after=3000,
        resampling=resampling,
        warmup=0.02,
        b_dec_init="mean",
    )
    run = Run.start(x, config, (24,), 1)
    run.params["b_enc"][: D_SAE // 2] = -6
    source = open_source(x)
    occasions = resampling.steps(config.steps) if resampling else {}
    for step in range(config.steps):
        if resampling and step in occasions:
            run.resample(source, occasions[step])
        rows = x[np.random.default_rng([1, step]).integers(0, 5000, BATCH)]
        run.step(*run.transformed(rows))
    found = sparse_sae.evaluate(run.finished({}), x[5000:], num_threads=1)
    return float((found.density > 0).mean()), found.fvu


REMEDIES: dict[str, Any] = {
    "auxk": (TopK(k=4), None),
    "auxk-batchtopk": (BatchTopK(k=4), None),
    "auxk-matryoshka": (Matryoshka(k=4), None),
    "auxk-jumprelu": (JumpReLU(coefficient=0.005), None),
    "resampling-topk": (TopK(k=4, aux_k=0), Resampling(encoder_scale=1.0)),
    "resampling-l1": (L1(coefficient=0.1), Resampling()),
    "resampling-gated": (Gated(coefficient=0.1), Resampling()),
}


@pytest.mark.parametrize("remedy", REMEDIES)
def test_remedies_revive_a_half_dead_dictionary(remedy: str) -> None:
    architecture, resampling = REMEDIES[remedy]
    alive, _ = half_dead(architecture, resampling)
    assert alive > 0.75


@pytest.mark.parametrize(
    "architecture", [TopK(k=4, aux_k=0), L1(coefficient=0.1), JumpReLU(coefficient=0.005, aux_k=0)]
)
def test_without_a_remedy_they_stay_dead(architecture: Architecture) -> None:
    alive, _ = half_dead(architecture)
    assert alive < 0.65


def test_resampling_as_published() -> None:
    """Rows far from the dictionary are drawn, weights are as stated, moments are zero, the living are untouched."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 8)).astype(np.float32)
    x[:20] = 40 * np.eye(8, dtype=np.float32)[2]  # reconstructed worst: drawn almost surely
    config = TrainConfig(
        TopK(k=2),
        d_sae=32,
        n_tokens=10**6,
        batch_size=100,
        normalize="none",
        b_dec_init="zero",
        dead_after=500,
        resampling=Resampling(rows=2000),
    )
    run = Run.start(x, config, (8,), 1)
    for i in range(10):
        run.step(*run.transformed(x[100 * (i % 3) + 100 :][:100]))
    run.tokens_since_fired[:] = 0
    run.tokens_since_fired[[3, 9]] = 500
    before = {k: v.copy() for k, v in run.params.items()}
    assert run.resample(open_source(x), 0) == 2
    b_dec = run.params["b_dec"]
    worst = x[0] - b_dec
    for j in (3, 9):
        np.testing.assert_allclose(run.params["W_dec"][j], worst / np.linalg.norm(worst), atol=1e-5)
        assert run.params["b_enc"][j] == 0
        for moments in (run.adam.m, run.adam.v):
            assert not moments["W_enc"][j].any()
            assert not moments["W_dec"][j].any()
            assert moments["b_enc"][j] == 0
        assert run.tokens_since_fired[j] == 0
    living = np.setdiff1d(np.arange(32), [3, 9])
    length = np.linalg.norm(before["W_enc"][living], axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(run.params["W_enc"][[3, 9]], axis=1), 0.2 * length, rtol=1e-5)
    for name in ("W_enc", "W_dec", "b_enc"):
        np.testing.assert_array_equal(run.params[name][living], before[name][living])
    assert run.adam.m["b_dec"].any()


def test_resampling_draws_by_squared_loss() -> None:
    """A row with twice the loss is drawn four times as often."""
    x = np.repeat(np.eye(8, dtype=np.float32)[:2], 500, axis=0)
    x[500:] *= 2**0.5  # squared error 2 against 1, with nothing reconstructed
    blocks = [
        (x[i : i + 300], x[i : i + 300], (x[i : i + 300] ** 2).sum(axis=1)) for i in range(0, 1000, 300)
    ]
    draws = [draw_by_loss(blocks, 25, np.random.default_rng(s))[0] for s in range(40)]
    share = float((np.concatenate(draws)[:, 1] > 0).mean())
    assert share == pytest.approx(0.8, abs=0.04)


def test_a_transcoders_input_is_centred() -> None:
    """A large mean of the input killed three quarters of the latents before it was subtracted."""
    x, y = planted(3000) + 5, planted(3000)[:, :9]
    arguments: dict[str, Any] = {"d_sae": 64, "n_tokens": 30_000, "coder": "transcoder", "dead_after": 3000}
    plain = train((x, y), TopK(k=4, aux_k=0), **arguments)
    assert plain.history[-1]["dead_fraction"] < 0.3


def test_resampling_a_transcoder_without_centring_puts_the_mean_into_the_bias() -> None:
    data = np.hstack([planted(3000) + 5, planted(3000)[:, :9]])
    config = TrainConfig(
        TopK(k=4),
        d_sae=64,
        n_tokens=10**6,
        batch_size=100,
        normalize="none",
        dead_after=1,
        coder=Coder("transcoder"),
        resampling=Resampling(rows=3000),
    )
    run = Run.start(data, config, (24, 9), 1)
    run.tokens_since_fired[:8] = 1
    run.resample(open_source((data[:, :24], data[:, 24:])), 0)
    pre = data[:, :24] @ run.params["W_enc"][:8].T + run.params["b_enc"][:8]
    assert np.abs(pre.mean(axis=0)).max() < 1e-3
    assert pre.std() > 0.1


def test_resampling_errors() -> None:
    for wrong in ({"at": ()}, {"at": (1.5,)}, {"encoder_scale": 0}, {"rows": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Resampling(**wrong)
    with pytest.raises(ValueError, match="resampling: reads data a second time"):
        train(iter([planted()]), TopK(k=2), d_sae=8, n_tokens=512, batch_size=256, resampling=Resampling())


def test_outlier_diagnostic() -> None:
    x = planted()
    assert mean_to_spread(x) < 1
    shifted = x + 100
    assert mean_to_spread(shifted) > 10
    with pytest.warns(UserWarning, match=r"the mean of the data is .* times its spread.*b_dec_init='mean'"):
        train(shifted, TopK(k=2), d_sae=8, n_tokens=512, b_dec_init="zero")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(shifted, TopK(k=2), d_sae=8, n_tokens=512)


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Rows of 1e30 after a good start: the error says where the checkpoint is, and it is usable."""
    x = planted()
    blocks = [x] * 3 + [np.full((1000, 24), 1e30, np.float32)] * 5
    arguments: dict[str, Any] = {"d_sae": 32, "n_tokens": 20_000, "batch_size": 400, "normalize": "none"}
    with (
        np.errstate(over="ignore", invalid="ignore"),
        pytest.raises(TrainingDiverged, match=rf"last good checkpoint is in {tmp_path}.*Lower lr"),
    ):
        train(iter(blocks), TopK(k=2), **arguments, out=tmp_path, checkpoint_every=1)
    groups, state = checkpoint.load(tmp_path)
    assert 0 < state["tokens"] <= 18_000
    assert all(np.isfinite(value).all() for value in groups["param"].values())


def test_a_parameter_that_is_not_finite_is_not_checkpointed(tmp_path: Path) -> None:
    run = Run.start(planted(), TrainConfig(TopK(k=2), d_sae=32, n_tokens=1000, batch_size=100), (24,), 1)
    run.save(tmp_path)
    run.params["W_enc"][3, 3] = np.nan
    with pytest.raises(TrainingDiverged, match="W_enc not finite"):
        run.save(tmp_path)
    assert np.isfinite(checkpoint.load(tmp_path)[0]["param"]["W_enc"]).all()


RUNS: dict[str, dict[str, Any]] = {
    "k2": {"architecture": TopK(k=2)},
    "wide": {"architecture": BatchTopK(k=4), "d_sae": 80},
    "whitened": {"architecture": JumpReLU(), "normalize": "whiten", "resampling": Resampling(at=(0.5,))},
}
MANY: dict[str, Any] = {"n_tokens": 9000, "batch_size": 100, "seed": 7, "log_every": 10}


def test_train_many_is_train_bit_for_bit() -> None:
    x = planted()
    seen: list[dict[str, Any]] = []
    results = train_many(x, RUNS, d_sae=48, lr=3e-3, callback=seen.append, **MANY)
    assert {r["run"] for r in seen} == set(RUNS)
    for name, given in RUNS.items():
        alone = train(x, **{"d_sae": 48, "lr": 3e-3, **given}, **MANY)
        assert [r["loss"] for r in results[name].history] == [r["loss"] for r in alone.history]
        for key, value in alone.sae.params.items():
            np.testing.assert_array_equal(results[name].sae.params[key], value)


def test_train_many_over_layers_and_seeds() -> None:
    layers = planted(), planted(d=10)
    runs: dict[str, dict[str, Any]] = {f"layer{i}": {"part": i} for i in (0, 1)}
    runs["seed1"] = {"part": 0, "seed": 1}
    results = train_many(layers, runs, architecture=TopK(k=2), d_sae=16, **MANY)
    assert [results[name].sae.d_in for name in runs] == [24, 10, 24]
    assert not np.array_equal(results["layer0"].sae.W_dec, results["seed1"].sae.W_dec)
    both = np.hstack(layers)
    assert train(both[:, :24], TopK(k=2), d_sae=16, **MANY).history[-1]["fvu"] == pytest.approx(
        results["layer0"].history[-1]["fvu"], rel=1e-6
    )


def test_train_many_resumes_even_from_unequal_checkpoints(tmp_path: Path) -> None:
    x = planted()
    whole = train_many(x, RUNS, d_sae=48, **MANY)

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 60 and record["run"] == "whitened":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_many(x, RUNS, d_sae=48, **MANY, out=tmp_path, callback=stop)
    ahead = (tmp_path / "k2" / checkpoint.NAME).read_bytes()

    def stop_early(record: dict[str, Any]) -> None:
        if record["step"] == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_many(x, RUNS, d_sae=48, **MANY, out=tmp_path, overwrite=True, callback=stop_early)
    (tmp_path / "k2" / checkpoint.NAME).write_bytes(ahead)
    rest = train_many(x, RUNS, d_sae=48, **MANY, out=tmp_path, resume=True)
    for name in RUNS:
        for key, value in whole[name].sae.params.items():
            np.testing.assert_array_equal(rest[name].sae.params[key], value)


def test_train_many_errors() -> None:
    x = planted(200)
    with pytest.raises(ValueError, match="runs: empty"):
        train_many(x, {}, n_tokens=100)
    with pytest.raises(ValueError, match="names"):
        train_many(x, {"a/b": {}}, n_tokens=100)
    with pytest.raises(TypeError, match="arguments of run 'a': got 'learning_rate'"):
        train_many(x, {"a": {"architecture": TopK(k=2), "d_sae": 8, "learning_rate": 1}}, n_tokens=100)
    with pytest.raises(ValueError, match="part: got 3"):
        train_many((x, x), {"a": {"architecture": TopK(k=2), "d_sae": 8, "part": 3}}, n_tokens=100)
