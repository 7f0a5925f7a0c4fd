"""The browser's file: one SQLite database. What its tables hold, how it is written, and how it is opened.

meta          key -> JSON: what was built from what, with which options, and the baselines
latents       a row each: what lists sort and filter by
panels        a row each: histograms, contexts, neighbours, logits as little-endian arrays or JSON
tokens        the token stream, CHUNK ids a row; contexts are places in it
vocabulary    token id -> text
search        FTS5 over peak tokens, contexts and automatic labels; rowid = latent
user_labels, user_lists, user_items    what the reader of the page writes; nothing else is ever changed
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae._io.files import FormatError, open_regular

APPLICATION_ID = 0x53414542  # "SAEB"
VERSION = 1
CHUNK = 4096

_TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE latents(
    id INTEGER PRIMARY KEY, count INTEGER, density REAL, maximum REAL, mean REAL, norm REAL, kind TEXT, label TEXT,
    x REAL, y REAL, stability REAL, auroc REAL, auroc_label TEXT);
CREATE TABLE panels(
    id INTEGER PRIMARY KEY, histogram BLOB, intervals BLOB, groups BLOB, rows BLOB, bounds BLOB, peaks BLOB,
    counts BLOB, offsets BLOB, activations BLOB, nearest BLOB, cosine BLOB, together BLOB, phi BLOB, given BLOB,
    base BLOB, evidence TEXT, logits TEXT, matches TEXT, auroc TEXT);
CREATE TABLE tokens(chunk INTEGER PRIMARY KEY, ids BLOB NOT NULL);
CREATE TABLE vocabulary(id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE VIRTUAL TABLE search USING fts5(peak, context, label, content='', tokenize='unicode61');
CREATE TABLE user_labels(latent INTEGER PRIMARY KEY, text TEXT NOT NULL, revision INTEGER NOT NULL);
CREATE TABLE user_lists(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE user_items(
    list INTEGER NOT NULL REFERENCES user_lists(id) ON DELETE CASCADE, latent INTEGER NOT NULL,
    PRIMARY KEY(list, latent)) WITHOUT ROWID;
"""
USER_TABLES = ("user_labels", "user_lists", "user_items")

# columns of `panels` that are arrays -> their dtype
ARRAYS: dict[str, Any] = {
    "histogram": np.uint32,
    "intervals": np.uint32,
    "groups": np.int8,
    "rows": np.uint32,
    "bounds": np.uint8,
    "peaks": np.float32,
    "counts": np.uint8,
    "offsets": np.uint8,
    "activations": np.float32,
    "nearest": np.int32,
    "cosine": np.float32,
    "together": np.int32,
    "phi": np.float32,
    "given": np.float32,
    "base": np.float32,
}


def create(path: Path) -> sqlite3.Connection:
    """A new database at path, tuned for being written once in one go."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(
        f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA application_id={APPLICATION_ID}; "
        f"PRAGMA user_version={VERSION}; PRAGMA cache_size=-16000;" + _TABLES
    )
    return connection


def pack(column: str, values: Array) -> bytes:
    """An array as a column of `panels` holds it."""
    return np.ascontiguousarray(values, dtype=ARRAYS[column]).tobytes()


def unpack(column: str, blob: bytes | None) -> Array:
    """The array of a column of `panels`."""
    return np.frombuffer(blob or b"", dtype=ARRAYS[column])


def check(path: Path) -> None:
    """Raise a FormatError unless path is a whole database of this version."""
    with open_regular(path) as file:
        head = file.read(100)
        size = file.seek(0, 2)
    if len(head) < 100 or head[:16] != b"SQLite format 3\0":
        raise FormatError(f"{path}: not a SQLite file; expected one of `sparse-sae browse build`")
    application, version = int.from_bytes(head[68:72], "big"), int.from_bytes(head[60:64], "big")
    if application != APPLICATION_ID:
        raise FormatError(
            f"{path}: a SQLite file of another program; expected one of `sparse-sae browse build`"
        )
    if version != VERSION:
        raise FormatError(
            f"{path}: a browser file of version {version}, this program reads {VERSION}; build it again"
        )
    page = int.from_bytes(head[16:18], "big")
    pages = int.from_bytes(head[28:32], "big")
    if size < pages * (65536 if page == 1 else page):
        raise FormatError(f"{path}: {size} bytes of {pages * page}; the file is truncated, copy it again")


def connect(path: Path) -> sqlite3.Connection:
    """A read-only connection to a file that `check` accepts; usable from any thread, one at a time."""
    check(path)
    with database_errors(path):
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
    return connection


@contextmanager
def writing(path: Path, seconds: float = 2.0) -> Iterator[sqlite3.Connection]:
    """A connection that may change the user's tables and nothing else, in one transaction.

    Raises:
        OSError: another process writes and does not end within `seconds`, or the file cannot be written.
    """
    with database_errors(path):
        connection = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=seconds, isolation_level=None
        )
        try:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.set_authorizer(_only_user_tables)
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()


_CHANGES = (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE)
_READS = (sqlite3.SQLITE_READ, sqlite3.SQLITE_SELECT, sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_FUNCTION)


def _only_user_tables(action: int, first: str | None, *_: str | None) -> int:
    fine = action in _READS or (action in _CHANGES and first in USER_TABLES)
    return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into this package's: a busy or unwritable file, or a damaged one."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise OSError(
                f"{path}: another program is writing to it; try again when it has finished"
            ) from None
        if "readonly" in text or "unable to open" in text:
            raise OSError(f"{path}: cannot be written ({text}); check its permissions") from None
        raise FormatError(f"{path}: damaged ({text}); build it again") from None
    except sqlite3.DatabaseError as error:
        raise FormatError(f"{path}: damaged ({error}); build it again") from None


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """All of `meta`."""
    rows = connection.execute("SELECT key, value FROM meta").fetchall()
    return {key: json.loads(value) for key, value in rows}
