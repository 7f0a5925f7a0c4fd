"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name `path` only when the block ends without an error.

    A reader, or a run resumed after a crash, sees the old content or the new, never a part of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        os.fchmod(handle, 0o644)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """A new directory that replaces `path` only when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        os.chmod(fresh, 0o755)
        yield fresh
        for file in fresh.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        _sync_directory(fresh)
        if not path.exists():
            os.replace(fresh, path)
        else:
            _exchange(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    _sync_directory(path.parent)


def _exchange(fresh: Path, path: Path) -> None:
    """Put fresh in the place of path, which rename() alone cannot do to a directory that has files in it."""
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
    try:
        os.replace(path, aside / path.name)
    except BaseException:
        aside.rmdir()
        raise
    try:
        os.replace(fresh, path)
    except BaseException:
        os.replace(aside / path.name, path)
        aside.rmdir()
        raise
    shutil.rmtree(aside)


def write_json(path: str | Path, value: Any) -> None:
    """JSON, indented, NumPy numbers and arrays included."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, default=_plain, allow_nan=False) + "\n").encode())


def write_tensors(path: str | Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file of NumPy arrays (copied where they are not contiguous)."""
    from safetensors.numpy import save

    with atomic_write(path) as file:
        file.write(save({name: np.ascontiguousarray(t) for name, t in tensors.items()}, metadata))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")
