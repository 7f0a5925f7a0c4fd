"""One order of rows, and the runs that are trained on it: the loop, their checkpoints, and where they diverge."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing, nullcontext
from itertools import islice
from time import perf_counter
from typing import Literal, TypeAlias

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.architectures import Gradients
from sparse_sae.data.ahead import Ahead
from sparse_sae.data.base import Part, Source, batches
from sparse_sae.training import checkpoint
from sparse_sae.training.checkpoint import HISTORY
from sparse_sae.training.progress import Bar, Callback, training_text
from sparse_sae.training.run import TrainingDiverged
from sparse_sae.training.signals import interrupts_deferred
from sparse_sae.training.starting import Member

_WORTH_A_THREAD = 1 << 20  # bytes of a batch: smaller ones are read faster than they are handed over

StopReason: TypeAlias = Literal["n_tokens", "data", "callback", "interrupt"]


class Loop:
    """One order of rows, and the runs that are trained on it, in step.

    Args:
        members: the runs by name. seed: of the order of rows. threads: that read rows between two steps.
    """

    def __init__(self, source: Source, members: dict[str, Member], seed: int, threads: int) -> None:
        self.source, self.members, self.seed, self.threads = source, members, seed, threads
        # n_tokens, batch_size, log_every and checkpoint_every are the same in all of them.
        self.config = next(iter(members.values())).run.config
        self._last: dict[str, Gradients] = {}
        self._stopped = False
        self.signal = 0  # which ended the run, where one did

    def run(self, progress: bool | None, callback: Callback | None) -> StopReason:
        """Train all runs to the end of the tokens or the data, or until the callback returns False."""
        config, steps = self.config, self.config.steps
        first = min(member.run.steps_done for member in self.members.values())
        with (
            interrupts_deferred(terminate=any(m.directory for m in self.members.values())) as interrupted,
            Bar("training", config.n_tokens, first * config.rows, progress) as bar,
            closing(self._numbered(first, steps)) as numbered,
        ):
            reading = 0.0
            for step, rows, seconds in numbered:
                reading += seconds / len(self.members)
                self._step(step, rows)
                if (step + 1) % config.log_every == 0 or step + 1 == steps:
                    try:
                        self._records(step, reading, bar, callback)
                    except KeyboardInterrupt:  # of the callback: the step is whole
                        return "interrupt"
                    except Exception:
                        self.save()
                        raise
                    reading = 0.0
                self.signal = interrupted()
                if self.signal:
                    return "interrupt"
                if self._stopped:
                    return "callback"
                if (step + 1) % config.checkpoint_every == 0 and step + 1 < steps:
                    self.save()
        if not any(member.run.steps_done for member in self.members.values()):
            raise ValueError(
                f"data: ended before the first batch of {config.rows} rows; pass more rows, or a smaller batch_size"
            )
        done = all(member.run.steps_done >= steps for member in self.members.values())
        return "n_tokens" if done else "data"

    def _numbered(self, first: int, steps: int) -> Generator[tuple[int, Array, float], None, None]:
        """Step, rows, and the seconds that the loop waited for them."""
        size = self.config.rows
        ahead = self.source.may_wait and 4 * size * sum(self.source.widths) >= _WORTH_A_THREAD
        # Between two steps all threads read; beside a step, one does.
        rows = batches(self.source, size, self.seed, first * size, 1 if ahead else self.threads)
        wanted = islice(rows, steps - first)
        with closing(rows), Ahead(wanted) if ahead else nullcontext(wanted) as taken:
            for step in range(first, steps):
                started = perf_counter()
                batch = next(taken, None)
                if batch is None:
                    return
                yield step, batch, perf_counter() - started

    def _step(self, step: int, rows: Array) -> None:
        """Make one step of every run that has not made it yet (after a crash, some checkpoints may be ahead)."""
        transformed: dict[int, tuple[Array, Array]] = {}
        for name, member in self.members.items():
            run = member.run
            if run.steps_done > step:
                continue
            try:
                resampling = run.config.resampling
                occasion = resampling.steps(run.config.steps).get(step) if resampling else None
                if occasion is not None:
                    with run.phases("resampling"):
                        run.resample(Part(self.source, member.columns), occasion)
                key = id(run.transforms)
                if key not in transformed:
                    transformed[key] = run.transformed(np.ascontiguousarray(rows[:, member.columns]))
                self._last[name] = run.step(*transformed[key])
            except TrainingDiverged as error:
                raise self._diverged(name, error) from None

    def _records(self, step: int, reading: float, bar: Bar, callback: Callback | None) -> None:
        """Write down what the step did, and ask the callback whether to go on."""
        for name, member in self.members.items():
            run = member.run
            if run.steps_done != step + 1 or (run.history and run.history[-1]["step"] == run.steps_done):
                continue
            record = run.record(self._last[name], reading)
            bar.update(run.tokens, training_text(record))
            if member.directory is not None:
                with (member.directory / HISTORY).open("a") as file:
                    file.write(json.dumps(record) + "\n")
            if callback and callback({"run": name, **record} if name else record) is False:
                self._stopped = True

    def save(self) -> None:
        """Checkpoint every run that has a directory."""
        for name, member in self.members.items():
            try:
                member.save()
            except TrainingDiverged as error:
                raise self._diverged(name, error) from None

    def _diverged(self, name: str, error: TrainingDiverged) -> TrainingDiverged:
        directory, run = self.members[name].directory, self.members[name].run
        kept = (
            f"; the last good checkpoint is in {directory}"
            if directory and checkpoint.exists(directory)
            else ""
        )
        of = f" of run {name!r}" if name else ""
        return TrainingDiverged(
            f"{error}{of}{kept}. Lower lr (now {run.config.plan.lr:g}), set clip_norm=1, or leave out rows of extreme "
            "norm (massive activations)"
        )
