"""Ctrl-C between steps, never in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_deferred() -> Iterator[Callable[[], bool]]:
    """While this is open Ctrl-C is remembered, not raised; the question says whether it came.

    A step changes parameters, moments and counters one after the other: a KeyboardInterrupt between them would leave
    a state that belongs to no step. Ctrl-C a second time ends the process in the usual way, without another
    checkpoint. In other threads than the main one, where Python delivers no signals, nothing is changed; nor where
    somebody else handles SIGINT.
    """
    came = False
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return

    def remember(_number: int, _frame: Any) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
