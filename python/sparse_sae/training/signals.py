"""Ctrl-C and SIGTERM between steps, never in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_deferred(*, terminate: bool) -> Iterator[Callable[[], int]]:
    """While this is open a signal is remembered, not obeyed; the question says which came, or 0.

    A step changes parameters, moments and counters one after the other: a KeyboardInterrupt between them would leave
    a state that belongs to no step. The signal a second time ends the process in the usual way, without another
    checkpoint. In other threads than the main one, where Python delivers no signals, nothing is changed; nor where
    somebody else handles a signal.

    Args:
        terminate: SIGTERM (kill, Slurm, Docker) too, which otherwise ends the process at once.
    """
    came = 0
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    if terminate:
        usual[signal.SIGTERM] = signal.SIG_DFL
    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in usual if main and signal.getsignal(number) is usual[number]]

    def remember(number: int, _frame: Any) -> None:
        nonlocal came
        came = number
        signal.signal(number, usual[number])

    for number in ours:
        signal.signal(number, remember)
    try:
        yield lambda: came
    finally:
        for number in ours:
            signal.signal(number, usual[number])
