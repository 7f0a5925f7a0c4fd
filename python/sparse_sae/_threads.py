"""How many threads the kernels may use."""

from __future__ import annotations

import operator
import os
from pathlib import Path


def available_cores() -> int:
    """Cores this process may use: its affinity mask, cut by the cgroup's CPU quota (v2 or v1)."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_quota() or cores))


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return max(1, round(int(quota) / int(period)))


def resolve_threads(num_threads: int | None) -> int:
    """None: `OMP_NUM_THREADS`, or the cores we may use; -1: these cores; a positive number: itself.

    Never more than the machine has or 64, whichever is larger: beyond that threads gain nothing, and OpenMP ends the
    process where it cannot start them (`cpp/kernels/common/parallel.cpp` holds to the same bound).

    Raises:
        TypeError: what is no whole number.
        ValueError: any other number; an `OMP_NUM_THREADS` that is neither empty nor a list of positive numbers.

    >>> resolve_threads(2)
    2
    """
    expected = "a positive number, -1 (all cores) or None"
    if num_threads is None:
        number = _environment_threads() or available_cores()
    elif isinstance(num_threads, bool) or not hasattr(num_threads, "__index__"):
        raise TypeError(f"num_threads: got {num_threads!r}, expected {expected}")
    elif (number := operator.index(num_threads)) == -1:
        number = available_cores()
    elif number < 1:
        raise ValueError(f"num_threads: got {number}, expected {expected}")
    return min(number, max(64, os.cpu_count() or 1))


def _environment_threads() -> int | None:
    """`OMP_NUM_THREADS`, of which the first number of a list counts (OpenMP's rule); None where it is not set."""
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not text:
        return None
    first = text.split(",")[0].strip()
    if not (first.isascii() and first.isdigit() and len(first) < 10 and int(first) > 0):
        raise ValueError(
            f"OMP_NUM_THREADS: got {text!r}, expected a number of threads from 1, or a list of them; "
            "unset it to use every core this process may use"
        )
    return int(first)


def threads_for(products: int, threads: int) -> int:
    """At most `threads`, fewer where a step has so few products that starting threads costs more than it saves.

    >>> threads_for(512 * 64 * 8, 8), threads_for(4096 * 9216 * 576, 8)
    (1, 8)
    """
    return max(1, min(threads, products // 4_000_000))
