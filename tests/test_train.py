"""Training: recovery, determinism, resume, interruption, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparse_sae
from sparse_sae import TopK, TrainingInterrupted, train


def planted(n: int = 6000, d: int = 16, m: int = 24, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((m, d))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    codes = np.where(rng.random((n, m)) < 2 / m, rng.uniform(1, 2, (n, m)), 0)
    return (codes @ features).astype(np.float32), features


def test_recovers_a_planted_dictionary() -> None:
    x, features = planted()
    sae = train(x, TopK(k=3), d_sae=32, n_tokens=300_000, batch_size=256, lr=3e-3).sae
    best = np.abs(features @ sae.W_dec.T).max(axis=1)
    assert (best > 0.95).mean() > 0.8
    assert sparse_sae.evaluate(sae, x).fvu < 0.1


@pytest.mark.parametrize("num_threads", [1, 2])
def test_threads_do_not_change_the_result(num_threads: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 40)).astype(np.float32)
    runs = [
        train(x, TopK(k=4), d_sae=600, n_tokens=4000, batch_size=500, dead_after=500, num_threads=t).sae
        for t in (7, num_threads)
    ]
    for name, value in runs[0].params.items():
        assert np.array_equal(value, runs[1].params[name]), name


def test_resume_is_bit_identical(tmp_path: Path) -> None:
    x, _ = planted()
    arguments: dict[str, Any] = {
        "d_sae": 48,
        "n_tokens": 20_000,
        "batch_size": 256,
        "dead_after": 1000,
        "seed": 3,
    }
    whole = train(x, TopK(k=3), **arguments, out=tmp_path / "whole")

    def stop(record: dict[str, Any]) -> None:
        if record["step"] == 40:
            raise KeyboardInterrupt

    with pytest.raises(TrainingInterrupted):
        train(x, TopK(k=3), **arguments, out=tmp_path / "part", callback=stop, checkpoint_every=7)
    rest = train(x, TopK(k=3), **arguments, out=tmp_path / "part", resume=True)
    assert rest.stop_reason == "n_tokens"
    for name, value in whole.sae.params.items():
        assert np.array_equal(value, rest.sae.params[name]), name
    assert [r["loss"] for r in rest.history] == [r["loss"] for r in whole.history]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lr", 0),
        ("lr", float("nan")),
        ("lr", "fast"),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("dead_after", 0),
        ("dead_after", -5),
        ("clip_norm", -1),
        ("clip_norm", float("nan")),
        ("betas", (2, 2)),
        ("betas", 0.9),
        ("eps", -1),
        ("eps", 0),
        ("log_every", 0),
        ("checkpoint_every", 0),
        ("d_sae", 0),
        ("d_sae", 2.0),
        ("d_sae", True),
        ("n_tokens", 0),
        ("seed", -1),
        ("warmup", 2),
        ("schedule", "stairs"),
        ("normalize", "all"),
        ("dtype", "float16"),
        ("b_dec_init", "random"),
        ("metadata", {"a": float("nan")}),
        ("resampling", 5),
    ],
)
def test_no_argument_is_replaced_or_passed_over(tmp_path: Path, argument: str, value: Any) -> None:
    arguments: dict[str, Any] = {"d_sae": 48, "n_tokens": 1000, "batch_size": 100, "out": tmp_path / "run"}
    with pytest.raises((ValueError, TypeError), match=argument):
        train(planted()[0], TopK(k=3), **{**arguments, argument: value})
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "d_sae": 48,
        "n_tokens": 1000,
        "batch_size": 100,
        "lr": 1e-3,
        "dead_after": 500,
    }
    plain = train(planted()[0], TopK(k=3), **arguments)
    of_numpy = {name: np.asarray(value)[()] for name, value in arguments.items()}
    got = train(planted()[0], TopK(k=np.int64(3)), **of_numpy, out=tmp_path)
    assert got.sae.activation == plain.sae.activation and type(got.sae.activation.k) is int
    np.testing.assert_array_equal(got.sae.W_enc, plain.sae.W_enc)


@pytest.mark.parametrize(
    "make", [lambda: TopK(k=2.5), lambda: TopK(k=True), lambda: TopK(aux_coefficient=float("nan"))]
)
def test_hyperparameters_are_numbers(make: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^(k|aux_coefficient): got"):
        make()


def test_a_stream_shorter_than_a_batch_is_said_to_be() -> None:
    with pytest.raises(ValueError, match="data: ended before the first batch of 512 rows"):
        train(iter([planted()[0][:100]]), TopK(k=3), d_sae=48, n_tokens=5120, batch_size=512)


def test_rows_left_out_are_announced() -> None:
    with pytest.warns(UserWarning, match="n_tokens: 1000 in batches of 256 leave 232 rows out"):
        assert train(planted()[0], TopK(k=3), d_sae=48, n_tokens=1000, batch_size=256).tokens == 768
