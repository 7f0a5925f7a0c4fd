"""Seconds by phase of a training step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Phases:
    """Adds up the time spent in named phases.

    >>> phases = Phases()
    >>> with phases("data"):
    ...     pass
    >>> list(phases.take())
    ['data']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """The sums so far, which then start again."""
        taken, self.seconds = self.seconds, {}
        return taken
