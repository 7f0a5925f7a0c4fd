"""Training, top to bottom: rows in, gradients, Adam, dead latents counted, checkpoints, a folded SAE out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import _kernels, checkpoint
from ._arrays import Array
from ._io import atomic_write
from ._threads import resolve_threads, threads_for
from .architectures import Architecture, Batch, Gradients
from .coders import Coder
from .data import SAMPLE_ROWS, Source, batches, open_source
from .optim import Adam, Schedule, default_lr, initial_params
from .profile import Phases
from .progress import Bar, Callback, Record
from .sae import SAE
from .transforms import Transform

HISTORY = "history.jsonl"


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite; `directory` holds the last good checkpoint, if any."""


@dataclass
class TrainResult:
    """What a run leaves.

    Attributes:
        sae: the trained SAE, in the units of the data.
        history: one record every `log_every` steps: step, tokens, loss, fvu, l0, dead_fraction, lr,
            tokens_per_second, seconds by phase.
        stop_reason: "n_tokens" (done), "data" (a finite source ended) or "interrupt" (Ctrl-C).
        tokens: rows trained on.
    """

    sae: SAE
    history: list[Record] = field(repr=False)
    stop_reason: str
    tokens: int


@dataclass
class Run:
    """The state of a run: everything a checkpoint must hold."""

    params: dict[str, Array]
    adam: Adam
    tokens_since_fired: Array
    transforms: tuple[Transform, Transform]
    variance: float  # mean squared norm of the targets around their mean, for FVU
    power: float  # mean squared norm of the centred targets, by which losses are divided
    tokens: int = 0
    history: list[Record] = field(default_factory=list)


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
    out: str | Path | None = None,
    checkpoint_every: int = 200,
    resume: bool = False,
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
        n_tokens: rows to train on; data that can be read again is, in a new order every epoch.
        batch_size: rows of a step; None: 1/500 of n_tokens, between 256 and 4096, a power of two.
        seed: fixes initial weights and the order of rows.
        coder: "sae", "transcoder", "crosscoder" or a `Coder`.
        lr: the highest Adam rate; None: 2e-4 · √(16384 / d_sae), times what few steps need (see `optim`).
        schedule, warmup, decay: see `optim.Schedule`. betas, eps: Adam's. clip_norm: largest gradient norm; 0: any.
        normalize: "scale" (E|x|² = d_in, folded into the weights at the end), "none", "whiten" (folded),
            "token_norm" or "layer_norm" (kept: they depend on the token).
        b_dec_init: "geometric_median", "mean" or "zero".
        dead_after: a latent is dead when it has not fired for this many rows; None: a tenth of n_tokens, at
            most 10 million.
        out: directory for checkpoints, history.jsonl and the finished SAE; None keeps all in memory.
        checkpoint_every: steps between checkpoints (with out).
        resume: go on from out's checkpoint; the result is bit-identical to an uninterrupted run with the same
            arguments and data.
        log_every: steps between history records. progress: None shows a bar on terminals.
        callback: called with every record.
        num_threads: None: all cores; results do not depend on it. dtype: float32 or float64.
        metadata: kept with the SAE (model_name, hook_name, …).

    Returns:
        TrainResult. After Ctrl-C, the SAE so far (with out: after writing a checkpoint).

    Raises:
        ValueError, TypeError: arguments or data that do not fit, named. TrainingDiverged: NaN loss.

    >>> import numpy as np
    >>> from sparse_sae import TopK
    >>> x = np.random.default_rng(0).standard_normal((2000, 16)).astype("float32")
    >>> result = train(x, TopK(k=4), d_sae=32, n_tokens=20_000)
    >>> result.sae, result.stop_reason
    (<SAE TopK(k=4, ...) d_in=16 d_out=16 d_sae=32>, 'n_tokens')
    """
    coder = Coder(coder) if isinstance(coder, str) else coder
    source = open_source(data)
    coder.check(source.widths)
    _check_sizes(architecture, d_sae, n_tokens)
    batch_size = batch_size or default_batch_size(n_tokens)
    if batch_size < 1 or batch_size > n_tokens:
        raise ValueError(f"batch_size: got {batch_size}, expected 1 to n_tokens = {n_tokens}")
    threads = threads_for(batch_size * d_sae * sum(source.widths), resolve_threads(num_threads))
    steps = n_tokens // batch_size
    plan = Schedule(lr if lr is not None else default_lr(d_sae), warmup, decay, schedule)
    dead_after = dead_after or min(10_000_000, max(n_tokens // 10, batch_size))
    directory = Path(out) if out is not None else None
    settings = {
        "architecture": architecture.config(), "coder": coder.config(), "d_sae": d_sae, "n_tokens": n_tokens,
        "batch_size": batch_size, "seed": seed, "lr": plan.lr, "schedule": schedule, "warmup": warmup,
        "decay": decay, "betas": list(betas), "eps": eps, "clip_norm": clip_norm, "normalize": normalize,
        "b_dec_init": b_dec_init, "dead_after": dead_after, "dtype": dtype, "widths": list(source.widths),
    }  # fmt: skip
    if resume:
        if directory is None:
            raise ValueError("resume: needs out, the directory of the run to go on with")
        run = _resumed(directory, settings, Adam(betas, eps, clip_norm))
    else:
        sample = source.sample(SAMPLE_ROWS, seed).astype(dtype)
        run = _started(sample, source.widths, architecture, coder, Adam(betas, eps, clip_norm), settings)

    stop_reason = "data"
    phases = Phases()
    done = run.tokens // batch_size
    try:
        with Bar(n_tokens, run.tokens, progress) as bar:
            for step, rows in _numbered(batches(source, batch_size, seed, run.tokens), done, steps, phases):
                x, y = _transformed(rows.astype(dtype, copy=False), run, coder, source)
                batch, gradients = _step(run, architecture, coder, x, y, step / steps, dead_after, threads, phases)
                if not math.isfinite(gradients.loss):
                    raise TrainingDiverged(_advice(step, plan.lr, directory))
                _update(run, architecture, coder, batch, gradients, plan.at(step, steps), threads, phases)
                if (step + 1) % log_every == 0 or step + 1 == steps:
                    record = _record(run, gradients, step, plan.at(step, steps), dead_after, batch_size, phases)
                    run.history.append(record)
                    bar.update(record)
                    if callback:
                        callback(record)
                if directory is not None and (step + 1) % checkpoint_every == 0 and step + 1 < steps:
                    _checkpoint(directory, run, settings)
        if run.tokens >= steps * batch_size:
            stop_reason = "n_tokens"
    except KeyboardInterrupt:
        stop_reason = "interrupt"
    if directory is not None:
        _checkpoint(directory, run, settings)
    sae = finished(run, architecture, coder, source.widths, metadata or {})
    if directory is not None and stop_reason != "interrupt":
        sae.save(directory / "sae")
    return TrainResult(sae, run.history, stop_reason, run.tokens)


def default_batch_size(n_tokens: int) -> int:
    """A power of two near n_tokens / 500, from 256 (or n_tokens) to 4096.

    >>> default_batch_size(60_000), default_batch_size(10_000_000), default_batch_size(100)
    (256, 4096, 100)
    """
    return min(n_tokens, int(2 ** np.clip(round(math.log2(max(1, n_tokens / 500))), 8, 12)))


def _check_sizes(architecture: Architecture, d_sae: int, n_tokens: int) -> None:
    if not isinstance(architecture, Architecture):
        raise TypeError(f"architecture: got {architecture!r}, expected for example TopK(k=32)")
    if d_sae < 1:
        raise ValueError(f"d_sae: got {d_sae}, expected a positive number of latents")
    if n_tokens < 1:
        raise ValueError(f"n_tokens: got {n_tokens}, expected a positive number of rows")
    architecture.check(d_sae)


def _numbered(rows: Iterator[Array], done: int, steps: int, phases: Phases) -> Iterator[tuple[int, Array]]:
    """Steps done … steps - 1 with their rows; reading them is timed as the phase "data"."""
    for step in range(done, steps):
        with phases("data"):
            batch = next(rows, None)
        if batch is None:
            return
        yield step, batch


def _started(
    sample: Array, widths: tuple[int, ...], architecture: Architecture, coder: Coder, adam: Adam, settings: dict[str, Any]
) -> Run:
    transforms = coder.fit_transforms(settings["normalize"], sample, widths)
    x, y = coder.split(sample, widths)
    x = transforms[0].apply(x)[0]
    y = transforms[1].apply(y)[0] if not coder.reads_all else x
    d_sae = settings["d_sae"]
    rng = np.random.default_rng([settings["seed"], 0])
    params = initial_params(
        x, y, d_sae, rng, tied=coder.reads_all, b_dec=settings["b_dec_init"], skip=coder.skip
    )
    centred = x - params["b_dec"] if coder.reads_all else x
    architecture.init(params, centred)
    adam.attach(params)
    y64 = y.astype(np.float64)
    return Run(
        params, adam, np.zeros(d_sae, np.int64), transforms,
        variance=float(y64.var(axis=0).sum()),
        power=max(float(((y64 - params["b_dec"]) ** 2).sum(axis=1).mean()), 1e-30),
    )  # fmt: skip


def _transformed(rows: Array, run: Run, coder: Coder, source: Source) -> tuple[Array, Array]:
    x, y = coder.split(rows, source.widths)
    x_new = run.transforms[0].apply(x)[0]
    return x_new, x_new if coder.reads_all else run.transforms[1].apply(y)[0]


def _step(
    run: Run, architecture: Architecture, coder: Coder, x: Array, y: Array, progress: float, dead_after: int,
    threads: int, phases: Phases,
) -> tuple[Batch, Gradients]:  # fmt: skip
    with phases("forward and backward"):
        y = y - run.params["b_dec"]
        if coder.reads_all:
            x = y
        elif "W_skip" in run.params:
            y = y - _kernels.matmul_nt(x, run.params["W_skip"], num_threads=threads)
        batch = Batch(x, y, run.power, run.tokens_since_fired >= dead_after, progress, threads)
        return batch, architecture.step(run.params, batch)


def _update(
    run: Run, architecture: Architecture, coder: Coder, batch: Batch, g: Gradients, lr: float, threads: int, phases: Phases
) -> None:
    params = run.params
    with phases("gradients and Adam"):
        vectors = {"b_enc": g.d_pre, "b_dec": g.b_dec, **g.vectors}
        if coder.reads_all:
            vectors["b_dec"] = g.b_dec - row_combination(g.d_pre, params["W_enc"], threads)
        if "W_skip" in params:
            main = np.ascontiguousarray(g.out[: len(batch.x)].T)
            vectors["W_skip"] = _kernels.matmul_nt(main, np.ascontiguousarray(batch.x.T), num_threads=threads)
        run.adam.update(params, g, batch.x, vectors, lr, unit_norm=architecture.unit_norm, num_threads=threads)
        architecture.end_of_step(params, g, batch)
    run.tokens_since_fired += len(batch.x)
    run.tokens_since_fired[g.codes.indices] = 0
    run.tokens += len(batch.x)


def row_combination(coefficients: Array, rows: Array, threads: int) -> Array:
    """coefficients (M) @ rows (M, D), in fixed blocks: the same bits for any number of threads."""
    block = 256
    starts = np.arange(0, len(rows) + block, block, dtype=np.int32).clip(max=len(rows))
    indices = np.arange(len(rows), dtype=np.int32)
    return np.asarray(_kernels.decode(starts, indices, coefficients, rows, num_threads=threads).sum(axis=0))


def _record(
    run: Run, g: Gradients, step: int, lr: float, dead_after: int, batch_size: int, phases: Phases
) -> Record:
    seconds = phases.take()
    last = run.history[-1]["tokens"] if run.history else 0
    return {
        "step": step + 1,
        "tokens": run.tokens,
        "loss": g.loss,
        **{f"loss_{name}": value for name, value in g.parts.items()},
        "fvu": float(g.squared.mean(dtype=np.float64)) / run.variance if run.variance > 0 else 0.0,
        "l0": len(g.codes.indices) / len(g.squared),
        "dead_fraction": float((run.tokens_since_fired >= dead_after).mean()),
        "lr": lr,
        "tokens_per_second": (run.tokens - last) / max(sum(seconds.values()), 1e-9),
        "seconds": {name: round(value, 6) for name, value in seconds.items()},
    }


def _advice(step: int, lr: float, directory: Path | None) -> str:
    kept = f"; the last good checkpoint is in {directory}" if directory and checkpoint.exists(directory) else ""
    return (
        f"loss is NaN or infinite at step {step + 1}{kept}. Lower lr (now {lr:g}), set clip_norm=1, or leave out rows "
        "of extreme norm (massive activations)"
    )


def _checkpoint(directory: Path, run: Run, settings: dict[str, Any]) -> None:
    groups = {
        "param": run.params, "m": run.adam.m, "v": run.adam.v, "counter": {"since_fired": run.tokens_since_fired},
        "transform_in": run.transforms[0].arrays, "transform_out": run.transforms[1].arrays,
    }  # fmt: skip
    state = {
        "settings": settings, "tokens": run.tokens, "adam_step": run.adam.step, "variance": run.variance,
        "power": run.power, "transforms": [t.kind for t in run.transforms], "history": run.history,
    }  # fmt: skip
    checkpoint.save(directory, groups, state)
    with atomic_write(directory / HISTORY) as file:
        file.writelines((json.dumps(record) + "\n").encode() for record in run.history)


def _resumed(directory: Path, settings: dict[str, Any], adam: Adam) -> Run:
    groups, state = checkpoint.load(directory)
    changed = [key for key, value in settings.items() if state["settings"].get(key) != json.loads(json.dumps(value))]
    if changed:
        was = ", ".join(f"{key}={state['settings'].get(key)!r}" for key in changed)
        raise ValueError(f"resume: the run in {directory} had {was}; pass the same, or another out")
    adam.m, adam.v, adam.step = groups["m"], groups["v"], state["adam_step"]
    kinds = state["transforms"]
    transforms = (
        Transform(kinds[0], groups.get("transform_in", {})),
        Transform(kinds[1], groups.get("transform_out", {})),
    )
    return Run(
        groups["param"], adam, groups["counter"]["since_fired"], transforms, state["variance"], state["power"],
        state["tokens"], state["history"],
    )  # fmt: skip


def finished(
    run: Run, architecture: Architecture, coder: Coder, widths: tuple[int, ...], metadata: dict[str, Any]
) -> SAE:
    """The SAE of a run, in raw units: transforms folded, decoder rows at unit norm if the training kept them so."""
    params = {name: value.copy() for name, value in run.params.items()}
    kept = Transform()
    inputs, outputs = run.transforms
    if inputs.folds:
        inputs.fold(params, encoder=True, decoder=coder.reads_all, centered=coder.reads_all)
        if not coder.reads_all:
            outputs.fold(params, encoder=False, decoder=True, centered=False)
        if architecture.unit_norm and outputs.kind == "scale" and coder.kind != "crosscoder":
            _unit_codes(params, architecture, float(outputs.arrays["scale"][0]))
    else:
        kept = inputs
    used, params = architecture.trained(params)
    return SAE(
        params, used, apply_b_dec_to_input=coder.reads_all, transform=kept, sources=coder.sources(widths),
        metadata=metadata,
    )  # fmt: skip


def _unit_codes(params: dict[str, Array], architecture: Architecture, scale: float) -> None:
    """Give codes the units of the data, and decoder rows unit norm again, after folding a common scale."""
    params["W_dec"] *= params["W_dec"].dtype.type(scale)
    params["W_enc"] /= params["W_enc"].dtype.type(scale)
    params["b_enc"] /= params["b_enc"].dtype.type(scale)
    architecture.rescale(params, 1 / scale)

