"""What a reader of the page writes into the file: labels and lists. Each change is one transaction."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sparse_sae.browser import schema

LONGEST = 500  # characters of a label or of the name of a list


class Conflict(ValueError):
    """Somebody else has changed the same label meanwhile; the message holds theirs."""


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ValueError(f"{name}: expected a text of at most {LONGEST} characters")
    return value.encode("utf-8", "backslashreplace").decode("utf-8").strip()


def label_of(connection: sqlite3.Connection, latent: int) -> tuple[str, int]:
    """A label and its revision; ("", 0) where there never was one."""
    row = connection.execute("SELECT text, revision FROM user_labels WHERE latent = ?", (latent,)).fetchone()
    return (str(row[0]), int(row[1])) if row else ("", 0)


def set_label(path: Path, latent: int, text: object, before: object) -> str:
    """Label a latent; "" takes the label away.

    Args:
        before: the label as the writer has seen it.

    Returns:
        The label as it is now.

    Raises:
        Conflict: the label is not `before` any more. OSError: another process is writing.
    """
    new, old = _text("text", text), _text("before", before)
    with schema.writing(path) as connection:
        now, revision = label_of(connection, latent)
        if now not in (old, new):
            raise Conflict(f"label: changed elsewhere to {now!r} meanwhile; yours was not saved")
        if new:
            connection.execute(
                "INSERT INTO user_labels VALUES(?, ?, ?) ON CONFLICT(latent) "
                "DO UPDATE SET text = excluded.text, revision = excluded.revision",
                (latent, new, revision + 1),
            )
        else:
            connection.execute("DELETE FROM user_labels WHERE latent = ?", (latent,))
    return new


def create_list(path: Path, name: object) -> int:
    """A new list; returns its number. Raises a ValueError for an empty name or one that is taken."""
    text = _text("name", name)
    if not text:
        raise ValueError("name: empty; expected the name of a list")
    with schema.writing(path) as connection:
        if connection.execute("SELECT 1 FROM user_lists WHERE name = ?", (text,)).fetchone():
            raise Conflict(f"name: there is a list {text!r} already")
        return int(connection.execute("INSERT INTO user_lists(name) VALUES(?)", (text,)).lastrowid or 0)


def delete_list(path: Path, number: int) -> None:
    """Remove a list and what it names."""
    with schema.writing(path) as connection:
        connection.execute("DELETE FROM user_items WHERE list = ?", (number,))
        connection.execute("DELETE FROM user_lists WHERE id = ?", (number,))


def set_member(path: Path, number: int, latent: int, member: bool) -> None:
    """Put a latent on a list, or take it off. Raises a ValueError where there is no such list."""
    with schema.writing(path) as connection:
        if not connection.execute("SELECT 1 FROM user_lists WHERE id = ?", (number,)).fetchone():
            raise Conflict(f"list: there is no list {number}; it was deleted elsewhere")
        if member:
            connection.execute("INSERT OR IGNORE INTO user_items VALUES(?, ?)", (number, latent))
        else:
            connection.execute("DELETE FROM user_items WHERE list = ? AND latent = ?", (number, latent))
