"""Signals at random moments: SIGKILL, SIGTERM, SIGINT in everything that `victims.py` lists.

Each life goes on with what the one before left, and the last is left alone. After every death, what lies there is whole
or not there; at the end it is, to the bit, what work that nothing disturbed has made, and no temporary file is left.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
from victims import VICTIMS
from watch import Broken

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LIMIT_SECONDS = 300
INTERRUPTED, FAILED = 3, 4
signal.signal(
    signal.SIGINT, signal.SIG_IGN
)  # a life asks for it once it is ready; between fork and then it would only be noise


def born(work: Callable[[Path], None], path: Path, log: Path) -> int:
    """Fork a life; it ends with 0, INTERRUPTED (Ctrl-C), FAILED (its error is in the log), or by the signal."""
    child = os.fork()
    if child:
        return child
    code = FAILED
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work(path)
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException as error:
        # Python 3.11 makes a RuntimeError of an interrupt while a class is made, as in an import.
        code = INTERRUPTED if isinstance(error.__cause__, KeyboardInterrupt) else FAILED
        log.write_text(traceback.format_exc(limit=-6))
    finally:
        os._exit(code)


def died(child: int, seconds: float) -> int | None:
    """How a life ended (its exit code, or minus the signal), or None: it goes on after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.0005)


def ended(child: int) -> int:
    code = died(child, LIMIT_SECONDS)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise Broken(f"it does not end within {LIMIT_SECONDS} s")
    return code


@functools.cache
def undisturbed(name: str) -> tuple[Path, float]:
    """Where the result of work lies that was left alone, and how long that took."""
    VICTIMS[name].prepare()
    directory = Path(tempfile.mkdtemp(prefix="torture-whole-"))
    begun = time.monotonic()
    code = ended(born(VICTIMS[name].work, directory / "out", directory / "log"))
    if code:
        raise Broken(f"undisturbed, it ends with {code}: {_told(directory / 'log')}")
    return directory / "out", time.monotonic() - begun


def _told(log: Path) -> str:
    return log.read_text()[-1500:] if log.exists() else "no word"


def case(rng: np.random.Generator, scratch: Path) -> str:
    name = list(VICTIMS)[int(rng.integers(len(VICTIMS)))]
    victim = VICTIMS[name]
    whole, seconds = undisturbed(name)
    room, log = scratch / "room", scratch / "log"
    for old in (room, log):
        shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
    room.mkdir()
    path = room / "out"
    deaths: list[str] = []
    strikes = int(rng.integers(1, 5))
    for life in range(strikes + 1):
        child = born(victim.work, path, log)
        if life < strikes and (code := died(child, float(rng.uniform(0, 1.1)) * seconds)) is None:
            number = SIGNALS[int(rng.integers(len(SIGNALS)))]
            os.kill(child, number)
            deaths.append(number.name)
            code = ended(child)
        elif life == strikes:
            code = ended(child)
        try:
            problem = victim.whole(path)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if code == FAILED:
            problem = _told(log)
        if problem:
            raise Broken(f"{name} after {deaths}: {problem}")
    if code != 0:
        raise Broken(f"{name} after {deaths}: left alone, it ends with {code}")
    if difference := victim.same(whole, path):
        raise Broken(f"{name} after {deaths}, beside work left alone: {difference}")
    left = [
        p.name
        for p in room.rglob("*")
        if p.name.endswith((".tmp", ".old")) or (p != path and p.parent == room)
    ]
    if left:
        raise Broken(f"{name} after {deaths}: {left} left behind")
    return f"{name}, {len(deaths)} signals"
