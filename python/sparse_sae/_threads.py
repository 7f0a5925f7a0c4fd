"""How many threads the kernels may use."""

from __future__ import annotations

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

    Raises:
        ValueError: any other number.

    >>> resolve_threads(2)
    2
    """
    if num_threads is None:
        text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
        return int(text) if text.isdigit() and int(text) > 0 else available_cores()
    if num_threads == -1:
        return available_cores()
    if num_threads < 1:
        raise ValueError(
            f"num_threads: got {num_threads}, expected a positive number, -1 (all cores) or None"
        )
    return int(num_threads)


def threads_for(products: int, threads: int) -> int:
    """At most `threads`, fewer where a step has so few products that starting threads costs more than it saves.

    >>> threads_for(512 * 64 * 8, 8), threads_for(4096 * 9216 * 576, 8)
    (1, 8)
    """
    return max(1, min(threads, products // 4_000_000))
