"""A process that runs cases, and the eyes on it: it may neither die, nor hang, nor take memory out of proportion."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import tempfile
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

HANG_SECONDS = 600  # far beyond any case, so that a machine busy with other things is no finding


class Broken(Exception):
    """A promise that did not hold, in words."""


class Watched:
    """Cases of one attack, each a number, run in a child that is started again when it dies."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._context = multiprocessing.get_context("spawn")
        self._child: Any = None

    def __enter__(self) -> Watched:
        # In memory where that can be: a kill loses no write anyway, and on a disk most of the time is waiting for it.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._scratch = tempfile.TemporaryDirectory(prefix="torture-", dir=memory, ignore_cleanup_errors=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._scratch.cleanup()

    def run(self, case: int) -> tuple[dict[str, int], str]:
        """How many tries ended in which way, and what is wrong ("": nothing)."""
        if self._child is None:
            self._pipe, theirs = self._context.Pipe()
            self._child = self._context.Process(
                target=_serve, args=(self._name, theirs, self._scratch.name), daemon=False
            )
            self._child.start()
            theirs.close()
        try:
            self._pipe.send(case)
            if not self._pipe.poll(HANG_SECONDS):
                self._end()
                return {"hang": 1}, f"no answer within {HANG_SECONDS} s"
            outcome, problem = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._child.join()
            code = self._child.exitcode
            self._end()
            return {"crash": 1}, f"the process ended with exit code {code}"
        return (outcome if isinstance(outcome, dict) else {outcome: 1}), problem

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.join()
            self._child = None


def _serve(name: str, pipe: Connection, scratch: str) -> None:
    warnings.simplefilter("ignore")
    tempfile.tempdir = scratch  # what a killed process leaves goes with the rest
    attack = importlib.import_module(name).case
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        try:
            answer = attack(np.random.default_rng(number), Path(scratch)), ""
        except Broken as broken:
            answer = "broken promise", str(broken)
        except Exception:
            answer = "foreign error", traceback.format_exc(limit=-4)
        pipe.send(answer)


class Memory:
    """How far resident memory rose since it was made, in bytes (Linux; elsewhere 0)."""

    def __init__(self) -> None:
        self._before = self._read("VmRSS")
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            self._before = 0

    def rise(self) -> int:
        return self._read("VmHWM") - self._before if self._before else 0

    @staticmethod
    def _read(field: str) -> int:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return 0
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
