"""A run that is killed, interrupted or out of disk goes on bit-identically; nothing is half-written."""

from __future__ import annotations

import json
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
from sparse_sae import TopK, TrainingInterrupted, _kernels, load, train
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
        with pytest.raises(TrainingInterrupted) as raised:
            train(x, TopK(k=2), **arguments, callback=interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    result = raised.value.result
    assert isinstance(raised.value, KeyboardInterrupt) and result.stop_reason == "interrupt"
    assert checkpoint.load(tmp_path)[1]["tokens"] == result.tokens == 2000
    np.testing.assert_array_equal(load(tmp_path / "sae").W_enc, result.sae.W_enc)


def test_ctrl_c_waits_for_the_end_of_a_step(tmp_path: Path, x: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of an update parameters, moments and counters belong to different steps."""
    arguments: dict[str, Any] = {"d_sae": 16, "n_tokens": 5000, "batch_size": 100}
    whole = train(x, TopK(k=2), **arguments)
    real, calls = _kernels.update_rows, 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args, **kwargs)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(_kernels, "update_rows", interrupted)
        with pytest.raises(TrainingInterrupted) as raised:
            train(x, TopK(k=2), **arguments, out=tmp_path)
    finally:
        monkeypatch.undo()
        signal.signal(signal.SIGINT, before)
    assert raised.value.result.tokens == 1200
    assert checkpoint.load(tmp_path)[1]["adam_step"] == 12
    rest = train(x, TopK(k=2), **arguments, out=tmp_path, resume=True)
    for name, value in whole.sae.params.items():
        np.testing.assert_array_equal(rest.sae.params[name], value, err_msg=name)


TERMINATED = """
import os, signal, sys
import numpy as np
from sparse_sae import TopK, train

def terminate(record):
    if record["step"] == 20:
        os.kill(os.getpid(), signal.SIGTERM)

x = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
out = sys.argv[1] if len(sys.argv) > 1 else None
train(x, TopK(k=2), d_sae=16, n_tokens=5000, batch_size=100, log_every=10, out=out, callback=terminate)
print("went on")
"""


def test_sigterm_saves_and_ends_the_process(tmp_path: Path, x: Any) -> None:
    arguments: dict[str, Any] = {"d_sae": 16, "n_tokens": 5000, "batch_size": 100, "log_every": 10}
    whole = train(x, TopK(k=2), **arguments)
    run = subprocess.run([sys.executable, "-c", TERMINATED, str(tmp_path)], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (-signal.SIGTERM, "")
    assert checkpoint.load(tmp_path)[1]["tokens"] == 2000
    assert load(tmp_path / "sae").d_sae == 16
    rest = train(x, TopK(k=2), **arguments, out=tmp_path, resume=True)
    for name, value in whole.sae.params.items():
        np.testing.assert_array_equal(rest.sae.params[name], value, err_msg=name)
    # Where nothing is to be saved, the process ends at once, as any other does.
    assert subprocess.run([sys.executable, "-c", TERMINATED]).returncode == -signal.SIGTERM


def test_every_flipped_bit_and_every_cut_of_a_checkpoint_is_found(tmp_path: Path, x: Any) -> None:
    arguments: dict[str, Any] = {"d_sae": 16, "n_tokens": 1000, "batch_size": 100, "out": tmp_path}
    train(x, TopK(k=2), **arguments)
    file = tmp_path / checkpoint.NAME
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(64), *rng.integers(0, len(good), 150).tolist()]:
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(bad)
        with pytest.raises(ValueError, match=r"resume: .*checkpoint\.safetensors"):
            checkpoint.load(tmp_path)
    for length in (0, 7, 8, 100, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:length])
        with pytest.raises(ValueError, match=r"resume: .*checkpoint\.safetensors"):
            checkpoint.load(tmp_path)
    file.write_bytes(good)
    assert train(x, TopK(k=2), **arguments, resume=True).tokens == 1000


def test_a_run_goes_on_with_its_own_data_only(tmp_path: Path, x: Any) -> None:
    arguments: dict[str, Any] = {"d_sae": 16, "n_tokens": 1000, "batch_size": 100, "out": tmp_path}
    train(x, TopK(k=2), **arguments)
    with pytest.raises(ValueError, match="data: other rows than those the run in"):
        train(x + 1, TopK(k=2), **arguments, resume=True)


def test_another_run_is_not_replaced_without_a_word(tmp_path: Path, x: Any) -> None:
    arguments: dict[str, Any] = {"d_sae": 16, "n_tokens": 1000, "batch_size": 100, "out": tmp_path}
    train(x, TopK(k=2), **arguments)
    kept = (tmp_path / checkpoint.NAME).read_bytes()
    with pytest.raises(FileExistsError, match="resume=True to go on with it, overwrite=True to replace it"):
        train(x, TopK(k=3), **arguments)
    assert (tmp_path / checkpoint.NAME).read_bytes() == kept
    with pytest.raises(ValueError, match="overwrite: got True with resume=True"):
        train(x, TopK(k=3), **arguments, resume=True, overwrite=True)
    assert train(x, TopK(k=3), **arguments, overwrite=True).sae.activation.k == 3


def test_two_processes_do_not_train_in_one_directory(tmp_path: Path, x: Any) -> None:
    handle = checkpoint.locked(tmp_path, resume=False, overwrite=False)
    try:
        with pytest.raises(RuntimeError, match="out: another process trains in"):
            train(x, TopK(k=2), d_sae=16, n_tokens=1000, batch_size=100, out=tmp_path)
    finally:
        os.close(handle)
    train(x, TopK(k=2), d_sae=16, n_tokens=1000, batch_size=100, out=tmp_path)


def test_a_callback_stops_a_run_and_history_grows(tmp_path: Path, x: Any) -> None:
    def stop(record: dict[str, Any]) -> bool:
        lines = (tmp_path / "history.jsonl").read_text().splitlines()
        assert json.loads(lines[-1]) == record and len(lines) == record["step"] // 10
        return record["step"] < 30

    result = train(x, TopK(k=2), d_sae=16, n_tokens=5000, batch_size=100, out=tmp_path, callback=stop)
    assert (result.stop_reason, result.tokens) == ("callback", 3000)
    assert load(tmp_path / "sae").d_sae == 16


def test_an_error_of_the_callback_loses_nothing(tmp_path: Path, x: Any) -> None:
    arguments: dict[str, Any] = {"d_sae": 16, "n_tokens": 3000, "batch_size": 100}

    def fail(record: dict[str, Any]) -> None:
        raise RuntimeError("of the callback")

    with pytest.raises(RuntimeError, match="of the callback"):
        train(x, TopK(k=2), **arguments, out=tmp_path, callback=fail)
    assert checkpoint.load(tmp_path)[1]["tokens"] == 1000
    rest = train(x, TopK(k=2), **arguments, out=tmp_path, resume=True)
    np.testing.assert_array_equal(rest.sae.W_dec, train(x, TopK(k=2), **arguments).sae.W_dec)


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
