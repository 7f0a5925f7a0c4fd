"""Training: recovery, determinism, resume, interruption, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparse_sae
from sparse_sae import TopK, train


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

    part = train(x, TopK(k=3), **arguments, out=tmp_path / "part", callback=stop, checkpoint_every=7)
    assert part.stop_reason == "interrupt"
    rest = train(x, TopK(k=3), **arguments, out=tmp_path / "part", resume=True)
    assert rest.stop_reason == "n_tokens"
    for name, value in whole.sae.params.items():
        assert np.array_equal(value, rest.sae.params[name]), name
    assert [r["loss"] for r in rest.history] == [r["loss"] for r in whole.history]
