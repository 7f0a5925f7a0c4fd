"""Timings of the kernels on this machine, each beside what the hardware allows: `sparse-sae bench`.

The yardstick G is the fastest float32 product of the encoder's shape that is installed: Eigen (ours), NumPy's BLAS,
torch. Everything in one group is timed in turns, so that a busy machine slows all alike; numbers are medians. Every
answer is checked before it is timed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparse_sae._io.atomic import atomic_write
from sparse_sae._threads import resolve_threads
from sparse_sae.bench.latencies import few_rows, single_row
from sparse_sae.bench.runs import architectures, reading, selections
from sparse_sae.bench.tasks import products, sparse
from sparse_sae.bench.timing import SIZES, Line, Size, machine, table
from sparse_sae.bench.verdict import regressions, verdict

__all__ = ["ALL", "SIZES", "Line", "Size", "main", "regressions", "run", "table", "verdict"]

# What is measured at which size.
PARTS = {
    "small": (products, sparse),
    "medium": (products, sparse, selections),
    "large": (products, sparse),
    "real": (reading, architectures),
}
ALL = (*PARTS, "row")


def run(sizes: tuple[str, ...] = ALL, threads: int | None = None) -> dict[str, Any]:
    """All timings as JSON values: machine, seconds by size and task, and the lines of the table.

    Raises:
        ValueError: an unknown size. AssertionError: a kernel gave a wrong answer, which is never timed.
    """
    if unknown := [name for name in sizes if name not in ALL]:
        raise ValueError(f"sizes: got {', '.join(unknown)}, expected some of {', '.join(ALL)}")
    count = resolve_threads(threads)
    seconds: dict[str, dict[str, float]] = {}
    lines: list[Line] = []
    for name in sizes:
        for part in PARTS.get(name, ()):
            found, more = part(name, count)
            seconds.setdefault(name, {}).update(found)
            lines += more
        if name == "row":
            for latency in (single_row, few_rows):
                found, more = latency(count)
                seconds.setdefault(name, {}).update(found)
                lines += more
    return {
        "machine": machine(count),
        "sizes": {n: SIZES[n]._asdict() for n in sizes},
        "seconds": seconds,
        "lines": [line.as_dict() for line in lines],
        "table": table(lines),
    }


def main(
    json_path: Path | None = None,
    sizes: tuple[str, ...] = ALL,
    threads: int | None = None,
    against: Path | None = None,
) -> int:
    """Print whether this machine runs as it should, and the table, as Markdown that can be pasted into an issue.

    Takes about five minutes with every size. json_path: also write the numbers there. against: a directory of
    results by CPU family; returns 1 where a work became slower than this family's.
    """
    from rich.console import Console

    out = Console(markup=False, highlight=False, soft_wrap=True).print
    result = run(sizes, threads)
    about = result["machine"]
    out(verdict(result), "", ", ".join(f"{key} {value}" for key, value in about.items()), sep="\n")
    out(*(f"{name}: {Size(**size)}" for name, size in result["sizes"].items()), "", result["table"], sep="\n")
    if json_path:
        with atomic_write(json_path) as file:
            file.write(json.dumps(result, indent=1).encode())
    if against is None:
        return 0
    before = against / f"{about['family']}.json"
    if not before.is_file():
        out(f"\nNo result of this CPU family to compare with: {before}")
        return 0
    slower = regressions(result, json.loads(before.read_text()))
    out("", *(slower or [f"Nothing is slower than in {before.name}"]), sep="\n")
    return 1 if slower else 0
