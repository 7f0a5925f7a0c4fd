"""How many threads the kernels take, from arguments, the environment, the affinity mask and cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparse_sae import _threads, kernels
from sparse_sae._threads import available_cores, resolve_threads, threads_for


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(_threads, "_cgroup_quota", lambda: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("asked", "got"), [(None, 4), (-1, 4), (1, 1), (3, 3), (64, 64)])
def test_resolve(asked: int | None, got: int) -> None:
    assert resolve_threads(asked) == got


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize("asked", [0, -2, -100])
def test_resolve_refuses(asked: int) -> None:
    with pytest.raises(ValueError, match=rf"num_threads: got {asked}, expected"):
        resolve_threads(asked)


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(
    ("text", "got"), [("3", 3), (" 2 ", 2), ("2,4", 2), ("", 4), ("0", 4), ("-1", 4), ("many", 4)]
)
def test_environment(text: str, got: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP's own rule: the first number of a list counts; what is not a number is ignored."""
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert resolve_threads(None) == got
    assert resolve_threads(-1) == 4
    assert resolve_threads(2) == 2


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


V1_QUOTA, V1_PERIOD = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({V1_QUOTA: "300000\n", V1_PERIOD: "100000\n"}, 3),
        ({V1_QUOTA: "-1\n", V1_PERIOD: "100000\n"}, None),
        ({"cpu.max": "", V1_QUOTA: "300000\n", V1_PERIOD: "100000\n"}, 3),
        ({}, None),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    write(tmp_path, files)
    assert _threads._cgroup_quota(tmp_path) == cores


def test_quota_cuts_the_affinity_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for quota, cores in [(2, 2), (16, 8), (None, 8)]:
        monkeypatch.setattr(_threads, "_cgroup_quota", lambda quota=quota: quota)
        assert available_cores() == cores


def test_small_work_takes_one_thread() -> None:
    assert threads_for(0, 8) == 1
    assert threads_for(8_000_000, 8) == 2
    assert threads_for(10**12, 8) == 8
    assert threads_for(10**12, 1) == 1


def test_kernels_reports_what_an_unforced_call_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert kernels()["threads"] == 3
