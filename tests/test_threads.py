"""How many threads the kernels take, from arguments, the environment, the affinity mask and cgroups."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sae import _kernels, _threads, kernels
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
@pytest.mark.parametrize("asked", [2.0, "2", True, [1]])
def test_resolve_refuses_what_is_no_number(asked: Any) -> None:
    with pytest.raises(TypeError, match=re.escape(f"num_threads: got {asked!r}, expected")):
        resolve_threads(asked)


def test_resolve_takes_numbers_of_numpy() -> None:
    got = resolve_threads(np.int64(3))
    assert got == 3 and type(got) is int


@pytest.mark.parametrize("asked", [60_000, 120_000, 2**31, 2**80])
def test_no_more_threads_than_can_help(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, most in [(2, 64), (None, 64), (192, 192)]:
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        assert resolve_threads(asked) == most
    monkeypatch.setenv("OMP_NUM_THREADS", "60000")
    assert resolve_threads(None) == 192


@pytest.mark.parametrize("level", _kernels.loadable_levels())
def test_kernels_start_no_more_threads_than_can_help(level: str) -> None:
    """Asked for as many directly, OpenMP would end the process."""
    code = (
        "import numpy as np; from sparse_sae import _kernels\n"
        "x = np.ones((2_000_000, 1), np.float32)\n"
        f"print(_kernels.load({level!r}).first_nonfinite_row(x, num_threads=120_000))"
    )
    got = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert (got.returncode, got.stdout, got.stderr) == (0, "-1\n", "")


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize("text", ["0", "-1", "many", "9" * 20, "²", "2.5", ",2", "2 4"])
def test_environment_is_refused_by_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(ValueError, match=re.escape(f"OMP_NUM_THREADS: got {text!r}, expected")):
        resolve_threads(None)
    assert resolve_threads(2) == 2


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("text", "got"), [("3", 3), (" 2 ", 2), ("2,4", 2), ("", 4), (" ", 4)])
def test_environment(text: str, got: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenMP's own rule: the first number of a list counts."""
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


FORK = """
import multiprocessing, sys
import numpy as np
from sparse_sae import _kernels

rng = np.random.default_rng(0)
x, w = (rng.standard_normal((n, 64)).astype(np.float32) for n in (500, 700))

def encode():
    return _kernels.encode_topk(x, w, None, 8, num_threads=3)

def child(queue):
    queue.put([encode(), _kernels.first_nonfinite_row(x, num_threads=3)])

before = encode()  # the threads of the parent exist from here on
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=child, args=(queue,))
process.start()
got, row = queue.get(timeout=60)
process.join()
assert process.exitcode == 0 and row == -1
for a, b, c in zip(before[:3], got[:3], encode()[:3], strict=True):
    assert a.tobytes() == b.tobytes() == c.tobytes()
print("same")
"""


def test_a_forked_child_runs_kernels_too() -> None:
    """The threads that OpenMP counts on are not in the child, which waited for them for ever."""
    got = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, check=False, timeout=120
    )
    assert got.stdout == "same\n", got.stderr
