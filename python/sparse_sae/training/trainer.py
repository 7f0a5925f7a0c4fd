"""Training, top to bottom: rows in, steps, dead latents cared for, checkpoints, a folded SAE out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .._arguments import as_json, whole
from .._threads import resolve_threads
from ..architectures import Architecture
from ..coders import Coder
from ..data.opening import open_source
from ..data.provenance import provenance
from ..data.sources import Source
from ..sae import SAE
from .checkpoint import HISTORY
from .loop import Loop
from .progress import Callback, Record
from .resampling import Resampling
from .run import TrainingDiverged

__all__ = [
    "HISTORY",
    "TrainResult",
    "TrainingDiverged",
    "TrainingInterrupted",
    "default_batch_size",
    "train",
    "train_many",
]


@dataclass
class TrainResult:
    """What a run leaves.

    Attributes:
        sae: the trained SAE, in the units of the data.
        history: one record every `log_every` steps: step, tokens, loss and its terms, fvu, l0, dead_fraction, lr,
            tokens_per_second, seconds by phase; with TopK screen_fallbacks, the rows of that step whose latents
            screening could not decide, so that they were computed in full.
        stop_reason: "n_tokens" (done), "data" (a finite source ended), "callback" (it returned False) or "interrupt".
        tokens: rows trained on.
    """

    sae: SAE
    history: list[Record] = field(repr=False)
    stop_reason: str
    tokens: int


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C between two steps: raised after everything was saved.

    Attributes:
        results: what the runs have come to, by name; `result` is that of `train`.
    """

    def __init__(self, results: dict[str, TrainResult]) -> None:
        super().__init__("training was interrupted; what it has come to is in the exception's `results`")
        self.results = results

    @property
    def result(self) -> TrainResult:
        """The only result there is."""
        (result,) = self.results.values()
        return result


def train(
    data: Any,
    architecture: Architecture,
    *,
    d_sae: int,
    n_tokens: int,
    batch_size: int | None = None,
    seed: int = 0,
    coder: Coder | str = "sae",
    lr: float | None = None,
    schedule: str = "linear",
    warmup: float = 0.05,
    decay: float = 0.2,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 6.25e-10,
    clip_norm: float = 0.0,
    normalize: str = "scale",
    b_dec_init: str = "geometric_median",
    dead_after: int | None = None,
    resampling: Resampling | None = None,
    out: str | Path | None = None,
    checkpoint_every: int = 200,
    resume: bool = False,
    overwrite: bool = False,
    log_every: int = 10,
    progress: bool | None = None,
    callback: Callback | None = None,
    num_threads: int | None = None,
    dtype: str = "float32",
    metadata: dict[str, Any] | None = None,
) -> TrainResult:
    """Train a sparse autoencoder (or transcoder, or crosscoder).

    Args:
        data: (n, d_in) array or memmap; a directory of shards or an ActivationStore; an iterable of (n, d_in)
            blocks; for a transcoder a pair of these, for a crosscoder several.
        architecture: `TopK(k=32)` or another of `sparse_sae.architectures`.
        d_sae: number of latents.
        n_tokens: rows to train on, in whole batches; data that can be read again is, in a new order every epoch.
        batch_size: rows of a step; None: 1/500 of n_tokens, between 256 and 4096, a power of two.
        seed: fixes initial weights and the order of rows.
        coder: "sae", "transcoder", "crosscoder" or a `Coder`.
        lr: the highest Adam rate; None: see `optim.default_lr`.
        schedule, warmup, decay: see `optim.Schedule`. betas, eps: Adam's. clip_norm: largest gradient norm; 0: any.
        normalize: "scale" (E|x|² = d_in, folded into the weights at the end), "none", "whiten" (folded),
            "token_norm" or "layer_norm" (kept: they depend on the token).
        b_dec_init: "geometric_median", "mean" or "zero".
        dead_after: a latent is dead when it has not fired for this many rows; None: a tenth of n_tokens, at
            most 10 million.
        resampling: also, or instead of an architecture's AuxK, resample dead latents; see `Resampling`.
        out: directory for checkpoints, history.jsonl and the finished SAE; None keeps all in memory.
        checkpoint_every: steps between checkpoints (with out).
        resume: go on from out's checkpoint; the result is bit-identical to an uninterrupted run with the same
            arguments and data.
        overwrite: replace another run in out; without it and `resume`, a directory with a run in it is refused.
        log_every: steps between history records. progress: None shows a bar on terminals.
        callback: called with every record; training stops where it returns False.
        num_threads: None: all cores; results do not depend on it. dtype: float32 or float64.
        metadata: kept with the SAE (model_name, hook_name, …); a store's own model and hook point are there without.

    Returns:
        TrainResult.

    Raises:
        ValueError, TypeError: arguments or data that do not fit, named. FileExistsError: out holds another run.
        TrainingDiverged: NaN loss. TrainingInterrupted (a KeyboardInterrupt): Ctrl-C, which waits for the end of the
        step; with out, a checkpoint and the SAE so far are written first.

    >>> import numpy as np
    >>> from sparse_sae import TopK
    >>> x = np.random.default_rng(0).standard_normal((2000, 16)).astype("float32")
    >>> result = train(x, TopK(k=4), d_sae=32, n_tokens=20_000)
    >>> result.sae, result.stop_reason
    (<SAE TopK(k=4, ...) d_in=16 d_out=16 d_sae=32>, 'n_tokens')
    """
    arguments: dict[str, Any] = {
        "architecture": architecture, "d_sae": d_sae, "seed": seed, "coder": coder, "lr": lr, "schedule": schedule,
        "warmup": warmup, "decay": decay, "betas": betas, "eps": eps, "clip_norm": clip_norm, "normalize": normalize,
        "b_dec_init": b_dec_init, "dead_after": dead_after, "resampling": resampling, "dtype": dtype,
    }  # fmt: skip
    results = _train(
        open_source(data), {"": arguments}, n_tokens, batch_size, seed, out=out, checkpoint_every=checkpoint_every,
        resume=resume, overwrite=overwrite, log_every=log_every, progress=progress, callback=callback,
        num_threads=num_threads, metadata={} if metadata is None else metadata,
    )  # fmt: skip
    return results[""]


def train_many(
    data: Any,
    runs: Mapping[str, Mapping[str, Any]],
    *,
    n_tokens: int,
    batch_size: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    checkpoint_every: int = 200,
    resume: bool = False,
    overwrite: bool = False,
    log_every: int = 10,
    progress: bool | None = None,
    callback: Callback | None = None,
    num_threads: int | None = None,
    metadata: dict[str, Any] | None = None,
    **common: Any,
) -> dict[str, TrainResult]:
    """Train several SAEs from one pass over the data: reading, shuffling and normalising happen once.

    Args:
        data: as in `train`. With several parts side by side (layers, say), a run names the one it is for by `part`.
        runs: for each name, arguments of `train` that concern the SAE: architecture, d_sae, seed, lr, ….
        seed: fixes the order of rows, and initial weights where a run has no seed of its own. A run gives the same
            SAE, bit for bit, as `train` with this seed.
        out: directory; each run has a folder of its name in it.
        common: arguments that all runs share unless they have their own.
        callback: called with every record, which says its run under "run".

    Further arguments are those of `train`.

    >>> x = np.random.default_rng(0).standard_normal((2000, 16)).astype("float32")
    >>> from sparse_sae import TopK
    >>> runs = {f"k{k}": {"architecture": TopK(k=k)} for k in (2, 4)}
    >>> results = train_many(x, runs, d_sae=32, n_tokens=20_000)
    >>> results["k4"].sae
    <SAE TopK(k=4, ...) d_in=16 d_out=16 d_sae=32>
    """
    if not runs:
        raise ValueError("runs: empty, expected a dict of names and arguments")
    if any(not name or Path(name).name != name for name in runs):
        raise ValueError(f"runs: got the names {list(runs)}, expected names that can be those of folders")
    arguments = {name: {"seed": seed, **common, **given} for name, given in runs.items()}
    return _train(
        open_source(data), arguments, n_tokens, batch_size, seed, out=out, checkpoint_every=checkpoint_every,
        resume=resume, overwrite=overwrite, log_every=log_every, progress=progress, callback=callback,
        num_threads=num_threads, metadata={} if metadata is None else metadata,
    )  # fmt: skip


def default_batch_size(n_tokens: int) -> int:
    """A power of two near n_tokens / 500, from 256 to 4096; fewer than 20 batches of 256 are of one size near that.

    >>> default_batch_size(60_000), default_batch_size(10_000_000), default_batch_size(1000), default_batch_size(100)
    (256, 4096, 250, 100)
    """
    if n_tokens < 20 * 256:  # what is left over would be a large part
        return n_tokens // max(1, round(n_tokens / 256))
    return min(n_tokens, int(2 ** np.clip(round(math.log2(max(1, n_tokens / 500))), 8, 12)))


def _train(
    source: Source, arguments: dict[str, dict[str, Any]], n_tokens: int, batch_size: int | None, seed: int, *,
    out: str | Path | None, checkpoint_every: int, resume: bool, overwrite: bool, log_every: int,
    progress: bool | None,
    callback: Callback | None, num_threads: int | None, metadata: dict[str, Any],
) -> dict[str, TrainResult]:  # fmt: skip
    n_tokens = whole("n_tokens", n_tokens, least=1)
    batch_size = (
        default_batch_size(n_tokens) if batch_size is None else whole("batch_size", batch_size, least=1)
    )
    if batch_size > n_tokens:
        raise ValueError(f"batch_size: got {batch_size}, expected 1 to n_tokens = {n_tokens}")
    left_over = n_tokens % batch_size
    if left_over > n_tokens / 20:
        warnings.warn(
            f"n_tokens: {n_tokens} in batches of {batch_size} leave {left_over} rows out; pass a multiple of it",
            UserWarning,
            stacklevel=4,
        )
    checkpoint_every = whole("checkpoint_every", checkpoint_every, least=1)
    log_every = whole("log_every", log_every, least=1)
    if resume and out is None:
        raise ValueError("resume: needs out, the directory of the run to go on with")
    if resume and overwrite:
        raise ValueError("overwrite: got True with resume=True, expected one of them: go on, or start anew")
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata: got {metadata!r:.200}, expected a dict")
    as_json("metadata", metadata)
    seed = whole("seed", seed, least=0)
    loop = Loop(source, n_tokens, batch_size, seed, resolve_threads(num_threads), log_every)
    results = {}
    try:
        for name, given in arguments.items():
            loop.add(name, given, Path(out) / name if out is not None else None, resume, overwrite)
        stop_reason = loop.run(checkpoint_every, progress, callback)
        for name, run in loop.runs.items():
            directory = loop.directories[name]
            loop.save(name)
            part = arguments[name].get("part")
            sae = run.finished({**provenance(source, run.coder, part), **metadata})
            if directory is not None:
                sae.save(directory / "sae")
            results[name] = TrainResult(sae, run.history, stop_reason, run.tokens)
    finally:
        loop.close()
    if stop_reason == "interrupt":
        raise TrainingInterrupted(results)
    return results
