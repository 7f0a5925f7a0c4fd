"""Files appear whole or not at all."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# A random part between the name and this ending, as tempfile makes it.
_REMAINS = r"\.[a-z0-9_]{8}\.(?:tmp|old)"
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h


def remains_of(directory: Path, name: str = r".+") -> list[Path]:
    """What writers of files called `name` (a pattern) that were killed, or still run, have left in a directory."""
    pattern = re.compile(rf"\.(?:{name}){_REMAINS}")
    return [path for path in directory.iterdir() if pattern.fullmatch(path.name)]


def clean_remains(directory: Path, name: str) -> None:
    """Remove what killed writers of `name` (a pattern) have left in a directory.

    A writer holds a lock on what it writes for as long as it lives, so what can be locked is nobody's any more.
    """
    for path in remains_of(directory, name):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                path.unlink(missing_ok=True)
            else:
                _restore(path)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # locked by a writer that lives, or on a file system without locks
        finally:
            os.close(handle)


def _restore(aside: Path) -> None:
    """Bring back the directory that a writer killed between its two renames had set aside."""
    if aside.suffix == ".old":
        for inside in aside.iterdir():
            if not os.path.lexists(aside.parent / inside.name):
                os.rename(inside, aside.parent / inside.name)


def _locked(make: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """A new temporary file or directory, open and locked, so that `clean_remains` leaves it alone."""
    while True:
        handle, name = make()
        try:
            with suppress(
                OSError
            ):  # a file system without locks: remains are then not cleaned, or only by hand
                fcntl.flock(handle, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.stat(name).st_ino == os.fstat(handle).st_ino:
                    return handle, name
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # a cleaner was faster than the lock


def _new_directory(path: Path, ending: str) -> tuple[int, str]:
    """A new directory beside path, open and locked."""

    def make() -> tuple[int, str]:
        name = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=ending)
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY), name

    return _locked(make)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name `path` only when the block ends without an error.

    A reader, or a run resumed after a crash, sees the old content or the new, never a part of it. What earlier
    writers of the same name left when they were killed is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clean_remains(path.parent, re.escape(path.name))
    handle, name = _locked(lambda: tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


@contextmanager
def atomic_directory(path: str | Path, ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A new directory that takes the name `path` only when the block ends without an error.

    Where there is a directory already, the two are exchanged in one step, so that `path` names one of them at every
    moment; then the old one is removed. Where the kernel or the file system cannot exchange (`renameat2` of Linux
    3.15), it takes two renames, between which there is no `path`; the next writer brings back what a writer killed
    there had set aside.

    Args:
        path: the directory.
        ours: whether a directory is one that this writer may replace. An empty one always is.

    Raises:
        FileExistsError: something else is there.
    """
    path = Path(path)
    parent = path.parent
    parent.mkdir(parents=True, exist_ok=True)
    clean_remains(parent, re.escape(path.name))
    _require_replaceable(path, ours)

    handle, name = _new_directory(path, ".tmp")
    fresh = Path(name)
    try:
        os.fchmod(handle, 0o755)
        yield fresh
        for file in fresh.rglob("*"):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        os.fsync(handle)
        _require_replaceable(path, ours)
        _put(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    finally:
        os.close(handle)
    _sync_directory(parent)


def _require_replaceable(path: Path, ours: Callable[[Path], bool]) -> None:
    """Raise a FileExistsError unless path is absent, an empty directory, or one that a writer calls its own."""
    if not os.path.lexists(path):
        return
    if path.is_symlink():
        found = f"a symbolic link to {os.readlink(path)}; give the directory itself"
    elif path.name in ("", "..") or os.path.samefile(path, os.curdir):
        found = "the root, a parent or the working directory; give the name of a new directory in it"
    elif not path.is_dir():
        found = "a file, expected a directory; delete the file or give another path"
    else:
        inside = sorted(entry.name for entry in path.iterdir())
        if not inside or ours(path):
            return
        some = ", ".join(inside[:6]) + (f" and {len(inside) - 6} more" if len(inside) > 6 else "")
        found = f"a directory that was not saved here (it holds {some}); delete it or give another path"
    raise FileExistsError(f"path: {path} is {found}")


def _put(fresh: Path, path: Path) -> None:
    """Give fresh the name path; what was there is removed."""
    if not path.exists():
        os.rename(fresh, path)
    elif _exchange(fresh, path):
        shutil.rmtree(fresh)
    else:
        _replace_in_two_steps(fresh, path)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one step; False where kernel, file system or C library cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def _replace_in_two_steps(fresh: Path, path: Path) -> None:
    """Put fresh in the place of path, which rename() alone cannot do to a directory that has files in it."""
    handle, name = _new_directory(path, ".old")
    aside = Path(name)
    try:
        os.rename(path, aside / path.name)
        try:
            os.rename(fresh, path)
        except BaseException:
            os.rename(aside / path.name, path)
            raise
        shutil.rmtree(aside)
    except BaseException:
        with suppress(OSError):
            aside.rmdir()  # unless the old directory is still in it
        raise
    finally:
        os.close(handle)


def write_json(path: str | Path, value: Any) -> None:
    """JSON, indented, NumPy numbers and arrays included."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, default=_plain, allow_nan=False) + "\n").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")
