"""One training run: its state, a step, its checkpoint, the SAE it leaves."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import _kernels
from .._io.arrays import Array
from .._io.atomic import atomic_write
from ..architectures import Architecture, Batch, Gradients
from ..coders import Coder
from ..sae import SAE
from ..transforms import Transform
from . import checkpoint
from .checkpoint import HISTORY
from .config import Options
from .optim import Adam, initial_params
from .phases import Phases
from .progress import Record


class TrainingDiverged(RuntimeError):
    """The loss or a parameter became NaN or infinite; the run's directory holds the last good checkpoint, if any."""


@dataclass
class Run:
    """The state of a run.

    Attributes:
        params, adam, tokens_since_fired, transforms, tokens, history: what changes, or was estimated at the start,
            and is in a checkpoint.
        variance: mean squared norm of the targets around their mean, for FVU.
        power: mean squared norm of the targets around b_dec, by which losses are divided.
        data: checksum of some rows of the data, which a resumed run must find again.
    """

    architecture: Architecture
    coder: Coder
    options: Options
    widths: tuple[int, ...]
    threads: int
    params: dict[str, Array]
    adam: Adam
    tokens_since_fired: Array
    transforms: tuple[Transform, Transform]
    variance: float
    power: float
    tokens: int = 0
    history: list[Record] = field(default_factory=list)
    phases: Phases = field(default_factory=Phases)
    counts: dict[str, int] = field(default_factory=dict)
    data: str = ""

    @classmethod
    def start(
        cls, sample: Array, architecture: Architecture, coder: Coder, options: Options, widths: tuple[int, ...],
        threads: int, transforms: tuple[Transform, Transform] | None = None,
    ) -> Run:  # fmt: skip
        """A new run; the sample (n, Σ widths) decides on transforms and b_dec."""
        sample = sample.astype(options.dtype)
        transforms = transforms or coder.fit_transforms(options.normalize, sample, widths)
        x, y = coder.split(sample, widths)
        x = transforms[0].apply(x)[0]
        y = transforms[1].apply(y)[0] if not coder.reads_all else x
        rng = np.random.default_rng([options.seed, 0])
        params = initial_params(
            x, y, options.d_sae, rng, tied=coder.reads_all, b_dec=options.b_dec_init, skip=coder.skip
        )
        architecture.init(params, x - params["b_dec"] if coder.reads_all else x)
        adam = Adam(options.betas, options.eps, options.clip_norm)
        adam.attach(params)
        y64 = y.astype(np.float64)
        return cls(
            architecture, coder, options, widths, threads, params, adam, np.zeros(options.d_sae, np.int64), transforms,
            variance=float(y64.var(axis=0).sum()),
            power=max(float(((y64 - params["b_dec"]) ** 2).sum(axis=1).mean()), 1e-30),
        )  # fmt: skip

    @property
    def steps_done(self) -> int:
        """Steps made so far."""
        return self.tokens // self.options.batch_size

    def transformed(self, rows: Array) -> tuple[Array, Array]:
        """Inputs and targets, as the weights see them, of rows as the source gives them."""
        x, y = self.coder.split(rows.astype(self.options.dtype, copy=False), self.widths)
        x_new = self.transforms[0].apply(x)[0]
        return x_new, x_new if self.coder.reads_all else self.transforms[1].apply(y)[0]

    def batch(self, x: Array, y: Array) -> Batch:
        """What the architecture sees of transformed rows."""
        y = y - self.params["b_dec"]
        if self.coder.reads_all:
            x = y
        elif "W_skip" in self.params:
            y = y - _kernels.matmul_nt(x, self.params["W_skip"], num_threads=self.threads)
        return Batch(
            x, y, self.power, self.tokens_since_fired >= self.options.dead_after, self.steps_done / self.options.steps,
            self.threads, self.coder.sources(self.widths),
        )  # fmt: skip

    def gradients(self, batch: Batch) -> tuple[Gradients, dict[str, Array]]:
        """Of one batch; and those of all parameters but W_enc and W_dec, by name."""
        g = self.architecture.step(self.params, batch)
        vectors = {"b_enc": g.d_pre, "b_dec": g.output.sum(axis=0), **g.vectors}
        if self.coder.reads_all:
            vectors["b_dec"] = vectors["b_dec"] - row_combination(g.d_pre, self.params["W_enc"], self.threads)
        if "W_skip" in self.params:
            vectors["W_skip"] = _kernels.matmul_nt(
                np.ascontiguousarray(g.output.T), np.ascontiguousarray(batch.x.T), num_threads=self.threads
            )
        return g, vectors

    def step(self, x: Array, y: Array) -> Gradients:
        """Train on one batch of transformed rows.

        Raises:
            TrainingDiverged: the loss is not finite; nothing was changed.
        """
        options = self.options
        with self.phases("forward and backward"):
            batch = self.batch(x, y)
            g, vectors = self.gradients(batch)
            self.counts = dict(batch.counts)
        if not math.isfinite(g.loss):
            raise TrainingDiverged(f"loss is {g.loss} at step {self.steps_done + 1}")
        with self.phases("gradients and Adam"):
            lr = options.plan.at(self.steps_done, options.steps)
            self.adam.update(
                self.params, g, batch.x, vectors, lr, unit_norm=self.architecture.unit_norm, num_threads=self.threads,
                sources=batch.sources,
            )  # fmt: skip
            self.architecture.end_of_step(self.params, g, batch)
        self.tokens_since_fired += len(batch.x)
        self.tokens_since_fired[g.codes.indices] = 0
        self.tokens += len(batch.x)
        return g

    def losses(self, rows: Array) -> tuple[Array, Array, Array]:
        """Centred inputs, targets less b_dec and skip, and squared errors (n,) of rows as the source gives them."""
        batch = self.batch(*self.transformed(rows))
        codes = self.architecture.encode(self.params, batch.x, None, num_threads=self.threads)
        squared = _kernels.decode_residual(*codes, self.params["W_dec"], batch.y, num_threads=self.threads)[2]
        return batch.x, batch.y, squared

    def record(self, g: Gradients, seconds_reading: float) -> Record:
        """What the history holds of the last step."""
        seconds = {"data": seconds_reading, **self.phases.take()}
        last = self.history[-1]["tokens"] if self.history else 0
        record = {
            "step": self.steps_done,
            "tokens": self.tokens,
            "loss": g.loss,
            **{f"loss_{name}": value for name, value in g.parts.items()},
            "fvu": float(g.squared.mean(dtype=np.float64)) / self.variance if self.variance > 0 else 0.0,
            "l0": len(g.codes.indices) / len(g.squared),
            "dead_fraction": float((self.tokens_since_fired >= self.options.dead_after).mean()),
            **self.counts,
            "lr": self.options.plan.at(self.steps_done - 1, self.options.steps),
            "tokens_per_second": (self.tokens - last) / max(sum(seconds.values()), 1e-9),
            "seconds": {name: round(value, 6) for name, value in seconds.items()},
        }
        self.history.append(record)
        return record

    def check_finite(self) -> None:
        """Raise TrainingDiverged where a parameter is not finite: it must not replace a good checkpoint."""
        bad = [name for name, value in self.params.items() if not np.isfinite(value).all()]
        if bad:
            raise TrainingDiverged(f"{', '.join(bad)} not finite at step {self.steps_done}")

    def save(self, directory: Path) -> None:
        """Write a checkpoint and the history, unless a parameter is not finite."""
        self.check_finite()
        groups = {
            "param": self.params, "m": self.adam.m, "v": self.adam.v,
            "counter": {"since_fired": self.tokens_since_fired},
            "transform_in": self.transforms[0].arrays, "transform_out": self.transforms[1].arrays,
        }  # fmt: skip
        state = {
            "settings": self.settings(), "tokens": self.tokens, "adam_step": self.adam.step, "variance": self.variance,
            "power": self.power, "transforms": [t.kind for t in self.transforms], "history": self.history,
            "data": self.data,
        }  # fmt: skip
        checkpoint.save(directory, groups, state)
        self.write_history(directory)

    def write_history(self, directory: Path) -> None:
        """Write history.jsonl anew: records after the checkpoint that a killed run has left there are dropped."""
        with atomic_write(directory / HISTORY) as file:
            file.writelines((json.dumps(record) + "\n").encode() for record in self.history)

    def settings(self) -> dict[str, Any]:
        """All that decides on the result, as JSON values."""
        return {
            "architecture": self.architecture.config(), "coder": self.coder.config(), "widths": list(self.widths),
            **self.options.settings(),
        }  # fmt: skip

    @classmethod
    def resume(
        cls, directory: Path, architecture: Architecture, coder: Coder, options: Options, widths: tuple[int, ...],
        threads: int, data: str,
    ) -> Run:  # fmt: skip
        """The run whose checkpoint is in a directory; data: `fingerprint` of what it is to go on with.

        Raises:
            FileNotFoundError: there is none. ValueError: it had other settings, which are named.
        """
        groups, state = checkpoint.load(directory)
        kinds = state["transforms"]
        transforms = (
            Transform(kinds[0], groups.get("transform_in", {})),
            Transform(kinds[1], groups.get("transform_out", {})),
        )
        adam = Adam(
            options.betas, options.eps, options.clip_norm, groups["m"], groups["v"], state["adam_step"]
        )
        run = cls(
            architecture, coder, options, widths, threads, groups["param"], adam, groups["counter"]["since_fired"],
            transforms, state["variance"], state["power"], state["tokens"], state["history"],
        )  # fmt: skip
        now, was = json.loads(json.dumps(run.settings())), state["settings"]
        changed = ", ".join(f"{key}={was.get(key)!r}" for key in now if was.get(key) != now[key])
        if changed:
            raise ValueError(f"resume: the run in {directory} had {changed}; pass the same, or another out")
        file = directory / checkpoint.NAME
        if state["data"] != data:
            raise ValueError(
                f"data: other rows than those the run in {directory} was trained on; pass the same data, or another out"
            )
        run.data = data
        run.check_against(file)
        return run

    def check_against(self, file: Path) -> None:
        """Raise a ValueError unless what was read from a checkpoint is of this run's names, shapes and counts."""
        for group, arrays in (("m", self.adam.m), ("v", self.adam.v)):
            shapes = {name: a.shape for name, a in arrays.items()}
            if shapes != {name: a.shape for name, a in self.params.items()}:
                raise ValueError(
                    f"resume: {file}: {group} holds {shapes}, expected the names and shapes of param"
                )
        d_sae = self.options.d_sae
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            if name not in self.params or (name != "b_dec" and len(self.params[name]) != d_sae):
                raise ValueError(f"resume: {file}: param.{name} is missing or not of d_sae = {d_sae} latents")
        if self.tokens_since_fired.shape != (d_sae,):
            raise ValueError(
                f"resume: {file}: counter.since_fired has shape {self.tokens_since_fired.shape}, expected ({d_sae},)"
            )
        if self.adam.step != self.steps_done or self.tokens != self.steps_done * self.options.batch_size:
            raise ValueError(
                f"resume: {file}: {self.adam.step} updates and {self.tokens} tokens, expected as many updates as "
                f"batches of {self.options.batch_size}; the file was changed"
            )

    def finished(self, metadata: dict[str, Any]) -> SAE:
        """The SAE of this run, in raw units: transforms folded where they can be, decoder rows at unit norm where
        that changes nothing.
        """
        self.check_finite()
        params = {name: value.copy() for name, value in self.params.items()}
        coder, (inputs, outputs) = self.coder, self.transforms
        if inputs.folds:
            inputs.fold(params, encoder=True, decoder=coder.reads_all, centered=coder.reads_all)
            if not coder.reads_all:
                outputs.fold(params, encoder=False, decoder=True, centered=False)
            if coder.kind != "crosscoder":
                _unit_rows(
                    params,
                    self.architecture,
                    self.architecture.unit_norm and outputs.kind in ("none", "scale"),
                )
        used, params = self.architecture.trained(params)
        if used != self.architecture:
            metadata = {"trained_as": self.architecture.config(), **metadata}
        return SAE.from_rows(
            params, used, kind=coder.kind, apply_b_dec_to_input=coder.reads_all,
            transform=Transform() if inputs.folds else inputs, sources=coder.sources(self.widths), metadata=metadata,
        )  # fmt: skip


def _unit_rows(params: dict[str, Array], architecture: Architecture, equal: bool) -> None:
    """Give decoder rows unit norm, and codes the units of the data; equal: all rows have the same norm.

    Where latents compete for a place, they may only be scaled all alike.
    """
    norms = np.linalg.norm(params["W_dec"].astype(np.float64), axis=1)
    if (architecture.competes and not equal) or np.allclose(norms, 1, atol=1e-5):
        return
    factor = np.full_like(norms, norms.mean()) if equal else np.where(norms > 0, norms, 1)
    factor = factor.astype(params["W_dec"].dtype)
    params["W_dec"] /= factor[:, None]
    params["W_enc"] *= factor[:, None]
    params["b_enc"] *= factor
    architecture.rescale(params, factor)


def row_combination(coefficients: Array, rows: Array, threads: int) -> Array:
    """coefficients (M) @ rows (M, D), in fixed blocks: the same bits for any number of threads."""
    block = 256
    starts = np.arange(0, len(rows) + block, block, dtype=np.int32).clip(max=len(rows))
    indices = np.arange(len(rows), dtype=np.int32)
    return np.asarray(_kernels.decode(starts, indices, coefficients, rows, num_threads=threads).sum(axis=0))
