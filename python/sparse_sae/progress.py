"""What a run says while it trains: a bar on terminals, records for everyone else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, TypeAlias

Record: TypeAlias = dict[str, Any]
Callback: TypeAlias = Callable[[Record], None]


class Bar(AbstractContextManager["Bar"]):
    """Progress with tokens/s, time left, FVU, L0 and dead fraction; silent where stderr is no terminal.

    Args:
        n_tokens: tokens of the whole run. show: None decides by the terminal.
    """

    def __init__(self, n_tokens: int, start: int = 0, show: bool | None = None) -> None:
        self.progress: Any = None
        if not (sys.stderr.isatty() if show is None else show):
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            TextColumn("{task.percentage:3.0f} %"),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.task = self.progress.add_task("training", total=n_tokens, completed=start, text="")

    def __enter__(self) -> Bar:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.progress:
            self.progress.stop()

    def update(self, record: Record) -> None:
        """Show a record of the history."""
        if self.progress:
            text = (
                f"{record['tokens_per_second']:,.0f} tokens/s  FVU {record['fvu']:.3f}  L0 {record['l0']:.1f}  "
                f"dead {record['dead_fraction']:.1%}"
            )
            self.progress.update(self.task, completed=record["tokens"], text=text)
