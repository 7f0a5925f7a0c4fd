"""What surrounds a build: the directory in which it can go on after a kill, and what a user wrote into the old file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparse_sae._io.atomic import write_json
from sparse_sae._io.files import peek_json
from sparse_sae.browser import schema


@contextmanager
def workplace(path: Path, fingerprint: str) -> Iterator[Path]:
    """The directory in which a build of `path` keeps its codes, locked; emptied if it is of something else."""
    work = path.parent / f".{path.name}.building"
    work.mkdir(parents=True, exist_ok=True)
    handle = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"path: another build of {path} is running; wait for it or stop it"
            ) from None
        plan = work / "plan.json"
        if peek_json(plan).get("fingerprint") != fingerprint:
            for entry in work.iterdir():
                entry.unlink()
            write_json(plan, {"fingerprint": fingerprint, "version": schema.VERSION})
        yield work
    finally:
        os.close(handle)


def user_rows(path: Path, fingerprint: str) -> dict[str, list[tuple[Any, ...]]]:
    """What a user wrote into the file that is to be replaced."""
    if not os.path.lexists(path):
        return {}
    try:
        connection = schema.connect(path)
    except ValueError as error:
        raise FileExistsError(f"path: {error}. Nothing was changed; delete it or give another path") from None
    try:
        rows = {t: [tuple(r) for r in connection.execute(f"SELECT * FROM {t}")] for t in schema.USER_TABLES}
        same = schema.read_meta(connection)["fingerprint"] == fingerprint
    finally:
        connection.close()
    if any(rows.values()) and not same:
        raise FileExistsError(
            f"path: {path} is of another SAE or store and holds a user's labels or lists; give another path"
        )
    return rows
