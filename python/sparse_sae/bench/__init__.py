"""Timings of the kernels on this machine, each beside what the hardware allows: `sparse-sae bench`.

The yardstick G is the fastest float32 product of the encoder's shape that is installed: Eigen (ours), NumPy's BLAS,
torch. Everything in one group is timed in turns, so that a busy machine slows all alike; numbers are medians. Every
answer is checked before it is timed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .._io.atomic import atomic_write
from .._threads import resolve_threads
from .tasks import products, single_row, sparse
from .timing import SIZES, Line, Size, machine, table

__all__ = ["SIZES", "Line", "Size", "main", "products", "run", "single_row", "sparse", "table"]


def run(sizes: tuple[str, ...] = ("small", "medium"), threads: int | None = None) -> dict[str, Any]:
    """All timings as JSON values: machine, seconds by size and task, and the lines of the table."""
    count = resolve_threads(threads)
    seconds: dict[str, dict[str, float]] = {}
    lines: list[Line] = []
    for name in sizes:
        for part in (products, sparse):
            found, more = part(name, count)
            seconds.setdefault(name, {}).update(found)
            lines += more
    seconds["row"], more = single_row(count)
    lines += more
    return {
        "machine": machine(count), "sizes": {n: SIZES[n]._asdict() for n in (*sizes, "row")}, "seconds": seconds,
        "lines": [line.as_dict() for line in lines], "table": table(lines),
    }  # fmt: skip


def main(
    json_path: Path | None = None, sizes: tuple[str, ...] = ("small", "medium"), threads: int | None = None
) -> int:
    """Print the table for this machine; also write the numbers as JSON. Takes about two minutes."""
    from rich.console import Console
    from rich.markdown import Markdown

    result = run(sizes, threads)
    print_ = Console().print
    print_(", ".join(f"{key} {value}" for key, value in result["machine"].items()))
    print_(*(f"{name}: {Size(**size)}" for name, size in result["sizes"].items()), sep="\n")
    print_(Markdown(result["table"]))
    if json_path:
        with atomic_write(json_path) as file:
            file.write(json.dumps(result, indent=1).encode())
    return 0
