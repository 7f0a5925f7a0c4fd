"""ARCHITECTURE.md names every room of the package and every file on the way of a batch and a prompt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "sparse_sae"
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.split(f"## {title}\n")[1].split("\n## ")[0]


def rooms_in_the_table() -> list[str]:
    rows = re.findall(r"^\| (`[^|]+) \|", section("Rooms"), flags=re.MULTILINE)[1:]  # the first is the head
    return [name for row in rows for name in re.findall(r"`([\w./]+)`", row)]


def rooms_in_the_tree() -> list[str]:
    folders = [p for p in PACKAGE.iterdir() if (p / "__init__.py").is_file()]
    rooms = [f"{p.name}/" for p in folders if p.name != "lm"]
    rooms += [f"lm/{p.name}/" for p in (PACKAGE / "lm").iterdir() if (p / "__init__.py").is_file()]
    return rooms + [p.name for p in PACKAGE.glob("*.py")]


def test_every_room_has_a_row_and_every_row_a_room() -> None:
    table, tree = rooms_in_the_table(), set(rooms_in_the_tree())
    assert len(set(table)) == len(table), "a room has two rows"
    missing, gone = tree - set(table), set(table) - tree
    assert not missing, f"ARCHITECTURE.md, Rooms: add a row for {', '.join(sorted(missing))}"
    assert not gone, f"ARCHITECTURE.md, Rooms: no longer in the tree: {', '.join(sorted(gone))}"


@pytest.mark.parametrize("way", ["The way of one batch", "The way of one prompt"])
def test_files_on_the_way_exist(way: str) -> None:
    """A name without a folder is in the folder of the last one that had some."""
    folder, found = "", 0
    for name in re.findall(r"`([\w/]+\.(?:py|cpp|h))`", section(way)):
        bases = [PACKAGE, ROOT]
        if "/" in name:
            folder = name.rpartition("/")[0]
        candidates = [base / place / name for base in bases for place in ("", folder)] + [
            ROOT / "cpp/kernels" / name
        ]
        assert any(path.is_file() for path in candidates), (
            f"{way}: there is no {name} (last folder: {folder})"
        )
        found += 1
    assert found >= 8


def test_one_page() -> None:
    assert len(TEXT.splitlines()) <= 130


def test_kernel_families_of_the_picture_exist() -> None:
    line = next(line for line in TEXT.splitlines() if line.startswith("kernels "))
    names = set(re.findall(r"\w+", line.split(":")[1])) - {"no", "Python", "screen"}
    assert names == {p.name for p in (ROOT / "cpp" / "kernels").iterdir() if p.is_dir()}
