"""What a measurement is: sizes, timing in turns, lines of the table."""

from __future__ import annotations

import ctypes
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sparse_sae import _kernels
from sparse_sae._io import documents

Task: TypeAlias = Callable[[], Any]


class Size(NamedTuple):
    """A problem: N rows, D inputs, M latents, K active latents of a row."""

    n: int
    d: int
    m: int
    k: int

    def __str__(self) -> str:
        return f"N {self.n}, D {self.d}, M {self.m}, K {self.k}"


SIZES = {
    "small": Size(1024, 64, 1024, 8),
    "medium": Size(4096, 576, 9216, 32),
    "large": Size(4096, 768, 32768, 32),
    "real": Size(2048, 576, 4608, 32),
    "row": Size(1, 2304, 16384, 64),
}


@dataclass
class Line:
    """One line of the table: what was measured beside its yardstick (in the same unit), and the target.

    Attributes:
        value, unit: seconds ("s"), megabytes ("MB") or how many times faster ("×").
        limit: on value / yardstick_value, or on the value where there is no yardstick; a lower bound for "×".
        rate: in GFLOP/s or GB/s.
    """

    work: str
    size: str
    value: float
    yardstick: str = ""
    yardstick_value: float = 0.0
    limit: float = 0.0
    rate: str = ""
    unit: str = "s"

    @property
    def ratio(self) -> float:
        """Value over the yardstick's; 0 without one."""
        return self.value / self.yardstick_value if self.yardstick_value else 0.0

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if not self.limit:
            return None
        measured = self.ratio or self.value
        return measured >= self.limit if self.unit == "×" else measured <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "ratio": self.ratio, "met": self.met}

    def cells(self) -> list[str]:
        """As a row of the table."""
        sign = "≥" if self.unit == "×" else "≤"
        target = (f"{self.limit:.2f}" if self.ratio else amount(self.limit, self.unit)) if self.limit else ""
        return [
            self.work,
            self.size,
            amount(self.value, self.unit) + (f" ({self.rate})" if self.rate else ""),
            f"{self.yardstick}: {amount(self.yardstick_value, self.unit)}" if self.yardstick else "",
            f"{self.ratio:.2f}" if self.ratio else "",
            f"{sign} {target}" if target else "",
            {None: "", True: "met", False: "**missed**"}[self.met],
        ]


def amount(value: float, unit: str) -> str:
    """A measured value with its unit.

    >>> amount(0.0123, "s"), amount(3.1e-5, "s"), amount(4, "×")
    ('12.3 ms', '31 µs', '4.0 ×')
    """
    if unit != "s":
        return f"{value:.1f} {unit}"
    for scale, name in ((1, "s"), (1e3, "ms")):
        if value * scale >= 1:
            return f"{value * scale:.3g} {name}"
    return f"{value * 1e6:.0f} µs"


TURN = 0.1  # seconds a short task runs in its turn
REST = 0.2  # seconds before a turn


def in_turns(tasks: dict[str, Task], *, repeats: int = 5, seconds: float = 20.0) -> dict[str, float]:
    """Median seconds of each task, run one after the other in rounds; fewer rounds (at least 3) where it takes long.

    Before each turn nothing runs for a while: threads of the library before keep spinning after its work (those of
    OpenBLAS for a tenth of a second), and would share the cores with the next task. A short task has
    several runs in its turn, after one that wakes its own threads and is not counted.

    >>> sorted(in_turns({"a": lambda: None, "b": lambda: None}, repeats=1))
    ['a', 'b']
    """
    for task in tasks.values():
        task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    began = time.perf_counter()
    for round_ in range(repeats):
        if round_ >= 3 and time.perf_counter() - began > seconds:
            break
        for name, task in tasks.items():
            if len(tasks) > 1:
                time.sleep(REST)
            runs = _turn(task)
            times[name] += runs[1:] or runs
    return {name: statistics.median(values) for name, values in times.items()}


def _turn(task: Task) -> list[float]:
    """Seconds of each run in a turn, whose length counts what passes between the runs too: a task that takes no
    time at all ends as well."""
    runs: list[float] = []
    end = began = time.perf_counter()
    while end - began < TURN:
        start = time.perf_counter()
        task()
        end = time.perf_counter()
        runs.append(end - start)
    return runs


def machine(threads: int) -> dict[str, Any]:
    """What the numbers depend on; `family` is alike for processors of one design, whatever they are sold as."""
    info = Path("/proc/cpuinfo")
    found: dict[str, str] = {}
    if info.exists():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    cpu = found.get("model name") or platform.processor() or platform.machine()
    if _kernels.level == "x86_64_v3_vnni" and "avxvnni" not in _kernels.needs(_kernels.level):
        cpu += " (AVX-VNNI's instruction in AVX-512's encoding)"
    numbers = [found.get(name, "") for name in ("vendor_id", "cpu family", "model")]
    family = "-".join(filter(None, numbers)).removeprefix("Authentic").removeprefix("Genuine") or cpu
    if _kernels.level not in _kernels.loadable_levels()[:1]:  # forced: not what the family runs
        family += f"-{_kernels.level}"
    return {
        "cpu": cpu,
        "family": re.sub(r"[^a-z0-9]+", "-", family.lower()).strip("-"),
        "threads": threads,
        "level": _kernels.level,
        **_kernels.build_info,
        "numpy": np.__version__,
    }


def table(lines: list[Line]) -> str:
    """Markdown."""
    head = ["work", "size", "measured", "yardstick", "ratio", "target", ""]
    return documents.table(head, [line.cells() for line in lines])


def peak_megabytes(task: Task) -> float:
    """How far resident memory rises above its level while a task runs (Linux; elsewhere not a number)."""
    try:
        task()
        ctypes.CDLL(None).malloc_trim(
            0
        )  # what was freed goes back, so that it counts when it is asked for again
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        task()
        return (_status("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return float("nan")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
