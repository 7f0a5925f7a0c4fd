"""Damaged files: every kind that is read, with bits flipped, cut off, lengthened, or its JSON rewritten.

The outcome may be the same result, or an error that is a ValueError, OSError or NotImplementedError and names the
file. Checkpoints and stores hold checksums, so that a result that is silently other is a finding there; the formats of
other projects (golden files here) hold none, so that a flipped bit of a number cannot be seen in them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array
from watch import Broken, Memory

import sparse_sae
from sparse_sae._io.safetensors import write_tensors
from sparse_sae.circuits.files import load_graph, save_graph
from sparse_sae.circuits.graph import AttributionGraph
from sparse_sae.data.opening import open_path
from sparse_sae.data.store import ActivationStore, StoreWriter

GOLDEN = Path(__file__).parents[1] / "golden"
SLACK_BYTES = 64 << 20  # what libraries load when they are first used, and buffers of a fixed size
MAGIC_VALUES = [None, -1, 0, 2**31, 2**62, 1e308, "x", "", [], {}, True, [[]], "../../etc/passwd"]
Read = Callable[[Path], Any]


def _digest(*arrays: Any) -> str:
    h = hashlib.sha256()
    for a in arrays:
        h.update(repr((np.shape(a), np.asarray(a).dtype)).encode() + np.ascontiguousarray(a).tobytes())
    return h.hexdigest()


def _read_sae(path: Path) -> str:
    sae = sparse_sae.load(path)
    x = np.random.default_rng(0).standard_normal((3, sae.d_in)).astype(np.float32)
    return _digest(*(sae.params[name] for name in sorted(sae.params)), sae.reconstruct(x))


def _read_store(path: Path) -> str:
    store = ActivationStore(path)
    return _digest(store.rows(), store.tokens)


def _resume(path: Path) -> str:
    sae = _train(path, 4000, resume=True).sae
    return _digest(*(sae.params[name] for name in sorted(sae.params)))


def _train(out: Path | None, stop: int, resume: bool = False) -> Any:
    class Stop(Exception):
        pass

    def callback(record: dict[str, Any]) -> None:
        if record["tokens"] >= stop:
            raise Stop

    x = np.random.default_rng(0).standard_normal((1000, 12)).astype(np.float32)
    try:
        return sparse_sae.train(
            x,
            sparse_sae.TopK(k=3),
            d_sae=24,
            n_tokens=4000,
            batch_size=250,
            checkpoint_every=4,
            log_every=1,
            out=out,
            resume=resume,
            progress=False,
            num_threads=1,
            callback=None if resume else callback,
        )
    except Stop:
        return None


class Source(NamedTuple):
    """Files of one kind.

    Attributes:
        directory: what is copied.
        inner: what is opened in the copy.
        read: how.
        guarded: whether checksums must show every change.
    """

    directory: Path
    inner: str
    read: Read
    guarded: bool = False


def _graph() -> AttributionGraph:
    n = 7
    edges = np.zeros((n, n), np.float32)
    edges[3, 0], edges[3, 1], edges[4, 3], edges[5, 4], edges[6, 4] = 1, -2, 3, 2, -1
    numbers = np.array([0, 0, 1, 2, 2, 3, 3])
    return AttributionGraph(
        "tiny",
        [4, 9],
        ["The", " cat"],
        2,
        numbers.astype(np.int8),
        numbers.astype(np.int32),
        np.ones(n, np.int32),
        np.arange(n),
        np.linspace(1, 2, n),
        np.zeros(n),
        list("abcdefg"),
        csr_array(edges),
        np.arange(n) / 7,
        np.arange(n) / 3,
        numbers > 2,
        np.ones((2, 2, 3), np.float32),
        [0],
    )


def _read_graph(path: Path) -> str:
    graph = load_graph(path)
    return _digest(
        graph.kind, graph.activation, graph.weight, graph.edges.toarray(), graph.heads, graph.labels
    )


def _read_rows(path: Path) -> str:
    return _digest(np.asarray(open_path(path)))


@functools.cache
def sources() -> dict[str, Source]:
    """What is read, by name."""
    found: dict[str, Source] = {}
    for expected in sorted(GOLDEN.rglob("expected.npz")):
        directory = expected.parent
        inner = next((p.name for p in directory.iterdir() if p.name in ("8.pt", "layer_5.safetensors")), "")
        found[str(directory.relative_to(GOLDEN))] = Source(directory, inner, _read_sae)
    made = Path(tempfile.mkdtemp(prefix="torture-sources-"))
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20, 6)).astype(np.float32)
    writers: dict[str, Callable[[Path], object]] = {
        "npy": lambda p: np.save(p, rows),
        "npz": lambda p: np.savez(p, rows=rows),
        "safetensors": lambda p: write_tensors(p, {"rows": rows}),
    }
    for ending, write in writers.items():
        (made / ending).mkdir()
        write(made / ending / f"rows.{ending}")
        found[f"rows {ending}"] = Source(made / ending, f"rows.{ending}", _read_rows)
    (made / "graph").mkdir()
    save_graph(_graph(), made / "graph/graph.npz")
    found["graph"] = Source(made / "graph", "graph.npz", _read_graph)
    for dtype in ("float32", "int8"):
        writer = StoreWriter(made / dtype, 6, dtype, model="m", hook="h", shard_bytes=4000)  # type: ignore[arg-type]
        for document in range(12):
            rows = rng.standard_normal((20, 6)).astype(np.float32)
            writer.append(rows, np.arange(20), np.arange(20), [document] * 20, progress=document + 1)
        writer.finish()
        found[f"store {dtype}"] = Source(made / dtype, "", _read_store, guarded=True)
    _train(made / "checkpoint", 2500)
    found["checkpoint"] = Source(made / "checkpoint", "", _resume, guarded=True)
    return found


@functools.cache
def undamaged(name: str) -> str:
    source = sources()[name]
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(shutil.copytree(source.directory, Path(directory) / "copy"))
        return str(source.read(copy / source.inner))


def files_of(directory: Path) -> list[Path]:
    """What a reader opens there."""
    every = sorted(p for p in directory.rglob("*") if p.is_file())
    return [p for p in every if p.name not in ("expected.npz", ".lock")]


def attempt(what: str, source: Source, copy: Path, file: Path) -> str | None:
    """Read a copy of a source in which one file was changed: the digest of the result, or None where it was refused.

    Raises:
        Broken: an error that names no file, or is of another kind; or memory out of proportion.
    """
    size = sum(p.stat().st_size for p in copy.rglob("*") if p.is_file())
    memory, got = Memory(), None
    try:
        got = source.read(copy / source.inner)
    except (ValueError, OSError, NotImplementedError) as error:
        text = f"{error} {error.__cause__ or ''}"
        if not any(word in text for word in (file.name, str(copy))):
            raise Broken(f"{what}: the error names no file: {type(error).__name__}: {text[:300]}") from None
    except BaseException as error:
        raise Broken(f"{what}: {type(error).__name__}: {str(error)[:300]}") from None
    if (rise := memory.rise()) > 4 * size + SLACK_BYTES:
        raise Broken(f"{what}: {rise >> 20} MB of memory for files of {size} bytes")
    return got


def case(rng: np.random.Generator, scratch: Path) -> str:
    # Half of the cases are of our own kinds, which are few beside the layouts of other projects.
    names = list(sources())
    name = names[int(rng.integers(len(names)))] if rng.random() < 0.5 else names[-1 - int(rng.integers(7))]
    source = sources()[name]
    want = undamaged(name)
    copy = scratch / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source.directory, copy)
    files = files_of(copy)
    file = files[int(rng.integers(len(files)))]
    what = f"{name}, {file.name}, {damage(file, rng)}"
    got = attempt(what, source, copy, file)
    kind = name if source.guarded or " " in name or name == "graph" else "an SAE"
    if got is None:
        return f"{kind}: refused, the file named"
    if got == want:
        return f"{kind}: the same result"
    if source.guarded and file.name != "history.jsonl":
        raise Broken(f"{what}: another result, silently")
    return f"{kind}: another result (the format has no checksum)"


def damage(file: Path, rng: np.random.Generator) -> str:
    data = bytearray(file.read_bytes())
    kinds = ["bits", "header bits", "cut", "longer", "zeros", "random", "empty", "gone", "swapped"]
    if file.suffix == ".json":
        kinds += ["json"] * 8
    kind = kinds[int(rng.integers(len(kinds)))]
    if not data and kind not in ("gone", "longer"):
        kind = "longer"
    if kind == "gone":
        file.unlink()
        return kind
    if kind == "json":
        document = json.loads(data)
        rewrite(document, rng)
        data = bytearray(json.dumps(document).encode())
    elif kind in ("bits", "header bits"):
        reach = len(data) if kind == "bits" else min(len(data), 600)
        for _ in range(int(rng.integers(1, 4))):
            data[int(rng.integers(reach))] ^= 1 << int(rng.integers(8))
    elif kind == "cut":
        del data[int(rng.integers(len(data))) :]
    elif kind == "longer":
        data += rng.bytes(int(rng.integers(1, 100)))
    elif kind == "empty":
        data.clear()
    else:
        start = int(rng.integers(len(data)))
        end = min(len(data), start + int(rng.integers(1, 200)))
        if kind == "swapped":
            data[start:end] = data[start:end][::-1]
        else:
            data[start:end] = bytes(end - start) if kind == "zeros" else rng.bytes(end - start)
    file.write_bytes(data)
    return kind


def rewrite(document: Any, rng: np.random.Generator) -> None:
    """Replace, drop or double one value, somewhere inside."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not keys:
            return
        key = keys[int(rng.integers(len(keys)))]
        inner = document[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            document = inner
            continue
        choice = rng.random()
        if choice < 0.2:
            del document[key]
        elif choice < 0.3 and isinstance(document, list):
            document.append(inner)
        else:
            document[key] = MAGIC_VALUES[int(rng.integers(len(MAGIC_VALUES)))]
        return
