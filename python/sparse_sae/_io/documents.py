"""Tables and blocks of Markdown documents: the one writer by which numbers get into pages.

A block lies between `<!-- name -->` and `<!-- /name -->` and is replaced as a whole, so that a page is prose with
blocks that its result files fill.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sparse_sae._io.atomic import atomic_write

_BLOCK = re.compile(r"<!-- ([\w-]+) -->\n.*?<!-- /\1 -->", re.DOTALL)


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, one line a row.

    Raises:
        ValueError: a row has another number of cells than the head.

    >>> print(table(["k", "FVU"], [[16, "0.21"], [32, "0.15"]]))
    | k | FVU |
    |---|---|
    | 16 | 0.21 |
    | 32 | 0.15 |
    """
    lines = [list(head), *(list(row) for row in rows)]
    for line in lines:
        if len(line) != len(head):
            raise ValueError(f"rows: got one of {len(line)} cells, expected {len(head)}: {line}")
    text = [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines]
    return "\n".join([text[0], f"|{'---|' * len(head)}", *text[1:]])


def blocks(text: str) -> list[str]:
    """Names of the blocks of a document, in order.

    Raises:
        ValueError: a mark without its partner, or a name twice.

    >>> blocks("<!-- speed -->\\nfast\\n<!-- /speed -->")
    ['speed']
    """
    names = [match[1] for match in _BLOCK.finditer(text)]
    marks = re.findall(r"^<!-- (/?[\w-]+) -->$", text, flags=re.MULTILINE)
    if sorted(marks) != sorted([*names, *(f"/{name}" for name in names)]) or len(set(names)) < len(names):
        raise ValueError(
            f"text: got the marks {marks}, expected <!-- name --> and <!-- /name --> once for each block"
        )
    return names


def filled(text: str, contents: Mapping[str, str]) -> str:
    """The document with the named blocks replaced; other blocks stay.

    Raises:
        ValueError: the document has no block of a name.

    >>> print(filled("<!-- speed -->\\nfast\\n<!-- /speed -->", {"speed": "faster"}))
    <!-- speed -->
    faster
    <!-- /speed -->
    """
    missing = sorted(set(contents) - set(blocks(text)))
    if missing:
        raise ValueError(
            f"contents: got {', '.join(missing)}, for which the document has no <!-- {missing[0]} --> block"
        )

    def block(match: re.Match[str]) -> str:
        name = match[1]
        return (
            f"<!-- {name} -->\n{contents[name].strip()}\n<!-- /{name} -->" if name in contents else match[0]
        )

    return _BLOCK.sub(block, text)


def fill(document: Path, contents: Mapping[str, str]) -> None:
    """Write the document with the named blocks replaced (`filled`)."""
    text = filled(document.read_text(encoding="utf-8"), contents)
    with atomic_write(document) as file:
        file.write(text.encode())
