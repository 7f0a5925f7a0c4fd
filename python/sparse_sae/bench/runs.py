"""Other ways to select latents, other architectures, and whole runs on real storage, reading included."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from sparse_sae import _kernels
from sparse_sae._io.arrays import Array
from sparse_sae.bench.tasks import SCREEN_TRIALS, Problem, training
from sparse_sae.bench.timing import SIZES, Line, Size, Task, in_turns

_STEPS, _LOGGED = 60, 5  # of a run; the first third warms up


def selections(name: str, threads: int) -> tuple[dict[str, float], list[Line]]:
    """Encoding with one threshold for a batch and with one a latent, beside G; and all three ways to select on rows and
    weights that are like a model's."""
    seconds, lines = _selections(name, threads, Problem(SIZES[name], threads), "")
    found, more = _selections(name, threads, model_like(SIZES[name], threads), ", model-like rows")
    return seconds | found, lines + more


def _selections(
    name: str, threads: int, problem: Problem, suffix: str
) -> tuple[dict[str, float], list[Line]]:
    size, rows = problem.size, (problem.x, problem.w, problem.b)
    total = size.n * size.k
    values = _kernels.encode_batch_topk(*rows, total, num_threads=threads)[2]
    threshold = np.full(size.m, values.min(), np.float32)
    above = len(_kernels.encode_threshold(*rows, threshold, num_threads=threads)[2])
    # Values that tie with the lowest are not above it.
    if len(values) != total or not total - 8 <= above < total:
        raise AssertionError(f"encode_batch_topk: {len(values)} of {total}, {above} above the lowest")
    ways: dict[str, Task] = {
        "TopK": problem.encode,
        "BatchTopK": lambda: _kernels.encode_batch_topk(*rows, total, num_threads=threads),
        "thresholds": lambda: _kernels.encode_threshold(*rows, threshold, num_threads=threads),
    }
    if not suffix:
        del ways["TopK"]  # has a line of its own
    for way in ways.values():
        for _ in range(SCREEN_TRIALS):
            way()
    tasks = problem.products() | {f"encode, {way}{suffix}": task for way, task in ways.items()}
    seconds = in_turns(tasks, repeats=3)
    g = min(seconds.pop(product) for product in problem.products())
    limits = {"TopK": 0.43, "BatchTopK": 0.55, "thresholds": 0.55}
    fast = _kernels.build_info["int8"]
    return seconds, [
        Line(f"encode, {way}{suffix}", name, seconds[f"encode, {way}{suffix}"], "G", g, limits[way] * fast)
        for way in ways
    ]


def model_like(size: Size, threads: int) -> Problem:
    """Rows as a language model has them and weights as training leaves them.

    Rows lie along few directions, their mean is far from zero, three inputs are much larger than the others, and one
    row in 2,000 is a massive activation. Latents lie along the directions and are rarely active.
    """
    rng = np.random.default_rng(7)
    problem = Problem(size, threads)
    basis = rng.standard_normal((max(1, size.d // 3), size.d), dtype=np.float32)
    strength = rng.standard_exponential((size.n, len(basis)), dtype=np.float32)
    x = strength @ basis / np.sqrt(len(basis)).astype(np.float32)
    x += 0.3 * problem.x + rng.standard_normal(size.d).astype(np.float32)
    outliers = rng.permutation(size.d)[:3]
    x[:, outliers] *= np.float32(15)
    x[:, outliers[0]] += 60
    x[::2000, outliers[1]] = 2000
    problem.x = x
    problem.w += rng.standard_normal((size.m, len(basis)), dtype=np.float32) @ basis / np.float32(4 * size.d)
    problem.w[:, outliers] /= 15  # what is large to read has small weights
    problem.w /= np.linalg.norm(problem.w, axis=1, keepdims=True)
    problem.b = -(problem.w @ x.mean(axis=0)) - np.float32(0.1) * rng.random(size.m, dtype=np.float32)
    return problem


def architectures(name: str, threads: int) -> tuple[dict[str, float], list[Line]]:
    """A step of each architecture at about k latents a row, beside TopK's."""
    from sparse_sae.architectures import L1, BatchTopK, Gated, JumpReLU, Matryoshka, TopK

    problem = Problem(SIZES[name], threads)
    k = problem.size.k
    kinds = [
        TopK(k=k),
        BatchTopK(k=k),
        Matryoshka(k=k),
        JumpReLU(target_l0=k),
        Gated(target_l0=k),
        L1(target_l0=k),
    ]
    tasks: dict[str, Task] = {}
    for kind in kinds:
        step = training(problem, kind)[1]
        if not math.isfinite(step(0.0).loss):
            raise AssertionError(f"{kind}: the loss is not finite")
        tasks[f"step, {type(kind).__name__}"] = partial(step, 0.0)
    seconds = in_turns(tasks, repeats=3)
    topk = seconds["step, TopK"]
    return seconds, [
        Line(task, name, value, "step, TopK", topk, 1.6) for task, value in seconds.items() if value != topk
    ]


def reading(name: str, threads: int) -> tuple[dict[str, float], list[Line]]:
    """Whole steps, from rows on a disk or in memory to new weights, beside G; and the part that waits for rows."""
    size = SIZES[name]
    problem = Problem(size, threads)
    seconds: dict[str, float] = {}
    lines: list[Line] = []
    with TemporaryDirectory() as directory:
        sources = _sources(Path(directory), size)
        for kind, data in sources.items():
            g = min(in_turns(problem.products(), repeats=3).values())
            step, waiting = _run(data, size, threads)
            seconds |= {
                f"step from {kind}": step,
                f"step from {kind}, waiting": waiting,
                f"G before {kind}": g,
            }
            lines.append(Line(f"step from {kind}", name, step, "G", g, 1.0))
            lines.append(Line("… waiting for rows", name, waiting, "the step", step, 0.05))
        together, _ = _run(sources["a store"], size, threads, runs=4)
        seconds["step of four SAEs from a store"] = together
        alone = 4 * seconds["step from a store"]
        lines.append(Line("step of four SAEs from one store", name, together, "four steps", alone, 0.8))
    return seconds, lines


def _sources(directory: Path, size: Size) -> dict[str, Any]:
    """The same rows in a file of float16, in memory and in a store; they lie in few directions, as activations do."""
    from sparse_sae.data.store import StoreWriter

    # Not the seed of a run: [2, 0], which run 2 draws its weights from, is to NumPy the same as 2.
    rng = np.random.default_rng(2024)
    basis = rng.standard_normal((size.d // 3, size.d), dtype=np.float32)
    rows: Array = rng.standard_normal((24 * size.n, len(basis)), dtype=np.float32) @ basis
    np.save(directory / "rows.npy", rows.astype(np.float16))
    writer = StoreWriter(directory / "store", size.d, "float16")
    for start in range(0, len(rows), size.n):
        numbers = np.arange(start, start + size.n)
        writer.append(rows[numbers], numbers % 1000, numbers % size.n + 1, numbers // size.n)
    writer.finish(massive_ratio=1e6)
    memmap = np.load(directory / "rows.npy", mmap_mode="r")
    return {"a float16 memmap": memmap, "a float32 array": rows, "a store": directory / "store"}


def _run(data: Any, size: Size, threads: int, runs: int = 1) -> tuple[float, float]:
    """Median seconds of a step, and of its wait for rows."""
    from sparse_sae.architectures import TopK
    from sparse_sae.training.trainer import train_many

    names = [f"run{i}" for i in range(runs)]
    moments: list[float] = []
    waits: list[float] = []

    def note(record: dict[str, Any]) -> None:
        if record["run"] == names[-1]:
            moments.append(perf_counter())
            waits.append(runs * record["seconds"]["data"] / _LOGGED)

    results = train_many(
        data,
        {name: {"architecture": TopK(k=size.k), "seed": i} for i, name in enumerate(names)},
        d_sae=size.m,
        n_tokens=_STEPS * size.n,
        batch_size=size.n,
        log_every=_LOGGED,
        progress=False,
        callback=note,
        num_threads=threads,
    )
    for result in results.values():
        if not 0 < result.history[-1]["fvu"] < 1:
            raise AssertionError(f"training: FVU {result.history[-1]['fvu']}")
    first = len(moments) // 3
    return float(np.median(np.diff(moments[first:]))) / _LOGGED, median(waits[first + 1 :])
