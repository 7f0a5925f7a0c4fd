"""Sources of training rows: one order for a seed, entered at any row, every row once an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sae._io.safetensors import write_tensors
from sparse_sae.data.opening import open_source
from sparse_sae.data.sources import ArraySource, Source, StoreSource, StreamSource, batches
from sparse_sae.data.store import ActivationStore, StoreWriter

N, D = 1000, 3


def numbered(n: int = N, d: int = D) -> Any:
    """Rows that carry their number, so that an order can be read off them."""
    return (
        np.arange(n, dtype=np.float32)[:, None] * np.ones(d, np.float32) + np.arange(d, dtype=np.float32) / 8
    )


def memmap(path: Path) -> Any:
    np.save(path / "rows.npy", numbered())
    return np.load(path / "rows.npy", mmap_mode="r")


def store(path: Path, d: int = D) -> ActivationStore:
    writer = StoreWriter(path / f"store{d}", d_in=d, dtype="float32", shard_bytes=3000)
    # positions start at 1: no row is a sequence's first, so none is left out
    for start in range(0, N, 100):
        at = np.arange(start, start + 100)
        writer.append(numbered(N, d)[at], tokens=at % 50, positions=at % 100 + 1, documents=at // 100)
    writer.finish(massive_ratio=1e6)
    return ActivationStore(path / f"store{d}")


def make(kind: str, path: Path) -> Source:
    """Small buffers, so that an epoch has several."""
    if kind == "array":
        return ArraySource([numbered()], buffer_bytes=4 * D * 300)
    if kind == "memmap":
        return ArraySource([memmap(path)], buffer_bytes=4 * D * 300)
    if kind == "store":
        return StoreSource([store(path)])
    return StreamSource([numbered()[i : i + 70] for i in range(0, N, 70)], mixing_rows=250)


KINDS = ["array", "memmap", "store", "stream"]


def take(source: Source, n: int, seed: int = 0, start: int = 0) -> Any:
    """The next n rows as (n, D)."""
    rows, have = [], 0
    for block in source.blocks(seed, start):
        rows.append(block)
        have += len(block)
        if have >= n:
            break
    return np.concatenate(rows)[:n]


def order(rows: Any) -> list[int]:
    return rows[:, 0].astype(int).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_visits_every_row_once_and_the_next_in_another_order(kind: str, tmp_path: Path) -> None:
    rows = take(make(kind, tmp_path), 2 * N)
    np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(D, dtype=np.float32) / 8)
    first, second = order(rows[:N]), order(rows[N:])
    assert sorted(first) == sorted(second) == list(range(N))
    assert first != second
    assert first != list(range(N))


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_fixes_the_order(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, again = make(kind, tmp_path / "a"), make(kind, tmp_path / "b")
    np.testing.assert_array_equal(take(one, 1500, seed=3), take(again, 1500, seed=3))
    np.testing.assert_array_equal(take(one, 1500, seed=3), take(one, 1500, seed=3))
    assert order(take(one, N, seed=3)) != order(take(one, N, seed=4))


@pytest.mark.parametrize("start", [1, 249, 250, 300, 999, N, N + 1, 2 * N + 417])
@pytest.mark.parametrize("kind", KINDS)
def test_a_start_is_a_skip(kind: str, start: int, tmp_path: Path) -> None:
    source = make(kind, tmp_path)
    whole = take(source, start + 400)
    np.testing.assert_array_equal(take(source, 400, start=start), whole[start:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_holds_rows_of_the_data_and_takes_none_away(kind: str, tmp_path: Path) -> None:
    source = make(kind, tmp_path)
    sample = source.sample(200, seed=1)
    assert sample.shape == (200, D) and sample.dtype == np.float32
    assert len(set(order(sample))) == 200
    np.testing.assert_array_equal(sample, source.sample(200, seed=1))
    assert sorted(order(take(source, N))) == list(range(N))


@pytest.mark.parametrize("kind", ["array", "memmap", "store"])
def test_a_sample_is_drawn_from_all_rows(kind: str, tmp_path: Path) -> None:
    source = make(kind, tmp_path)
    numbers = order(source.sample(200, seed=1))
    assert min(numbers) < 100 and max(numbers) > 900
    assert numbers != order(source.sample(200, seed=2))
    assert len(source.sample(10 * N, seed=1)) == N


def test_batches_are_of_one_size_and_start_anywhere(tmp_path: Path) -> None:
    source = make("array", tmp_path)
    whole = take(source, 64 * 20)
    got = list(islice(batches(source, 64, seed=0, start=0), 20))
    assert {b.shape for b in got} == {(64, D)}
    assert all(b.flags.c_contiguous for b in got)
    np.testing.assert_array_equal(np.concatenate(got), whole)
    later = list(islice(batches(source, 64, seed=0, start=64 * 7), 13))
    np.testing.assert_array_equal(np.concatenate(later), whole[64 * 7 :])


def test_parts_side_by_side_stay_together(tmp_path: Path) -> None:
    for source in (
        open_source((numbered(), numbered()[:, :2])),
        open_source((store(tmp_path), store(tmp_path, d=2))),
        open_source([(numbered()[i : i + 70], numbered()[i : i + 70, :2]) for i in range(0, N, 70)]),
    ):
        assert source.widths == (D, 2)
        rows = take(source, 1200)
        np.testing.assert_array_equal(rows[:, 0], rows[:, D])
        assert source.sample(10, seed=0).shape == (10, D + 2)


def stream() -> Iterator[Any]:
    yield from (numbered()[i : i + 70] for i in range(0, N, 70))


def test_an_iterator_is_read_once_and_ends() -> None:
    source = open_source(stream())
    assert source.widths == (D,)
    source.sample(200, seed=0)
    rows = np.concatenate(list(source.blocks(0, 0)))
    assert sorted(order(rows)) == list(range(N))
    assert order(rows) != list(range(N))


def test_an_iterator_entered_later_skips_the_same_rows() -> None:
    whole = np.concatenate(list(StreamSource(stream(), mixing_rows=250).blocks(0, 0)))
    later = np.concatenate(list(StreamSource(stream(), mixing_rows=250).blocks(0, 333)))
    np.testing.assert_array_equal(later, whole[333:])


def test_blocks_are_read_as_they_are_needed() -> None:
    read = 0

    def endless() -> Iterator[Any]:
        nonlocal read
        while True:
            read += 1
            yield np.full((10, D), read, np.float32)

    source = StreamSource(endless(), mixing_rows=50)
    take(source, 100)
    assert read <= 16


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_and_layouts_give_the_same_rows(dtype: Any) -> None:
    base = numbered(64)
    expected = take(open_source(base), 64)
    readonly = base.astype(dtype)
    readonly.flags.writeable = False
    wide = np.zeros((64, 2 * D), dtype)
    wide[:, ::2] = base
    for data in (
        readonly,
        np.asfortranarray(base.astype(dtype)),
        wide[:, ::2],
        base.astype(dtype)[::-1][::-1],
    ):
        rows = take(open_source(data), 64)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, expected)


def test_bfloat16_of_torch_and_its_bits_on_disk(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(numbered(64)).to(torch.bfloat16)
    expected = take(open_source(tensor.float()), 64)
    np.testing.assert_array_equal(take(open_source(tensor), 64), expected)
    np.save(tmp_path / "bits.npy", tensor.view(torch.int16).numpy().view(np.uint16))
    rows = take(open_source(np.load(tmp_path / "bits.npy", mmap_mode="r")), 64)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (np.zeros((0, 4), np.float32), ValueError, "data: empty"),
        (np.zeros(4, np.float32), ValueError, r"data: shape \(4,\), expected \(n, d_in\)"),
        (np.zeros((3, 4), np.int64), TypeError, "data: dtype int64, expected float16"),
        ((np.zeros((3, 4)), np.zeros((2, 4))), ValueError, r"data: arrays of \[3, 2\] rows"),
        (5, TypeError, "data: got int, expected an array"),
        ([], ValueError, "data: "),
        (iter([]), ValueError, "data: the iterable yielded no rows"),
        (iter([np.zeros((0, 4), np.float32)]), ValueError, "data: the iterable yielded no rows"),
        (iter([(np.zeros((3, 4)), np.zeros((2, 4)))]), ValueError, r"data: blocks of \[3, 2\] rows"),
        ("no/such/directory", FileNotFoundError, "no/such/directory"),
    ],
)
def test_data_that_cannot_be_used(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(data)


def test_a_memmap_of_integers(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.zeros((10, 3), np.uint8))
    with pytest.raises(TypeError, match="data: dtype uint8"):
        open_source(np.load(tmp_path / "tokens.npy", mmap_mode="r"))


def test_blocks_that_change_width() -> None:
    source = open_source(iter([np.zeros((5, 4), np.float32), np.zeros((5, 3), np.float32)]))
    with pytest.raises(ValueError, match=r"data: a block of widths \[3\] after \(4,\)"):
        list(source.blocks(0, 0))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["array", "stream"])
def test_not_a_number_is_refused(kind: str, bad: float) -> None:
    rows = numbered(50)
    rows[31, 1] = bad
    with pytest.raises(ValueError, match=r"data: row .* holds a NaN or an infinity"):
        take(open_source(rows if kind == "array" else iter([rows])), 50)


def test_paths_of_files(tmp_path: Path) -> None:
    rows = numbered()
    expected = take(open_source(np.load(save(tmp_path / "x.npy", rows), mmap_mode="r")), 64)
    np.savez(tmp_path / "one.npz", anything=rows)
    write_tensors(tmp_path / "one.safetensors", {"activations": rows})
    for name in ("x.npy", "one.safetensors"):  # mapped, in the order of what lies on a disk
        np.testing.assert_array_equal(take(open_source(str(tmp_path / name)), 64), expected)
    np.testing.assert_array_equal(take(open_source(tmp_path / "one.npz"), 64), take(open_source(rows), 64))
    bits = (rows.view(np.uint32) >> 16).astype(np.uint16)
    write_tensors(tmp_path / "bf16.safetensors", {"x": bits}, bfloat16=("x",))
    np.testing.assert_array_equal(
        take(open_source(tmp_path / "bf16.safetensors"), 64),
        (expected.view(np.uint32) >> 16 << 16).view(np.float32),
    )


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.parquet", "x.h5", "x.hdf5", "x.csv"])
def test_files_that_must_be_converted_say_how(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(
        ValueError, match=rf"data: .*{name} is a .* file, expected .npy.*convert it once: numpy.save"
    ):
        open_source(tmp_path / name)


def test_files_that_hold_no_rows(tmp_path: Path) -> None:
    write_tensors(tmp_path / "two.safetensors", {"a": numbered(), "b": numbered(5)})
    np.savez(tmp_path / "two.npz", a=numbered(), b=numbered(5))
    for name in ("two.npz", "two.safetensors"):
        with pytest.raises(ValueError, match=rf"data: .*{name} holds 2 arrays \(a .*b .*expected one"):
            open_source(tmp_path / name)
    write_tensors(tmp_path / "tokens.safetensors", {"a": np.zeros((4, 2), np.int32)})
    with pytest.raises(TypeError, match="dtype I32, expected one of F64"):
        open_source(tmp_path / "tokens.safetensors")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(ValueError, match=r"cut\.npy: not a complete \.npy file of numbers"):
        open_source(tmp_path / "cut.npy")
    with pytest.raises(FileNotFoundError, match=r"data: .*gone\.npy does not exist"):
        open_source(tmp_path / "gone.npy")


def save(path: Path, rows: Any) -> Path:
    np.save(path, rows)
    return path


def test_more_axes_are_rows_as_in_encode() -> None:
    rows = numbered()
    np.testing.assert_array_equal(take(open_source(rows.reshape(10, -1, D)), 64), take(open_source(rows), 64))


def test_data_sets_of_h5py_are_said_to_be_read_whole() -> None:
    class Dataset:
        shape = (N, D)

        def __getitem__(self, _: Any) -> Any:
            return numbered()

    Dataset.__module__ = "h5py._hl.dataset"
    with pytest.warns(UserWarning, match="data: a h5py data set of shape .* is read into memory as a whole"):
        source = open_source(Dataset())
    np.testing.assert_array_equal(take(source, 64), take(open_source(numbered()), 64))
