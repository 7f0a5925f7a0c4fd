"""One order of rows, and the runs that are trained on it: the loop, their checkpoints, and where they diverge."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Generator
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .._io.arrays import Array
from .._threads import threads_for
from ..architectures import Architecture, Gradients
from ..coders import Coder
from ..data.ahead import Ahead
from ..data.sources import SAMPLE_ROWS, Part, Source, batches
from . import checkpoint
from .checkpoint import HISTORY, locked
from .config import Options
from .progress import Bar, Callback, training_text
from .resampling import centering_advice, mean_to_spread
from .run import Run, TrainingDiverged
from .signals import interrupts_deferred

_WORTH_A_THREAD = 1 << 20  # bytes of a batch: smaller ones are read faster than they are handed over


class Loop:
    """One order of rows, and the runs that are trained on it."""

    def __init__(
        self, source: Source, n_tokens: int, batch_size: int, seed: int, threads: int, log_every: int
    ) -> None:
        self.source, self.n_tokens, self.batch_size, self.seed = source, n_tokens, batch_size, seed
        self.threads, self.log_every = threads, log_every
        self.runs: dict[str, Run] = {}
        self.directories: dict[str, Path | None] = {}
        self.columns: dict[str, slice] = {}
        self._samples: dict[int, Array] = {}
        self._last: dict[str, Gradients] = {}
        self._locks: list[int] = []
        self._stopped = False

    def add(
        self, name: str, given: dict[str, Any], directory: Path | None, resume: bool, overwrite: bool = False
    ) -> None:
        """Start or resume a run."""
        given = dict(given)
        widths, columns = self._part(given.pop("part", None))
        architecture, coder = given.pop("architecture", None), given.pop("coder", "sae")
        if not isinstance(architecture, Architecture):
            raise TypeError(f"architecture: got {architecture!r}, expected for example TopK(k=32)")
        coder = Coder(coder) if isinstance(coder, str) else coder
        if not isinstance(coder, Coder):
            raise TypeError(f"coder: got {coder!r}, expected sae, transcoder, crosscoder or a Coder")
        coder.check(widths)
        known = Options.__dataclass_fields__
        if unknown := [key for key in given if key not in known]:
            raise TypeError(f"runs: unknown argument(s) {', '.join(unknown)} of run {name!r}")
        if "d_sae" not in given:
            raise TypeError(f"d_sae: missing for run {name!r}, expected a positive number of latents")
        options = Options(
            n_tokens=self.n_tokens,
            batch_size=self.batch_size,
            log_every=self.log_every,
            **given,
        )
        architecture.check(options.d_sae)
        if options.resampling is not None and getattr(self.source, "once", False):
            raise ValueError(
                "resampling: reads data a second time, and this is an iterator; pass an array, list or store"
            )
        if directory is not None:
            self._locks.append(locked(directory, resume=resume, overwrite=overwrite))
        threads = threads_for(self.batch_size * options.d_sae * sum(widths), self.threads)
        data = fingerprint(self.source, columns, self.seed)
        if resume and (len(self.runs) == 0 or directory is None or checkpoint.exists(directory)):
            assert directory is not None
            run = Run.resume(directory, architecture, coder, options, widths, threads, data)
        else:
            sample = self._sample(options.seed)[:, columns]
            run = Run.start(
                sample, architecture, coder, options, widths, threads, self._fitted(options, coder, columns)
            )
            run.data = data
            advice = centering_advice(mean_to_spread(coder.split(sample, widths)[0]), options.b_dec_init)
            if advice:
                warnings.warn(advice, stacklevel=5)
        if directory is not None:
            run.write_history(directory)
        self.runs[name], self.directories[name], self.columns[name] = run, directory, columns

    def _part(self, part: int | None) -> tuple[tuple[int, ...], slice]:
        widths = self.source.widths
        if part is None:
            return widths, slice(0, sum(widths))
        if not 0 <= part < len(widths):
            raise ValueError(f"part: got {part}, expected 0 to {len(widths) - 1}, a part of the data")
        start = sum(widths[:part])
        return (widths[part],), slice(start, start + widths[part])

    def _sample(self, seed: int) -> Array:
        if seed not in self._samples:
            self._samples = {seed: self.source.sample(SAMPLE_ROWS, seed)}
        return self._samples[seed]

    def _fitted(self, options: Options, coder: Coder, columns: slice) -> Any:
        """The transforms of an earlier run that has the same."""
        for name, run in self.runs.items():
            o = run.options
            same = (o.seed, o.normalize, o.dtype) == (options.seed, options.normalize, options.dtype)
            if same and run.coder == coder and self.columns[name] == columns:
                return run.transforms
        return None

    def run(self, checkpoint_every: int, progress: bool | None, callback: Callback | None) -> str:
        """Train all runs to the end of the tokens or the data; returns the reason."""
        self._samples = {}
        steps = self.n_tokens // self.batch_size
        first = min(run.steps_done for run in self.runs.values())
        with (
            interrupts_deferred() as interrupted,
            Bar("training", self.n_tokens, first * self.batch_size, progress) as bar,
            closing(self._numbered(first, steps)) as numbered,
        ):
            reading = 0.0
            for step, rows, seconds in numbered:
                reading += seconds / len(self.runs)
                self._step(step, rows)
                if (step + 1) % self.log_every == 0 or step + 1 == steps:
                    try:
                        self._records(step, reading, bar, callback)
                    except KeyboardInterrupt:  # of the callback: the step is whole
                        return "interrupt"
                    reading = 0.0
                if interrupted():
                    return "interrupt"
                if self._stopped:
                    return "callback"
                if (step + 1) % checkpoint_every == 0 and step + 1 < steps:
                    for name in self.runs:
                        self.save(name)
        if not any(run.steps_done for run in self.runs.values()):
            raise ValueError(
                f"data: ended before the first batch of {self.batch_size} rows; pass more rows, or a smaller batch_size"
            )
        return "n_tokens" if all(run.steps_done >= steps for run in self.runs.values()) else "data"

    def _numbered(self, first: int, steps: int) -> Generator[tuple[int, Array, float], None, None]:
        """Step, rows, and the seconds that the loop waited for them."""
        ahead = self.source.may_wait and 4 * self.batch_size * sum(self.source.widths) >= _WORTH_A_THREAD
        # Between two steps all threads read; beside a step, one does.
        rows = batches(
            self.source, self.batch_size, self.seed, first * self.batch_size, 1 if ahead else self.threads
        )
        wanted = islice(rows, steps - first)
        with closing(rows), Ahead(wanted) if ahead else nullcontext(wanted) as taken:
            for step in range(first, steps):
                started = perf_counter()
                batch = next(taken, None)
                if batch is None:
                    return
                yield step, batch, perf_counter() - started

    def _step(self, step: int, rows: Array) -> None:
        """One step of every run that has not made it yet (after a crash, some checkpoints may be ahead)."""
        transformed: dict[int, tuple[Array, Array]] = {}
        for name, run in self.runs.items():
            if run.steps_done > step:
                continue
            try:
                resampling = run.options.resampling
                occasion = resampling.steps(run.options.steps).get(step) if resampling else None
                if resampling is not None and occasion is not None:
                    with run.phases("resampling"):
                        resampling.apply(run, Part(self.source, self.columns[name]), occasion)
                key = id(run.transforms)
                if key not in transformed:
                    transformed[key] = run.transformed(np.ascontiguousarray(rows[:, self.columns[name]]))
                self._last[name] = run.step(*transformed[key])
            except TrainingDiverged as error:
                raise self._diverged(name, error) from None

    def _records(self, step: int, reading: float, bar: Bar, callback: Callback | None) -> None:
        for name, run in self.runs.items():
            if run.steps_done != step + 1 or (run.history and run.history[-1]["step"] == run.steps_done):
                continue
            record = run.record(self._last[name], reading)
            bar.update(run.tokens, training_text(record))
            directory = self.directories[name]
            if directory is not None:
                with (directory / HISTORY).open("a") as file:
                    file.write(json.dumps(record) + "\n")
            if callback and callback({"run": name, **record} if name else record) is False:
                self._stopped = True

    def save(self, name: str) -> None:
        """Checkpoint a run that has a directory."""
        directory = self.directories[name]
        try:
            if directory is not None:
                self.runs[name].save(directory)
        except TrainingDiverged as error:
            raise self._diverged(name, error) from None

    def close(self) -> None:
        """Let other processes train in the directories."""
        for handle in self._locks:
            os.close(handle)
        self._locks = []

    def _diverged(self, name: str, error: TrainingDiverged) -> TrainingDiverged:
        directory, run = self.directories[name], self.runs[name]
        kept = (
            f"; the last good checkpoint is in {directory}"
            if directory and checkpoint.exists(directory)
            else ""
        )
        of = f" of run {name!r}" if name else ""
        return TrainingDiverged(
            f"{error}{of}{kept}. Lower lr (now {run.options.plan.lr:g}), set clip_norm=1, or leave out rows of extreme "
            "norm (massive activations)"
        )


def fingerprint(source: Source, columns: slice, seed: int) -> str:
    """A checksum of some rows of the data: a run may go on only with the data it was begun with."""
    rows = np.ascontiguousarray(source.sample(64, seed)[:, columns])
    return hashlib.sha256(repr(rows.shape).encode() + rows.tobytes()).hexdigest()
