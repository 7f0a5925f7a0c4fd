"""The activation store: what is written is what is read, in every dtype and order; damage is noticed."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors import safe_open

from sparse_sae.data.store import ActivationStore, StoreWriter, checks, massive_threshold
from sparse_sae.data.store.format import decode_rows, encode_rows

D = 12


def fill(path: Path, n_documents: int = 40, length: int = 25, **kwargs: Any) -> np.ndarray:
    """A finished store of sequences of `length` rows, one a document; returns all rows."""
    rng = np.random.default_rng(7)
    rows = rng.normal(3.0, 1.0, size=(n_documents * length, D)).astype(np.float32)
    options: dict[str, Any] = {"dtype": "float32", "model": "m", "hook": "h", "shard_bytes": 9000} | kwargs
    writer = StoreWriter(path, d_in=D, **options)
    for document in range(n_documents):
        part = slice(document * length, (document + 1) * length)
        tokens = np.arange(part.start, part.stop)
        writer.append(rows[part], tokens, np.arange(length), [document] * length, progress=document + 1)
    writer.finish()
    return rows


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path = tmp_path_factory.mktemp("store") / "acts"
    return path, fill(path)


def test_rows_and_columns_come_back_without_first_positions(filled: tuple[Path, np.ndarray]) -> None:
    path, rows = filled
    store = ActivationStore(path)
    kept = np.arange(len(rows)) % 25 != 0
    assert len(list(path.glob("shard-*"))) > 3
    assert len(store) == kept.sum() == 960
    assert store.excluded == {"first": 40, "padding": 0, "massive": 0}
    np.testing.assert_array_equal(store.rows(), rows[kept])
    np.testing.assert_array_equal(store.tokens, np.flatnonzero(kept))
    np.testing.assert_array_equal(store.positions, np.flatnonzero(kept) % 25)
    np.testing.assert_array_equal(store.documents, np.flatnonzero(kept) // 25)
    assert len(ActivationStore(path, exclude=())) == 1000
    store.verify()


def test_rows_by_index_slice_and_mask_keep_the_order_asked_for(filled: tuple[Path, np.ndarray]) -> None:
    path, _ = filled
    store = ActivationStore(path)
    everything = store.rows()
    index = [5, 900, 5, 0, -1]
    np.testing.assert_array_equal(store.rows(index), everything[index])
    np.testing.assert_array_equal(store.rows(slice(10, 700, 7)), everything[10:700:7])
    np.testing.assert_array_equal(store.rows(store.documents == 3), everything[store.documents == 3])
    assert store.rows([]).shape == (0, D)
    with pytest.raises(IndexError):
        store.rows([960])


def test_statistics_are_of_the_usable_rows(filled: tuple[Path, np.ndarray]) -> None:
    path, _ = filled
    store = ActivationStore(path)
    usable = store.rows().astype(np.float64)
    np.testing.assert_allclose(store.statistics["mean"], usable.mean(axis=0))
    np.testing.assert_allclose(store.mean, usable.mean(axis=0), rtol=1e-6)
    assert store.statistics["total_variance"] == pytest.approx(usable.var(axis=0).sum())
    norms = np.linalg.norm(usable, axis=1)
    assert store.statistics["norm_percentiles"]["50"] == pytest.approx(np.median(norms))
    assert store.statistics["storage_fvu"] == 0.0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_other_readers_open_the_shards(dtype: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    fill(tmp_path / "s", dtype=dtype)
    store = ActivationStore(tmp_path / "s", exclude=())
    with safe_open(tmp_path / "s" / "shard-00000.safetensors", framework="pt") as file:
        rows = file.get_tensor("rows")
        assert rows.dtype == getattr(torch, dtype)
        values = rows.float()
        if dtype == "int8":
            values = values * file.get_tensor("scale")[:, None]
        np.testing.assert_array_equal(store.rows(slice(len(values))), values.numpy())


@pytest.mark.parametrize(("dtype", "bound"), [("float16", 1e-6), ("bfloat16", 1e-4), ("int8", 1e-3)])
def test_the_cost_of_a_narrow_dtype_is_reported(dtype: str, bound: float, tmp_path: Path) -> None:
    rows = fill(tmp_path / "s", dtype=dtype)
    store = ActivationStore(tmp_path / "s")
    exact = rows[np.arange(len(rows)) % 25 != 0]
    got = store.rows()
    fvu = np.sum((got - exact) ** 2) / np.sum((exact - exact.mean(axis=0)) ** 2)
    assert 0 < store.statistics["storage_fvu"] < bound
    assert store.statistics["storage_fvu"] == pytest.approx(fvu, rel=1e-3)


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40))
def test_bfloat16_rounds_as_torch_does(values: list[float]) -> None:
    torch = pytest.importorskip("torch")
    rows = np.array([values], dtype=np.float32)
    stored, _ = encode_rows(rows, "bfloat16")
    expected = torch.from_numpy(rows).bfloat16().float().numpy()
    np.testing.assert_array_equal(decode_rows(stored, "bfloat16"), expected)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_int8_is_within_half_a_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(5, 7)) * 10.0 ** rng.integers(-3, 4)).astype(np.float32)
    rows[2] = 0
    stored, scale = encode_rows(rows, "int8")
    assert scale is not None
    assert (np.abs(decode_rows(stored, "int8", scale) - rows) <= 0.501 * scale[:, None]).all()


def test_massive_rows_and_padding_are_counted_and_left_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, D)).astype(np.float32)
    rows[[17, 300]] *= 400
    rows[0] *= 400  # a first position: counted as such only
    padding = np.arange(500) >= 490
    writer = StoreWriter(tmp_path / "s", D, "float32")
    writer.append(rows, np.arange(500), np.arange(500), np.zeros(500), padding)
    writer.finish()
    store = ActivationStore(tmp_path / "s")
    assert store.excluded == {"first": 1, "padding": 10, "massive": 2}
    assert len(store) == 500 - 13
    assert not {0, 17, 300, 495} & set(store.tokens.tolist())
    assert np.linalg.norm(store.rows(), axis=1).max() < 10
    with_massive = store.select(exclude=["first", "padding"])
    assert len(with_massive) == 489
    assert with_massive.excluded == {"first": 1, "padding": 10}
    assert len(store) == 487  # the view it was made from is as it was
    assert store.statistics["total_variance"] == pytest.approx(store.rows().var(axis=0).sum(), rel=1e-4)


def test_massive_threshold_adapts_to_the_spread() -> None:
    rng = np.random.default_rng(1)
    narrow = rng.normal(155, 15, size=100_000)
    assert massive_threshold(narrow) == pytest.approx(620, rel=0.02)
    wide = np.exp(rng.normal(3, 0.8, size=100_000))  # e.g. the output of an MLP
    assert not (wide > massive_threshold(wide)).any()
    polluted = np.concatenate([narrow, np.full(20_000, 1e6)])
    assert massive_threshold(polluted) < 1000
    assert massive_threshold([]) == np.inf
    with pytest.raises(ValueError, match="ratio"):
        massive_threshold(narrow, ratio=1)


def test_an_interrupted_store_goes_on_after_its_last_shard(tmp_path: Path) -> None:
    rows = fill(tmp_path / "whole")
    writer = StoreWriter(tmp_path / "s", D, "float32", model="m", hook="h", shard_bytes=9000)
    for document in range(20):
        part = slice(document * 25, (document + 1) * 25)
        writer.append(
            rows[part],
            np.arange(part.start, part.stop),
            np.arange(25),
            [document] * 25,
            progress=document + 1,
            state=f"after {document}",
        )
    del writer  # killed: what was not flushed is gone
    with pytest.raises(ValueError, match="not finished"):
        ActivationStore(tmp_path / "s")
    writer = StoreWriter(tmp_path / "s", D, "float32", model="m", hook="h", shard_bytes=9000)
    assert 0 < writer.progress < 20
    assert writer.state == f"after {writer.progress - 1}"
    for document in range(writer.progress, 40):
        part = slice(document * 25, (document + 1) * 25)
        writer.append(
            rows[part],
            np.arange(part.start, part.stop),
            np.arange(25),
            [document] * 25,
            progress=document + 1,
        )
    writer.finish()
    whole, resumed = ActivationStore(tmp_path / "whole"), ActivationStore(tmp_path / "s")
    np.testing.assert_array_equal(whole.rows(), resumed.rows())
    np.testing.assert_array_equal(whole.tokens, resumed.tokens)


def test_truncate_forgets_later_shards(tmp_path: Path) -> None:
    fill(tmp_path / "s")
    writer = StoreWriter(tmp_path / "s", D, "float32", model="m", hook="h")
    before = writer.manifest["shards"]
    target = before[1]["progress"]
    writer.truncate(target)
    assert writer.progress == target
    assert writer.count == sum(shard["rows"] for shard in before[:2]) == target * 25
    assert not writer.complete


def test_one_directory_for_several_hook_points(tmp_path: Path) -> None:
    fill(tmp_path / "acts" / "a", hook="a")
    assert ActivationStore(tmp_path / "acts").hook == "a"
    fill(tmp_path / "acts" / "b", hook="b")
    assert ActivationStore(tmp_path / "acts", hook="b").hook == "b"
    with pytest.raises(ValueError, match="choose one of a, b"):
        ActivationStore(tmp_path / "acts")
    with pytest.raises(ValueError, match="'a', not 'c'"):
        ActivationStore(tmp_path / "acts" / "a", hook="c")
    with pytest.raises(FileNotFoundError, match="no activation store"):
        ActivationStore(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"d_in": D + 1}, "d_in 12, not 13"),
        ({"dtype": "int8"}, "'float32', not 'int8'"),
        ({"hook": "other"}, "hook 'h', not 'other'"),
        ({"metadata": {"context": 5}}, "metadata"),
    ],
)
def test_a_store_of_something_else_is_not_continued(
    change: dict[str, Any], match: str, filled: tuple[Path, np.ndarray]
) -> None:
    options: dict[str, Any] = {"d_in": D, "dtype": "float32", "model": "m", "hook": "h"} | change
    with pytest.raises(ValueError, match=match):
        StoreWriter(filled[0], **options)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype: got 'float64', expected one of"):
        StoreWriter(tmp_path / "x", D, "float64")  # type: ignore[arg-type]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"not empty.*letter\.txt"):
        StoreWriter(tmp_path / "full", D)
    writer = StoreWriter(tmp_path / "s", D)
    ones = np.ones((3, D))
    with pytest.raises(ValueError, match=r"rows: got shape .*, expected \(n, 12\)"):
        writer.append(np.ones((3, 5)), [0] * 3, [0] * 3, [0] * 3)
    with pytest.raises(ValueError, match=r"tokens: got shape .*, expected \(3,\)"):
        writer.append(ones, [0] * 2, [0] * 3, [0] * 3)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match=r"row 1 .*token 8.*NaN or infinity"):
            writer.append(np.array([[1.0] * D, [bad] * D]), [7, 8], [0, 1], [0, 0])
    with pytest.raises(ValueError, match="beyond float16"):
        writer.append(ones * 1e6, [0] * 3, [0] * 3, [0] * 3)
    assert writer.count == 0
    writer.finish()
    empty = ActivationStore(tmp_path / "s")
    assert len(empty) == 0
    assert list(empty.epoch()) == []
    with pytest.raises(ValueError, match="no usable rows"):
        next(empty.batches(4))


def test_damage_is_noticed(tmp_path: Path) -> None:
    fill(tmp_path / "s")
    shard = tmp_path / "s" / "shard-00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    with pytest.raises(ValueError, match=r"shard-00001.*damaged"):
        ActivationStore(tmp_path / "s")
    shard.unlink()
    with pytest.raises(ValueError, match=r"shard-00001.*damaged"):
        ActivationStore(tmp_path / "s")
    manifest = tmp_path / "s" / "manifest.json"
    manifest.write_text(json.dumps({"format": "something else"}))
    with pytest.raises(ValueError, match="something else"):
        ActivationStore(tmp_path / "s")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_flipped_bit_never_becomes_a_row(dtype: Any, tmp_path: Path) -> None:
    """In a shard or in the manifest, wherever it is: an error that names the file."""
    path = tmp_path / "s"
    writer = StoreWriter(path, 4, dtype, model="m", hook="h", shard_bytes=900)
    rows = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    for document in range(6):  # 10 rows a call, 4 shards
        writer.append(rows[:10] + document, np.arange(10), np.arange(10), np.full(10, document))
    writer.finish()
    want = ActivationStore(path).rows()
    rng = np.random.default_rng(1)
    for file in sorted(path.iterdir()):
        content = file.read_bytes()
        for place in rng.choice(len(content), 60, replace=False).tolist():
            file.write_bytes(
                content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
            )
            try:
                got, problem = ActivationStore(path).rows(), ""
            except ValueError as error:
                problem = str(error)
            assert file.name in problem or (
                not problem and file.suffix == ".json"
            )  # white space of the manifest
            if not problem:
                np.testing.assert_array_equal(got, want)
        file.write_bytes(content)


def test_rows_that_are_read_are_compared_with_their_checksums_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "BLOCK", 200)  # a row of 12 float32 lies in one block or two
    compared: list[int] = []
    real = checks._crc
    rows = fill(tmp_path / "s")
    store = ActivationStore(tmp_path / "s", exclude=())
    monkeypatch.setattr(checks, "_crc", lambda content, block: compared.append(block) or real(content, block))
    np.testing.assert_array_equal(store.rows([5]), rows[[5]])
    assert 1 <= len(compared) <= 3
    before = len(compared)
    np.testing.assert_array_equal(store.rows([5]), rows[[5]])
    assert len(compared) == before
    np.testing.assert_array_equal(store.rows(), rows)
    every = len(compared)
    store.rows()
    assert len(compared) == every
    store.verify()
    sizes = [shard["bytes"] for shard in store.manifest["shards"]]
    assert len(compared) == every + sum(-(-size // 200) for size in sizes)


@given(
    rows=st.lists(st.integers(0, 29), min_size=1, max_size=8),
    row_bytes=st.integers(1, 50),
    begin=st.integers(0, 40),
)
def test_exactly_the_blocks_of_rows_are_compared(rows: list[int], row_bytes: int, begin: int) -> None:
    with mock.patch.object(checks, "BLOCK", 16):
        content = np.zeros(begin + 30 * row_bytes, np.uint8)
        some = checks.Checks(Path("x"), checks.block_checksums(content))
        some.need_rows(content, begin, row_bytes, np.array(rows))
        want = {
            byte // 16 for r in rows for byte in range(begin + r * row_bytes, begin + (r + 1) * row_bytes)
        }
        assert set(np.flatnonzero(some._good).tolist()) == want


def test_context_gives_the_neighbours_in_the_sequence(filled: tuple[Path, np.ndarray]) -> None:
    store = ActivationStore(filled[0])
    index = int(np.flatnonzero(store.tokens == 103)[0])  # position 3 of document 4
    tokens, at = store.context(index, before=10, after=5)
    assert tokens.tolist() == list(range(100, 109))
    assert tokens[at] == 103
    tokens, at = store.context(int(np.flatnonzero(store.tokens == 124)[0]), before=2)  # last of its document
    assert (tokens.tolist(), at) == ([122, 123, 124], 2)
    with pytest.raises(IndexError):
        store.context(960)


def a_store(path: Path) -> Path:
    writer = StoreWriter(path, 4, "float32", model="m", hook="h", shard_bytes=128)
    rows = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    writer.append(rows, tokens=np.arange(20), positions=np.arange(20), documents=np.zeros(20, int))
    writer.finish()
    return path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", 2**62),
        ("rows", -1),
        ("rows", 7.0),
        ("file", "/etc/passwd"),
        ("file", "../shard-00000.safetensors"),
        ("bytes", None),
        ("crc32", "short"),
        ("crc32", "0" * 16),
    ],
)
def test_a_manifest_that_lies_is_refused_by_field(tmp_path: Path, field: str, value: Any) -> None:
    file = a_store(tmp_path / "s") / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["shards"][0][field] = value
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"manifest\.json: shards\[0\]\.{field} is "):
        ActivationStore(tmp_path / "s")


def test_a_size_beyond_all_disks_is_refused(tmp_path: Path) -> None:
    """Found by torture: it became the length of a pattern of checksums, which `re` does not take."""
    file = a_store(tmp_path / "s") / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["shards"][0]["bytes"] = 2**62
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"shards\[0\]\.crc32 is"):
        ActivationStore(tmp_path / "s")


def test_a_shard_counts_once(tmp_path: Path) -> None:
    file = a_store(tmp_path / "s") / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["shards"].append(manifest["shards"][0])
    manifest["count"] += manifest["shards"][0]["rows"]
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="a name once"):
        ActivationStore(tmp_path / "s")


def test_a_writer_killed_in_its_first_save_can_start_there_again(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".manifest.json.a1b2c3d4.tmp").write_text("{")
    store = ActivationStore(a_store(tmp_path / "s"))
    assert len(store.select(exclude=())) == 20
    assert not list((tmp_path / "s").glob(".*"))


def test_two_writers_of_one_store_are_told(tmp_path: Path) -> None:
    def rows(writer: StoreWriter, value: int) -> None:
        n = np.arange(4)
        writer.append(np.full((4, 3), value), n, n, n * 0, progress=value)

    first, second = (StoreWriter(tmp_path, 3, "float32") for _ in range(2))
    rows(first, 1)
    rows(second, 2)
    second.flush()
    for late in (first.flush, first.finish):
        with pytest.raises(ValueError, match="changed by another writer"):
            late()
    second.finish()
    np.testing.assert_array_equal(ActivationStore(tmp_path).rows(np.arange(3)), np.full((3, 3), 2))
    again = StoreWriter(tmp_path, 3, "float32")
    assert again.progress == 2
    shutil.rmtree(tmp_path)
    rows(again, 3)
    with pytest.raises(ValueError, match="or deleted"):
        again.flush()


def test_a_writer_whose_save_failed_can_save_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparse_sae.data.store import writer as module

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "disk full")

    n, writer = np.arange(4), StoreWriter(tmp_path, 3, "float32")
    writer.append(np.ones((4, 3)), n, n, n * 0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_write", full)
        with pytest.raises(OSError, match="disk full"):
            writer.flush()
    writer.finish()
    np.testing.assert_array_equal(ActivationStore(tmp_path).rows(), np.ones((3, 3)))
