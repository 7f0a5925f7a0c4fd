"""Rows that come one or a few at a time: what a monitor waits for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from sparse_sae import _kernels
from sparse_sae.bench.tasks import Problem
from sparse_sae.bench.timing import SIZES, Line, Task, in_turns


def single_row(threads: int, watched: int = 100) -> tuple[dict[str, float], list[Line]]:
    """Latencies: one row, all latents, beside reading the weights once; and a watch-list."""
    problem = Problem(SIZES["row"], threads)
    problem.check()
    latents = np.sort(np.random.default_rng(1).permutation(problem.size.m)[:watched]).astype(np.int32)
    pool = ThreadPoolExecutor(threads)
    parts = np.array_split(problem.w, threads)
    tasks: dict[str, Task] = {
        "encode a row": problem.encode,
        "read the weights (NumPy sum)": lambda: list(pool.map(np.sum, parts)),
        "read the weights (NumPy product)": lambda: problem.w @ problem.x[0],
    }
    seconds = in_turns(tasks, repeats=11)
    for count in sorted({1, threads}):
        listed = partial(_kernels.encode_threshold, problem.x, problem.w, problem.b, None, latents=latents)
        seconds |= in_turns({f"watch-list, {count} threads": partial(listed, num_threads=count)}, repeats=5)
    read = min(v for task, v in seconds.items() if task.startswith("read"))
    rate = f"{4e-9 * problem.w.size / seconds['encode a row']:.0f} GB/s"
    best = min(v for task, v in seconds.items() if task.startswith("watch"))
    return seconds, [
        Line(
            "encode one row", "row", seconds["encode a row"], "reading float32 weights once", read, 1.3, rate
        ),
        Line(f"watch-list of {watched} latents, one row", "row", best, limit=30e-6),
    ]


def few_rows(threads: int, counts: tuple[int, ...] = (1, 8, 64)) -> tuple[dict[str, float], list[Line]]:
    """A handful of rows by weights of which an int8 copy is kept (`SAE.prepare`), beside reading such a copy once."""
    if not _kernels.build_info["int8"]:
        return {}, []
    size = SIZES["row"]
    problem = Problem(size._replace(n=max(counts)), threads)
    problem.w.flags.writeable = False

    def encode(count: int) -> Any:
        return _kernels.encode_topk(problem.x[:count], problem.w, problem.b, size.k, num_threads=threads)

    plain = in_turns({f"encode, {n} rows": partial(encode, n) for n in counts}, repeats=5)
    want = {n: encode(n) for n in counts}
    handle, memory = _kernels.keep_int8(problem.w, num_threads=threads)
    for n in counts:
        if not all(np.array_equal(a, b) for a, b in zip(encode(n)[:3], want[n][:3], strict=True)):
            raise AssertionError(f"encode_topk: other codes with a kept copy, {n} rows")
    pool = ThreadPoolExecutor(threads)
    parts = np.array_split(np.ones(memory // 8, np.int64), threads)
    tasks: dict[str, Task] = {f"prepared, {n} rows": partial(encode, n) for n in counts}
    tasks["read the int8 copy (NumPy sum)"] = lambda: list(pool.map(np.sum, parts))
    seconds = plain | in_turns(tasks, repeats=11)
    del handle
    read, one = seconds["read the int8 copy (NumPy sum)"], seconds[f"prepared, {counts[0]} rows"]
    lines = [Line("prepared SAE, 1 row", "row", one, "reading an int8 copy once", read, 1.2)]
    for n in counts[1:]:
        limit = 1.5 if n == 8 else 0.0
        lines.append(
            Line(f"prepared SAE, {n} rows", "row", seconds[f"prepared, {n} rows"], "1 row", one, limit)
        )
    for n in counts:
        lines.append(
            Line(
                f"… {n} rows, beside unprepared",
                "row",
                seconds[f"prepared, {n} rows"],
                "as it was",
                plain[f"encode, {n} rows"],
            )
        )
    return seconds, lines
