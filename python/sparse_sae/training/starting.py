"""From what was asked for to runs that can begin: checks, directories, samples of the data, checkpoints."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae._threads import threads_for
from sparse_sae.data.base import SAMPLE_ROWS, Source
from sparse_sae.data.provenance import provenance
from sparse_sae.training import checkpoint
from sparse_sae.training.checkpoint import locked
from sparse_sae.training.config import TrainConfig
from sparse_sae.training.resampling import centering_advice, mean_to_spread
from sparse_sae.training.run import Run

_SHARED = ("n_tokens", "batch_size", "log_every", "checkpoint_every")
_LEFT_OUT = 0.05  # share of n_tokens that may be left over without a word


@dataclass
class Member:
    """A run of a loop: the columns of a row that it reads, and its directory, if it has one."""

    run: Run
    columns: slice
    directory: Path | None

    def save(self) -> None:
        """Write a checkpoint, where there is a directory for it."""
        if self.directory is not None:
            self.run.save(self.directory)


def prepared(
    source: Source,
    configs: Mapping[str, TrainConfig],
    seed: int,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    threads: int,
    stack: ExitStack,
) -> dict[str, Member]:
    """The runs of a loop, started or resumed. Whatever can be wrong with what was asked for is found here.

    Args:
        stack: gives the directories back at the end.
    """
    if resume and out is None:
        raise ValueError("resume: needs out, the directory of the run to go on with")
    if resume and overwrite:
        raise ValueError("overwrite: got True with resume=True, expected one of them: go on, or start anew")
    columns = {name: _columns(source.widths, config.part) for name, config in configs.items()}
    for config in configs.values():
        config.coder.check(_widths(source.widths, config.part))
        if config.resampling is not None and source.once:
            raise ValueError(
                "resampling: reads data a second time, and this is an iterator; pass an array, list or store"
            )
    _check_shared(configs)
    if out is not None:
        for name in configs:
            stack.callback(os.close, locked(out / name, resume=resume, overwrite=overwrite))
    old = [resume and out is not None and checkpoint.exists(out / name) for name in configs]
    members: dict[str, Member] = {}
    sample = source.sample(SAMPLE_ROWS, seed)
    for (name, config), there in zip(configs.items(), old, strict=True):
        widths, part = _widths(source.widths, config.part), columns[name]
        n = threads_for(config.rows * config.d_sae * sum(widths), threads)
        data = fingerprint(sample[:, part])
        directory = None if out is None else out / name
        # A run killed before its first checkpoint starts again beside others that have one.
        if directory is not None and (there or (resume and not any(old))):
            run = Run.resume(directory, config, widths, n, data)
        else:
            own = sample if config.seed == seed else source.sample(SAMPLE_ROWS, config.seed)
            run = _started(own[:, part], config, widths, n, members, part)
            run.data = data
        metadata = {**provenance(source, config.coder, config.part), **config.metadata}
        run.config = replace(run.config, metadata=metadata)
        if directory is not None:
            checkpoint.write_history(directory, run.history)
        members[name] = Member(run, part, directory)
    rows = {name: member.run.config.rows for name, member in members.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"batch_size: None, and runs that go on had {rows}; pass batch_size")
    return members


def _started(
    sample: Array,
    config: TrainConfig,
    widths: tuple[int, ...],
    threads: int,
    members: Mapping[str, Member],
    part: slice,
) -> Run:
    """A new run, with the transforms of an earlier one that has the same, so that rows are transformed once."""
    transforms = None
    for member in members.values():
        other = member.run.config
        same = (other.seed, other.normalize, other.dtype) == (config.seed, config.normalize, config.dtype)
        if same and other.coder == config.coder and member.columns == part:
            transforms = member.run.transforms
            break
    run = Run.start(sample, config, widths, threads, transforms)
    advice = centering_advice(mean_to_spread(config.coder.split(sample, widths)[0]), config.b_dec_init)
    if advice:
        warnings.warn(advice, UserWarning, stacklevel=5)
    return run


def fingerprint(sample: Array) -> str:
    """A checksum of some rows of the data: a run may go on only with the data it was begun with.

    Args:
        sample: (n, d) rows that the source gives for the seed of the run, of which 256 are looked at.
    """
    rows = np.ascontiguousarray(sample[:: max(1, len(sample) // 256)])
    return hashlib.sha256(repr(rows.shape).encode() + rows.tobytes()).hexdigest()


def _check_shared(configs: Mapping[str, TrainConfig]) -> None:
    """All runs of a loop take the same rows in the same batches; some rows may be left over."""
    first = next(iter(configs.values()))
    for name, config in configs.items():
        for field in _SHARED:
            mine, others = getattr(config, field), getattr(first, field)
            if mine != others:
                raise ValueError(f"{field}: got {mine} for run {name!r}, expected {others} like the others")
    left = first.n_tokens % first.rows
    if left > _LEFT_OUT * first.n_tokens:
        warnings.warn(
            f"n_tokens: {first.n_tokens} in batches of {first.rows} leave {left} rows out; pass a multiple of it",
            UserWarning,
            stacklevel=5,
        )


def _widths(widths: tuple[int, ...], part: int | None) -> tuple[int, ...]:
    return widths if part is None else (widths[part],)


def _columns(widths: tuple[int, ...], part: int | None) -> slice:
    if part is None:
        return slice(0, sum(widths))
    if part >= len(widths):
        raise ValueError(f"part: got {part}, expected 0 to {len(widths) - 1}, a part of the data")
    start = sum(widths[:part])
    return slice(start, start + widths[part])
