"""Training, top to bottom: rows in, steps, dead latents cared for, checkpoints, a folded SAE out."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from sparse_sae._arguments import known_names, whole
from sparse_sae._threads import resolve_threads
from sparse_sae.architectures import Architecture
from sparse_sae.data.base import Source
from sparse_sae.data.opening import open_source
from sparse_sae.sae import SAE
from sparse_sae.training.config import TrainConfig
from sparse_sae.training.loop import Loop, StopReason
from sparse_sae.training.options import TrainOptions, signature_of
from sparse_sae.training.progress import Callback, Record
from sparse_sae.training.run import TrainingDiverged
from sparse_sae.training.starting import prepared

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "TrainResult",
    "TrainingDiverged",
    "TrainingInterrupted",
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
    stop_reason: StopReason
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


@overload
def train(
    data: Any,
    architecture: Architecture,
    *,
    d_sae: int,
    n_tokens: int,
    out: str | Path | None = ...,
    resume: bool = ...,
    overwrite: bool = ...,
    progress: bool | None = ...,
    callback: Callback | None = ...,
    num_threads: int | None = ...,
    **options: Unpack[TrainOptions],
) -> TrainResult: ...


@overload
def train(
    data: Any,
    *,
    config: TrainConfig,
    out: str | Path | None = ...,
    resume: bool = ...,
    overwrite: bool = ...,
    progress: bool | None = ...,
    callback: Callback | None = ...,
    num_threads: int | None = ...,
) -> TrainResult: ...


def train(
    data: Any,
    architecture: Architecture | None = None,
    *,
    config: TrainConfig | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    callback: Callback | None = None,
    num_threads: int | None = None,
    **options: Any,
) -> TrainResult:
    """Train a sparse autoencoder (or transcoder, or crosscoder).

    Args:
        data: (…, d_in) array or memmap, or the path of a .npy, .npz or .safetensors file; a directory of shards or an
            ActivationStore; an iterable of (n, d_in) blocks; for a transcoder a pair of these, for a crosscoder
            several.
        architecture: `TopK(k=32)` or another of `sparse_sae.architectures`.
        d_sae, n_tokens, …: the fields of `TrainConfig`, which says what each means and has by default.
        config: a `TrainConfig`, in place of architecture and options.
        out: directory for checkpoints, history.jsonl, which grows with every record, and the finished SAE; None
            keeps all in memory.
        resume: go on from out's checkpoint; the result is bit-identical to an uninterrupted run with the same
            arguments and data. Another n_tokens is taken where nothing done would have to be undone: while the
            learning rate is at its highest (always with schedule="constant") and nothing else is on its way.
        overwrite: replace another run in out; without it and `resume`, a directory with a run in it is refused.
        progress: None shows a bar on terminals.
        callback: called with every record; training stops where it returns False. Where it raises, a checkpoint is
            written first (with out).
        num_threads: None: all cores; results do not depend on it.

    Returns:
        TrainResult.

    Raises:
        ValueError, TypeError: arguments or data that do not fit, named. FileExistsError: out holds another run.
        TrainingDiverged: NaN loss. TrainingInterrupted (a KeyboardInterrupt): Ctrl-C, which waits for the end of the
        step; with out, a checkpoint and the SAE so far are written first. So does SIGTERM with out (Slurm, Docker,
        `kill`), which then ends the process.

    >>> import numpy as np
    >>> from sparse_sae import TopK
    >>> x = np.random.default_rng(0).standard_normal((2000, 16)).astype("float32")
    >>> result = train(x, TopK(k=4), d_sae=32, n_tokens=20_000)
    >>> result.sae, result.stop_reason
    (<SAE TopK(k=4) d_in=16 d_out=16 d_sae=32>, 'n_tokens')
    >>> result.sae.metadata["train_config"]["batch_size"]
    256
    """
    if config is None:
        config = _config({"architecture": architecture, **options})
    elif architecture is not None or options:
        named = ", ".join([*(["architecture"] if architecture is not None else []), *options])
        raise TypeError(f"{named}: given beside config, which holds it; use dataclasses.replace(config, …)")
    elif not isinstance(config, TrainConfig):
        raise TypeError(
            f"config: got {config!r:.200}, expected a TrainConfig; see TrainConfig.from_dict and .read"
        )
    source = open_source(data)
    return _train(source, {"": config}, config.seed, out, resume, overwrite, progress, callback, num_threads)[
        ""
    ]


def train_many(
    data: Any,
    runs: Mapping[str, TrainConfig | Mapping[str, Any]],
    *,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    callback: Callback | None = None,
    num_threads: int | None = None,
    **common: Any,
) -> dict[str, TrainResult]:
    """Train several SAEs from one pass over the data: reading, shuffling and normalising happen once.

    Args:
        data: as in `train`. With several parts side by side (layers, say), a run names the one it is for by `part`.
        runs: for each name a `TrainConfig`, or fields of one: architecture, d_sae, seed, lr, ….
        seed: fixes the order of rows, and initial weights where a run has no seed of its own; None: the seed that
            all runs share, else 0. A run gives the same SAE, bit for bit, as `train` with this seed.
        out: directory; each run has a folder of its name in it.
        callback: called with every record, which says its run under "run".
        common: fields that all runs have unless they are given their own. n_tokens, batch_size, log_every and
            checkpoint_every must be the same in all.

    Further arguments are those of `train`.

    >>> import numpy as np
    >>> from sparse_sae import TopK
    >>> x = np.random.default_rng(0).standard_normal((2000, 16)).astype("float32")
    >>> runs = {f"k{k}": {"architecture": TopK(k=k)} for k in (2, 4)}
    >>> results = train_many(x, runs, d_sae=32, n_tokens=20_000)
    >>> results["k4"].sae
    <SAE TopK(k=4) d_in=16 d_out=16 d_sae=32>
    """
    if not runs:
        raise ValueError("runs: empty, expected a dict of names and arguments")
    if any(not name or Path(name).name != name for name in runs):
        raise ValueError(f"runs: got the names {list(runs)}, expected names that can be those of folders")
    shared = common if seed is None else {"seed": whole("seed", seed, least=0), **common}
    configs = {}
    for name, given in runs.items():
        if isinstance(given, TrainConfig):
            if common:
                raise TypeError(
                    f"{', '.join(common)}: given beside the TrainConfig of {name!r}, which holds it"
                )
            configs[name] = given
        else:
            configs[name] = _config({**shared, **given}, f" of run {name!r}")
    if seed is None:
        seeds = {config.seed for config in configs.values()}
        seed = seeds.pop() if len(seeds) == 1 else 0
    return _train(open_source(data), configs, seed, out, resume, overwrite, progress, callback, num_threads)


def _config(given: dict[str, Any], of: str = "") -> TrainConfig:
    """A config from keyword arguments, which may miss some or hold unknown ones."""
    known_names(f"arguments{of}", given, [f.name for f in fields(TrainConfig)])
    for name, example in (
        ("architecture", "TopK(k=32)"),
        ("d_sae", "a number of latents"),
        ("n_tokens", "rows"),
    ):
        if given.get(name) is None:
            raise TypeError(f"{name}: got None{of}, expected {example}; there is no default")
    return TrainConfig(**given)


def _train(
    source: Source,
    configs: Mapping[str, TrainConfig],
    seed: int,
    out: str | Path | None,
    resume: bool,
    overwrite: bool,
    progress: bool | None,
    callback: Callback | None,
    num_threads: int | None,
) -> dict[str, TrainResult]:
    threads = resolve_threads(num_threads)
    directory = None if out is None else Path(out)
    with ExitStack() as stack:
        members = prepared(source, configs, seed, directory, resume, overwrite, threads, stack)
        loop = Loop(source, members, seed, threads)
        reason = loop.run(progress, callback)
        loop.save()
        results = {}
        for name, member in members.items():
            run = member.run
            sae = run.finished(dict(run.config.metadata))
            if member.directory is not None:
                sae.save(member.directory / "sae")
            results[name] = TrainResult(sae, run.history, reason, run.tokens)
    if loop.signal == signal.SIGTERM:
        # Everything is saved: the process ends as it would have without us.
        signal.raise_signal(signal.SIGTERM)
    if reason == "interrupt":
        raise TrainingInterrupted(results)
    return results


train.__signature__ = signature_of(train)  # type: ignore[attr-defined]
