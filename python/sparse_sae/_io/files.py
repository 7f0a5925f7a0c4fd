"""Opening what others wrote: regular files only, JSON with a limit, and one error for all that is malformed."""

from __future__ import annotations

import json
import os
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# A configuration has a few kilobytes. Text of this size can take twenty times as much memory once it is parsed.
CONFIG_BYTES = 1 << 20


class FormatError(ValueError):
    """A file does not hold what its format promises; the message names the file, the field and what was expected."""


# What Python's and NumPy's parsers raise on malformed bytes.
MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    SyntaxError,
    RuntimeError,
    AssertionError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a parser raises on malformed content into a `FormatError` that names the file.

    Errors of the operating system, a missing library and what is known but not offered pass through.
    """
    try:
        yield
    except (FormatError, NotImplementedError):
        raise
    except MALFORMED as error:
        reason = (str(error).strip().split("\n")[0] or type(error).__name__)[:200]
        raise FormatError(
            f"{path}: not {what} ({reason}); the file is truncated, damaged or foreign"
        ) from None


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading. A FIFO would wait for a writer for ever, a device has no end.

    Raises:
        FormatError: nothing is there, or something that is no regular file.
    """
    try:
        # The handle belongs to the file from its first moment: an interrupt has nothing to close twice.
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (the caller closes it)
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(f"{path}: missing; copy it too, it belongs to the others") from None
    except OSError as error:
        if error.errno is not None and not path.is_file() and path.exists():
            raise FormatError(f"{path}: {kind_of(path)}, expected a file") from None
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise FormatError(f"{path}: {kind_of(path)}, expected a file")
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def kind_of(path: Path) -> str:
    """What lies at path: a file, a directory, a FIFO, …"""
    mode = path.stat().st_mode
    kinds = {
        stat.S_ISREG: "a file",
        stat.S_ISDIR: "a directory",
        stat.S_ISFIFO: "a FIFO",
        stat.S_ISSOCK: "a socket",
    }
    return next((name for test, name in kinds.items() if test(mode)), "a device")


def read_json(path: Path, limit: int = CONFIG_BYTES) -> dict[str, Any]:
    """The object in a JSON file of at most `limit` bytes. Raises a FormatError that says what is wrong with it."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise FormatError(f"{path}: {size} bytes, expected a JSON object of at most {limit}")
        content = file.read(size + 1)  # no more than that is allocated
    with reading(path, "JSON"):
        value = json.loads(content)
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def peek_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is none: for recognising, not for reading."""
    try:
        return read_json(path)
    except (OSError, FormatError):
        return {}
