"""Files appear whole or not at all, whatever goes wrong while they are written."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from sparse_sae._io.atomic import atomic_directory, atomic_write, write_json
from sparse_sae._io.safetensors import write_tensors


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def write_file(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def write_directory(path: Path, text: str) -> None:
    with atomic_directory(path, ours) as fresh:
        (fresh / "a").write_text(text)


def content(path: Path) -> str:
    return (path / "a" if path.is_dir() else path).read_text()


def ours(path: Path) -> bool:
    return (path / "a").exists() or (path / "only_in_the_first").exists()


WRITERS = [write_file, write_directory]


@pytest.mark.parametrize("write", WRITERS)
def test_new_then_replaced(tmp_path: Path, write: Callable[[Path, str], None]) -> None:
    target = tmp_path / "deep/er/target"
    for text in ("one", "two"):
        write(target, text)
        assert content(target) == text
        assert names(target.parent) == {"target"}


def test_directory_replacement_keeps_nothing_of_the_old(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "d", ours) as fresh:
        (fresh / "only_in_the_first").write_text("x")
        (fresh / "sub").mkdir()
        (fresh / "sub/b").write_text("y")
    with atomic_directory(tmp_path / "d", ours) as fresh:
        (fresh / "a").write_text("z")
    assert names(tmp_path / "d") == {"a"}


def test_until_the_end_the_old_content_is_seen(tmp_path: Path) -> None:
    write_file(tmp_path / "f", "old")
    write_directory(tmp_path / "d", "old")
    with atomic_write(tmp_path / "f") as file, atomic_directory(tmp_path / "d", ours) as fresh:
        file.write(b"new")
        file.flush()
        (fresh / "a").write_text("new")
        assert content(tmp_path / "f") == content(tmp_path / "d") == "old"
    assert content(tmp_path / "f") == content(tmp_path / "d") == "new"


@pytest.mark.parametrize(
    "error", [ValueError("bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "disk full")]
)
@pytest.mark.parametrize("existed", [False, True])
def test_an_error_leaves_the_old_content_and_no_litter(
    tmp_path: Path, error: BaseException, existed: bool
) -> None:
    if existed:
        write_file(tmp_path / "f", "old")
        write_directory(tmp_path / "d", "old")

    def fail_in_file() -> None:
        with atomic_write(tmp_path / "f") as file:
            file.write(b"half")
            raise error

    def fail_in_directory() -> None:
        with atomic_directory(tmp_path / "d", ours) as fresh:
            (fresh / "a").write_text("half")
            raise error

    for fail in (fail_in_file, fail_in_directory):
        with pytest.raises(type(error)):
            fail()
    assert names(tmp_path) == ({"f", "d"} if existed else set())
    if existed:
        assert content(tmp_path / "f") == content(tmp_path / "d") == "old"


@pytest.mark.parametrize("write", WRITERS)
def test_a_disk_that_fills_up_on_fsync(
    tmp_path: Path, write: Callable[[Path, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "t", "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "t", "new")
    assert names(tmp_path) == {"t"}
    assert content(tmp_path / "t") == "old"


def test_a_file_size_limit(tmp_path: Path) -> None:
    """A real short write: the process may write 64 KiB at most."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from sparse_sae._io.safetensors import write_tensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try:\n"
        "    write_tensors(Path(sys.argv[1]), {'a': np.zeros(100_000, np.float32)})\n"
        "except OSError as error:\n"
        "    print('refused', error.errno)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "w.safetensors")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.split() == ["refused", str(errno.EFBIG)]
    assert names(tmp_path) == set()


def test_killed_while_replacing(tmp_path: Path) -> None:
    """SIGKILL at any moment: the file reads as one version, whole."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from sparse_sae._io.atomic import write_json\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    write_json(Path(sys.argv[1]), {'version': n, 'rows': [n] * 2000})\n"
    )
    target = tmp_path / "t.json"
    rng = np.random.default_rng(0)
    for _ in range(3):
        target.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", code, str(target)])
        deadline = time.monotonic() + 120
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.05)))
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        value = json.loads(target.read_text())
        assert value["rows"] == [value["version"]] * 2000


def test_modes_are_those_of_ordinary_files(tmp_path: Path) -> None:
    """mkstemp makes files that only their owner reads; what is shared afterwards must be readable."""
    write_file(tmp_path / "f", "x")
    write_directory(tmp_path / "d", "x")
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o755


def test_json_takes_numpy_values_and_refuses_the_rest(tmp_path: Path) -> None:
    value: dict[str, Any] = {"i": np.int64(3), "f": np.float32(0.5), "a": np.arange(3), "p": Path("x/y")}
    write_json(tmp_path / "v.json", value)
    assert json.loads((tmp_path / "v.json").read_text()) == {"i": 3, "f": 0.5, "a": [0, 1, 2], "p": "x/y"}
    for bad in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            write_json(tmp_path / "v.json", bad)
    assert json.loads((tmp_path / "v.json").read_text())["i"] == 3
    assert names(tmp_path) == {"v.json"}


def test_tensors_round_trip_views_too(tmp_path: Path) -> None:
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    tensors = {"a": a, "transposed": a.T, "strided": a[:, ::2], "empty": np.zeros((0, 4), np.float32)}
    write_tensors(tmp_path / "t.safetensors", tensors, {"note": "x"})
    for name, value in load_file(tmp_path / "t.safetensors").items():
        np.testing.assert_array_equal(value, tensors[name], err_msg=name)


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        write_file(tmp_path / "file/below", "y")
    assert (tmp_path / "file").read_text() == "x"
