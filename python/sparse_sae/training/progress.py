"""What long work says while it runs: a bar on terminals, records for everyone else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]
Callback: TypeAlias = Callable[[Record], object]  # False ends training


class Bar(AbstractContextManager["Bar"]):
    """A progress bar with time left, on stderr; silent where stderr is no terminal.

    Args:
        title: what is going on. total: tokens of the whole, or None. start: tokens done before.
        show: True or False to decide; None leaves it to the terminal.
    """

    def __init__(self, title: str, total: int | None, start: int = 0, show: bool | None = None) -> None:
        self._progress: Any = None
        if not (sys.stderr.isatty() if show is None else show):
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = TextColumn(title), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn()
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(title, total=total, completed=start, text="")

    def __enter__(self) -> Bar:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, tokens: int, text: str) -> None:
        """Tokens done so far, and what else to say."""
        if self._progress:
            self._progress.update(self._task, completed=tokens, text=text)


def training_text(record: Record) -> str:
    """A record of a training history in a line.

    >>> training_text({"tokens_per_second": 8123.0, "fvu": 0.25, "l0": 32.0, "dead_fraction": 0.01})
    '8,123 tokens/s  FVU 0.250  L0 32.0  dead 1.0%'
    """
    return (
        f"{record['tokens_per_second']:,.0f} tokens/s  FVU {record['fvu']:.3f}  L0 {record['l0']:.1f}  "
        f"dead {record['dead_fraction']:.1%}"
    )
