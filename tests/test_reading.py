"""Rows are read ahead in one thread, safely; and those of a stream are nobody else's."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sae import TopK, TrainConfig, TrainingInterrupted, train, train_many
from sparse_sae.data.ahead import Ahead
from sparse_sae.data.sources import ArraySource, Source, StreamSource, batches
from sparse_sae.data.store import StoreWriter
from sparse_sae.training import loop
from sparse_sae.training.starting import prepared

D = 24


@pytest.fixture
def x() -> Any:
    return np.random.default_rng(0).standard_normal((3000, D)).astype(np.float32)


def reused(x: Any, n: int) -> Iterator[Any]:
    """Blocks that all lie in the same memory."""
    buffer = np.empty((n, x.shape[1]), x.dtype)
    for start in range(0, len(x) - n + 1, n):
        buffer[:] = x[start : start + n]
        yield buffer
    buffer[:] = np.nan


@pytest.mark.parametrize("n", [100, 700])  # smaller and larger than the mixing buffer
def test_a_generator_may_use_its_buffer_again(x: Any, n: int) -> None:
    got = list(batches(StreamSource(reused(x, n), mixing_rows=500), 50, 0, 0))
    whole = x[: len(x) // n * n]
    copied = iter([x[start : start + n].copy() for start in range(0, len(whole), n)])
    for ours, expected in zip(got, batches(StreamSource(copied, mixing_rows=500), 50, 0, 0), strict=True):
        np.testing.assert_array_equal(ours, expected)
    rows = np.concatenate(got)
    assert len(np.unique(rows[:, 0])) == len(rows) == len(whole) // 50 * 50
    sampled = StreamSource(reused(x, n), mixing_rows=500)
    np.testing.assert_array_equal(sampled.sample(900, 0), x[:900])
    np.testing.assert_array_equal(np.concatenate(list(batches(sampled, 50, 0, 0))), rows)


def test_an_iterator_is_read_no_further_than_its_rows_are_needed(x: Any) -> None:
    taken = []

    def blocks() -> Iterator[Any]:
        for start in range(0, 3000, 100):
            taken.append((start, threading.current_thread()))
            yield x[start : start + 100]

    rows = batches(StreamSource(blocks(), mixing_rows=200), 100, 0, 0)
    next(rows), next(rows)
    assert [start for start, _ in taken] == [0, 100]
    next(rows)
    assert [start for start, _ in taken] == [0, 100, 200, 300]
    assert {thread for _, thread in taken} == {threading.current_thread()}


def others() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("sparse_sae-rows")]


def test_one_ahead_and_no_more() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            if i == 1:
                second.set()
            yield i

    with Ahead(items()) as ahead:
        assert next(ahead) == 0
        assert second.wait(10)
        assert made == [0, 1]
        assert list(ahead) == [1, 2, 3, 4]
        assert next(ahead, None) is None
    assert not others()


def test_an_error_is_raised_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with Ahead(items()) as ahead:
        assert next(ahead) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            next(ahead)
        assert next(ahead, None) is None
    assert not others()


def test_closing_waits_and_closes_what_it_read() -> None:
    begun, go, closed = threading.Event(), threading.Event(), []

    def items() -> Iterator[int]:
        try:
            begun.set()
            go.wait(10)
            yield 1
            yield 2
        finally:
            closed.append(True)

    ahead = Ahead(items())
    assert begun.wait(10)
    go.set()
    ahead.close()
    assert closed and not others()
    assert next(ahead, None) is None


@pytest.fixture
def always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_WORTH_A_THREAD", 0)


def weights(data: Any, **more: Any) -> Any:
    arguments: dict[str, Any] = {"d_sae": 64, "n_tokens": 20_000, "batch_size": 100, "num_threads": 1, **more}
    return train(data, TopK(k=4), **arguments).sae.W_dec


def test_reading_ahead_changes_no_bit(x: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    writer = StoreWriter(tmp_path / "store", D, "int8", shard_bytes=20_000)
    writer.append(x, np.arange(3000), np.arange(3000) % 50 + 1, np.arange(3000) // 50)
    writer.finish(massive_ratio=1e6)
    for data in (x, np.load(tmp_path / "x.npy", mmap_mode="r"), tmp_path / "store"):
        plain = weights(data)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_WORTH_A_THREAD", 0)
            np.testing.assert_array_equal(weights(data), plain)
    assert not others()


@pytest.mark.usefixtures("always_ahead")
def test_a_row_that_is_not_finite_stops_the_run_and_is_named(x: Any) -> None:
    x[2222, 3] = np.nan
    source = ArraySource([x])
    source.sample = lambda n, seed: x[:1000]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="data: row 2222 holds a NaN"):
        run_loop(source)
    assert not others()


def run_loop(source: Source) -> None:
    config = TrainConfig(TopK(k=4), d_sae=64, n_tokens=20_000, batch_size=100)
    with ExitStack() as stack:
        members = prepared(source, {"": config}, 0, None, False, False, 1, stack)
        loop.Loop(source, members, 0, 1).run(False, None)


@pytest.mark.usefixtures("always_ahead")
def test_ctrl_c_and_errors_leave_no_thread(x: Any) -> None:
    def interrupt(record: dict[str, Any]) -> None:
        if record["step"] == 20:
            os.kill(os.getpid(), signal.SIGINT)

    def fail(record: dict[str, Any]) -> None:
        raise RuntimeError("in a callback")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(TrainingInterrupted):
            train(x, TopK(k=4), d_sae=64, n_tokens=50_000, batch_size=100, callback=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not others()
    with pytest.raises(RuntimeError, match="in a callback"):
        train(x, TopK(k=4), d_sae=64, n_tokens=50_000, batch_size=100, callback=fail)
    assert not others()


@pytest.mark.usefixtures("always_ahead")
def test_a_run_resumed_while_rows_are_read_ahead(x: Any, tmp_path: Path) -> None:
    def interrupt(record: dict[str, Any]) -> None:
        if record["step"] == 50:
            raise KeyboardInterrupt

    whole = weights(x)
    with pytest.raises(KeyboardInterrupt):
        weights(x, out=tmp_path, callback=interrupt)
    np.testing.assert_array_equal(weights(x, out=tmp_path, resume=True), whole)


def test_parts_of_several_arrays_train_as_they_would_alone(x: Any) -> None:
    pair = (x, np.ascontiguousarray(x[:, :7]).astype(np.float16))
    runs = {"a": {"architecture": TopK(k=4), "part": 0}, "b": {"architecture": TopK(k=4), "part": 1}}
    arguments: dict[str, Any] = {"d_sae": 64, "n_tokens": 5000, "batch_size": 100, "num_threads": 1}
    both = train_many(pair, runs, **arguments)
    for name, alone in zip("ab", pair, strict=True):
        expected = train(alone, TopK(k=4), **arguments).sae
        np.testing.assert_array_equal(both[name].sae.W_dec, expected.W_dec)
