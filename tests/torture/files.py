"""Damaged files: every kind that is read, with bits flipped, cut off, lengthened, or its JSON rewritten.

The outcome may be the same result, or an error that is a ValueError, OSError or NotImplementedError and names the
file. Checkpoints and stores hold checksums, so that a result that is silently other is a finding there; the formats of
other projects hold none, so that a flipped bit of a number cannot be seen in them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from watch import Broken, Memory

import sparse_sae
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
            x, sparse_sae.TopK(k=3), d_sae=24, n_tokens=4000, batch_size=250, checkpoint_every=4, log_every=1,
            out=out, resume=resume, progress=False, num_threads=1, callback=None if resume else callback,
        )  # fmt: skip
    except Stop:
        return None


@functools.cache
def sources() -> dict[str, tuple[Path, str, Read, bool]]:
    """Name: what is copied, what is opened in the copy, how, and whether a checksum guards it."""
    found: dict[str, tuple[Path, str, Read, bool]] = {}
    for expected in sorted(GOLDEN.rglob("expected.npz")):
        directory = expected.parent
        inner = next((p.name for p in directory.iterdir() if p.name in ("8.pt", "layer_5.safetensors")), "")
        found[str(directory.relative_to(GOLDEN))] = (directory, inner, _read_sae, False)
    made = Path(tempfile.mkdtemp(prefix="torture-sources-"))
    rng = np.random.default_rng(0)
    for dtype in ("float32", "int8"):
        writer = StoreWriter(made / dtype, 6, dtype, model="m", hook="h", shard_bytes=4000)  # type: ignore[arg-type]
        for document in range(12):
            rows = rng.standard_normal((20, 6)).astype(np.float32)
            writer.append(rows, np.arange(20), np.arange(20), [document] * 20, progress=document + 1)
        writer.finish()
        found[f"store {dtype}"] = (made / dtype, "", _read_store, True)
    _train(made / "checkpoint", 2500)
    found["checkpoint"] = (made / "checkpoint", "", _resume, True)
    return found


@functools.cache
def undamaged(name: str) -> str:
    source, inner, read, _ = sources()[name]
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(shutil.copytree(source, Path(directory) / "copy"))
        return str(read(copy / inner))


def case(rng: np.random.Generator, scratch: Path) -> str:
    # Directories of weights, stores and checkpoints in turn; most formats are few bytes, and so each is seen often.
    names = list(sources())
    name = names[int(rng.integers(len(names)))] if rng.random() < 0.5 else names[-1 - int(rng.integers(3))]
    source, inner, read, guarded = sources()[name]
    want = undamaged(name)
    copy = scratch / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    files = [p for p in sorted(copy.rglob("*")) if p.is_file() and p.name not in ("expected.npz", ".lock")]
    file = files[int(rng.integers(len(files)))]
    how = damage(file, rng)
    size = sum(p.stat().st_size for p in copy.rglob("*") if p.is_file())
    what = f"{name}, {file.name}, {how}"
    memory = Memory()
    try:
        got = read(copy / inner)
    except (ValueError, OSError, NotImplementedError) as error:
        text = f"{error} {error.__cause__ or ''}"
        if not any(word in text for word in (file.name, str(copy))):
            raise Broken(f"{what}: the error names no file: {type(error).__name__}: {text[:300]}") from None
        outcome = "refused, the file named"
    except BaseException as error:
        raise Broken(f"{what}: {type(error).__name__}: {str(error)[:300]}") from None
    else:
        if got == want:
            outcome = "the same result"
        elif guarded and file.name != "history.jsonl":
            raise Broken(f"{what}: another result, silently")
        else:
            outcome = "another result (the format has no checksum)"
    if (rise := memory.rise()) > 4 * size + SLACK_BYTES:
        raise Broken(f"{what}: {rise >> 20} MB of memory for files of {size} bytes")
    return outcome


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
