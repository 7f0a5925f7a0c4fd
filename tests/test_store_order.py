"""Order: shuffled reading is a permutation: uniform, repeatable, resumable anywhere, bounded in memory."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from sparse_sae.data.store import ActivationStore, StoreWriter, aligned

N, D, LENGTH = 3000, 512, 50


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """Row i holds its number in every column."""
    path = tmp_path_factory.mktemp("order") / "acts"
    writer = StoreWriter(path, D, "float32", shard_bytes=800_000)
    for begin in range(0, N, LENGTH):
        numbers = np.arange(begin, begin + LENGTH)
        rows = np.repeat(numbers[:, None], D, axis=1)
        writer.append(rows, numbers, np.arange(LENGTH), [begin // LENGTH] * LENGTH)
    writer.finish(massive_ratio=1e6)
    return ActivationStore(path)


def order_of(store: ActivationStore, **kwargs: int) -> list[int]:
    return [int(row[0]) for block in store.epoch(**kwargs) for row in block]


@pytest.mark.parametrize("buffer_bytes", [1, 300 * 4 * D, 1 << 28])
def test_an_epoch_has_every_row_once(store: ActivationStore, buffer_bytes: int) -> None:
    order = order_of(store, seed=3, epoch=0, buffer_bytes=buffer_bytes)
    assert sorted(order) == store.tokens.tolist()
    assert order != sorted(order)
    assert order == order_of(store, seed=3, epoch=0, buffer_bytes=buffer_bytes)
    assert order != order_of(store, seed=3, epoch=1, buffer_bytes=buffer_bytes)
    assert order != order_of(store, seed=4, epoch=0, buffer_bytes=buffer_bytes)


@pytest.mark.parametrize("buffer_bytes", [600 * 4 * D, 1 << 28])
def test_it_can_start_anywhere(store: ActivationStore, buffer_bytes: int) -> None:
    order = order_of(store, seed=1, epoch=2, buffer_bytes=buffer_bytes)
    for skip in (1, 999, 1000, 1001, 2939, 2940, 5000):
        assert order_of(store, seed=1, epoch=2, skip=skip, buffer_bytes=buffer_bytes) == order[skip:]
    small_blocks = order_of(store, seed=1, epoch=2, block_rows=7, buffer_bytes=buffer_bytes)
    assert small_blocks == order


def test_batches_resume_by_position_through_epochs(store: ActivationStore) -> None:
    straight = list(islice(store.batches(256, seed=5), 30))  # more than two epochs
    assert all(batch.shape == (256, D) for batch in straight)
    for done in (1, 11, 12, 23):
        resumed = next(store.batches(256, seed=5, start=done * 256))
        np.testing.assert_array_equal(resumed, straight[done])
    first_epoch = np.concatenate(straight)[: len(store), 0]
    assert sorted(first_epoch.astype(int).tolist()) == store.tokens.tolist()
    big = next(store.batches(2 * len(store) + 1, seed=0))
    assert big.shape == (2 * len(store) + 1, D)


def test_the_shuffle_is_uniform_over_the_store(store: ActivationStore) -> None:
    # Where does each sixth of the store go? Over many epochs: to each sixth of the order alike.
    n_epochs, parts = 200, 6
    counts = np.zeros((parts, parts))
    for epoch in range(n_epochs):
        order = np.array(order_of(store, seed=9, epoch=epoch, buffer_bytes=500 * 4 * D))
        place = np.arange(len(order)) * parts // len(order)
        np.add.at(counts, (order * parts // N, place), 1)
    expected = n_epochs * len(store) / parts**2
    # chunks of up to 128 rows move together, about four to a sixth: a standard deviation of 8 %
    assert np.abs(counts / expected - 1).max() < 0.3


def test_a_batch_mixes_the_store(store: ActivationStore) -> None:
    batch = next(store.batches(200, seed=0))[:, 0]
    assert len(np.unique(batch // LENGTH)) > 50  # of 60 documents
    assert abs(batch.mean() - N / 2) < 4 * N / np.sqrt(12 * 200)


def test_sample_is_without_replacement_and_repeatable(store: ActivationStore) -> None:
    sample = store.sample(500, seed=2)
    assert sample.shape == (500, D)
    assert len(np.unique(sample[:, 0])) == 500
    np.testing.assert_array_equal(sample, store.sample(500, seed=2))
    assert not np.array_equal(sample, store.sample(500, seed=3))
    assert len(store.sample(10**6)) == len(store)
    with pytest.raises(ValueError, match="n: got"):
        store.sample(0)


def test_split_by_document(store: ActivationStore) -> None:
    train, held_out = store.split(0.2, seed=1)
    assert len(train) + len(held_out) == len(store)
    assert not set(train.documents) & set(held_out.documents)
    assert 4 <= len(set(held_out.documents)) <= 22
    assert sorted(order_of(held_out)) == held_out.tokens.tolist()
    other, _ = store.split(0.2, seed=2)
    assert set(other.documents) != set(train.documents)
    with pytest.raises(ValueError, match="held_out"):
        store.split(1.0)


def test_select_documents(store: ActivationStore) -> None:
    view = store.select(documents=[2, 5])
    assert set(view.documents) == {2, 5}
    assert len(view) == 2 * (LENGTH - 1)
    np.testing.assert_array_equal(view.rows()[:, 0], view.tokens)


def test_aligned_stores_give_the_same_tokens_in_the_same_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stores = []
    for name, width, massive in (("a", 24, [40, 77]), ("b", 700, [77, 501, 1203])):
        writer = StoreWriter(tmp_path / name, width, "float32", hook=name, shard_bytes=1 << 60)
        rows = rng.normal(size=(2000, width)).astype(np.float32)
        rows[:, 0] = np.arange(2000) / 1e4
        rows[massive, 1:] *= 100
        for begin in range(0, 2000, 250):
            part = slice(begin, begin + 250)
            numbers = np.arange(2000)[part]
            writer.append(
                rows[part], numbers, np.arange(250), numbers // 250, progress=begin, state=str(begin)
            )
            writer.flush()
        writer.finish()
        stores.append(ActivationStore(tmp_path / name))
    assert [store.excluded["massive"] for store in stores] == [2, 3]
    a, b = aligned(stores)
    assert len(a) == len(b) == 2000 - 8 - 4
    np.testing.assert_array_equal(a.tokens, b.tokens)
    assert not {40, 77, 501, 1203} & set(a.tokens.tolist())
    for skip in (0, 600):
        in_a, in_b = (
            np.concatenate(list(store.epoch(1, 0, skip, buffer_rows=512)))[:, 0] for store in (a, b)
        )
        assert len(in_a) == len(a) - skip
        np.testing.assert_array_equal(in_a, in_b)
    np.testing.assert_array_equal(a.sample(50, 3)[:, 0], b.sample(50, 3)[:, 0])
    halves = aligned([store.split(0.5)[1] for store in stores])
    np.testing.assert_array_equal(halves[0].tokens, halves[1].tokens)
    assert len(stores[0]) == 1990  # the stores themselves are as they were
    other = StoreWriter(tmp_path / "c", 24, "float32")
    other.append(np.ones((2000, 24)), np.zeros(2000), np.arange(2000), np.zeros(2000))
    other.finish()
    with pytest.raises(ValueError, match="not of one capture"):
        aligned([stores[0], ActivationStore(tmp_path / "c")])


_LIMITED = """
import resource, sys
import numpy as np
from sparse_sae.data.store import ActivationStore
limit = int(sys.argv[2])
base = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (base + limit, base + limit))
store = ActivationStore(sys.argv[1])
seen = total = 0
for block in store.epoch(seed=0, buffer_bytes=limit // 8, block_rows=1024):
    seen += len(block); total += float(block[:, 0].sum(dtype=np.float64))
print(seen, round(total), len(store.sample(100)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space as Linux does")
def test_a_store_several_times_larger_than_memory(tmp_path: Path) -> None:
    limit, d_in, n = 64 << 20, 512, 1024
    writer = StoreWriter(tmp_path / "s", d_in, "float32", shard_bytes=4 << 20)
    rows = np.ones((n, d_in), dtype=np.float32)
    times = 4 * limit // rows.nbytes
    for i in range(times):
        writer.append(rows, np.zeros(n), np.arange(n) + 1, np.full(n, i))
    writer.finish()
    size = sum(file.stat().st_size for file in (tmp_path / "s").glob("shard-*"))
    assert size > 4 * limit
    run = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path / "s"), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(times * n), str(times * n), "100"]
