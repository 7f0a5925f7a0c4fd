"""A run that is killed, interrupted or out of disk goes on bit-identically; nothing is half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparse_sae
from sparse_sae import TopK, train
from sparse_sae.training import checkpoint

SCRIPT = """
import sys, pathlib, numpy as np, sparse_sae
x = np.random.default_rng(0).standard_normal((4000, 24)).astype("float32")
sparse_sae.train(x, sparse_sae.TopK(k=4), d_sae=256, n_tokens=120_000, batch_size=256, seed=5, dead_after=2000,
                 out=sys.argv[1], checkpoint_every=3, num_threads=1,
                 resume=(pathlib.Path(sys.argv[1]) / sparse_sae.training.checkpoint.NAME).is_file())
print("finished")
"""


def run(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(directory)], stdout=subprocess.PIPE, text=True)


def test_killed_at_random_moments_and_resumed(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    assert whole.communicate(timeout=120)[0].strip() == "finished"
    rng = np.random.default_rng(os.getpid())
    kills = 0
    for _ in range(200):
        process = run(tmp_path / "killed")
        # Wait for this process's first own checkpoint, so that every life makes progress, then strike.
        seen = _mtime(tmp_path / "killed")
        while process.poll() is None and _mtime(tmp_path / "killed") == seen:
            time.sleep(0.001)
        time.sleep(float(rng.uniform(0, 0.05)))
        if process.poll() is None and kills < 12:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        if process.communicate(timeout=120)[0].strip() == "finished":
            break
    assert kills >= 3
    one, other = sparse_sae.load(tmp_path / "whole/sae"), sparse_sae.load(tmp_path / "killed/sae")
    for name, value in one.params.items():
        np.testing.assert_array_equal(value, other.params[name], err_msg=name)


def _mtime(directory: Path) -> int:
    try:
        return (directory / checkpoint.NAME).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@pytest.fixture
def x() -> Any:
    return np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)


def test_ctrl_c_stops_at_a_checkpoint(tmp_path: Path, x: Any) -> None:
    def interrupt(record: dict[str, Any]) -> None:
        if record["step"] == 20:
            os.kill(os.getpid(), signal.SIGINT)

    arguments: dict[str, Any] = {"d_sae": 16, "n_tokens": 50_000, "batch_size": 100, "out": tmp_path}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # parallel test workers ignore it
    try:
        result = train(x, TopK(k=2), **arguments, callback=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.stop_reason == "interrupt"
    assert checkpoint.load(tmp_path)[1]["tokens"] == result.tokens < 50_000
    assert not (tmp_path / "sae").exists()


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path, x: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {"d_sae": 16, "n_tokens": 5000, "batch_size": 100, "checkpoint_every": 5}
    real = os.fsync
    calls = 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train(x, TopK(k=2), **arguments, out=tmp_path / "run")
    monkeypatch.undo()
    assert not [p for p in (tmp_path / "run").iterdir() if p.name.endswith(".tmp")]
    resumed = train(x, TopK(k=2), **arguments, out=tmp_path / "run", resume=True)
    whole = train(x, TopK(k=2), **arguments)
    np.testing.assert_array_equal(resumed.sae.W_dec, whole.sae.W_dec)


def test_resume_refuses_another_run(tmp_path: Path, x: Any) -> None:
    arguments: dict[str, Any] = {"d_sae": 16, "n_tokens": 1000, "batch_size": 100, "out": tmp_path}
    train(x, TopK(k=2), **arguments)
    with pytest.raises(ValueError, match="seed=0"):
        train(x, TopK(k=2), **arguments, resume=True, seed=1)
    with pytest.raises(FileNotFoundError, match="resume"):
        train(x, TopK(k=2), **{**arguments, "out": tmp_path / "none"}, resume=True)
    with pytest.raises(ValueError, match="needs out"):
        train(x, TopK(k=2), **{**arguments, "out": None}, resume=True)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", None])
def test_damaged_checkpoint(tmp_path: Path, x: Any, content: bytes | None) -> None:
    arguments: dict[str, Any] = {"d_sae": 16, "n_tokens": 1000, "batch_size": 100, "out": tmp_path}
    train(x, TopK(k=2), **arguments)
    file = tmp_path / checkpoint.NAME
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        train(x, TopK(k=2), **arguments, resume=True)


def test_the_end_of_finite_data(x: Any) -> None:
    result = train(iter([x[:500], x[500:]]), TopK(k=2), d_sae=16, n_tokens=5000, batch_size=100)
    assert result.stop_reason == "data"
    assert result.tokens == 1000
