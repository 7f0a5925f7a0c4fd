"""One training run: its state, a step, its checkpoint, the SAE it leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae import _kernels
from sparse_sae._io.arrays import Array
from sparse_sae.architectures import Architecture, Batch, Gradients
from sparse_sae.architectures.products import row_combination
from sparse_sae.coders import Coder
from sparse_sae.data.base import Source, first_rows
from sparse_sae.sae import SAE
from sparse_sae.training import checkpoint
from sparse_sae.training.config import TrainConfig
from sparse_sae.training.finishing import finished
from sparse_sae.training.optim import Adam, initial_params
from sparse_sae.training.phases import Phases
from sparse_sae.training.progress import Record
from sparse_sae.training.resampling import draw_by_loss, revive
from sparse_sae.training.resume import check_contents, check_same_run, earlier_config
from sparse_sae.transforms import Transform


class TrainingDiverged(RuntimeError):
    """The loss or a parameter became NaN or infinite; the run's directory holds the last good checkpoint, if any."""


@dataclass
class Run:
    """The state of a run.

    Attributes:
        config: what was asked for, defaults filled in.
        widths: of the parts of a row.
        params, adam, tokens_since_fired, transforms, tokens, history: what changes, or was estimated at the start,
            and is in a checkpoint.
        variance: mean squared norm of the targets around their mean, for FVU.
        power: mean squared norm of the targets around b_dec, by which losses are divided.
        data: checksum of some rows of the data, which a resumed run must find again.
    """

    config: TrainConfig
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
        cls,
        sample: Array,
        config: TrainConfig,
        widths: tuple[int, ...],
        threads: int,
        transforms: tuple[Transform, Transform] | None = None,
    ) -> Run:
        """Start a run; the sample (n, Σ widths) decides on transforms and b_dec."""
        config = config.filled()
        architecture, coder = config.architecture, config.coder
        sample = sample.astype(config.dtype)
        transforms = transforms or coder.fit_transforms(config.normalize, sample, widths)
        x, y = coder.split(sample, widths)
        x = transforms[0].apply(x)[0]
        y = transforms[1].apply(y)[0] if not coder.reads_all else x
        rng = np.random.default_rng([config.seed, 0])
        params = initial_params(
            x, y, config.d_sae, rng, tied=coder.reads_all, b_dec=config.b_dec_init, skip=coder.skip
        )
        architecture.init(params, x - params["b_dec"] if coder.reads_all else x)
        adam = Adam(config.betas, config.eps, config.clip_norm)
        adam.attach(params)
        y64 = y.astype(np.float64)
        return cls(
            config,
            widths,
            threads,
            params,
            adam,
            np.zeros(config.d_sae, np.int64),
            transforms,
            variance=float(y64.var(axis=0).sum()),
            power=max(float(((y64 - params["b_dec"]) ** 2).sum(axis=1).mean()), 1e-30),
        )

    @property
    def architecture(self) -> Architecture:
        """The architecture that is trained."""
        return self.config.architecture

    @property
    def coder(self) -> Coder:
        """What is read and written."""
        return self.config.coder

    @property
    def dead(self) -> Array:
        """(d_sae,) whether each latent has not fired for `dead_after` rows."""
        result: Array = self.tokens_since_fired >= self.config.dead_after
        return result

    @property
    def steps_done(self) -> int:
        """Steps made so far."""
        return self.tokens // self.config.rows

    def transformed(self, rows: Array) -> tuple[Array, Array]:
        """Inputs and targets, as the weights see them, of rows as the source gives them."""
        x, y = self.coder.split(rows.astype(self.config.dtype, copy=False), self.widths)
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
            x,
            y,
            self.power,
            self.dead,
            self.steps_done / self.config.steps,
            self.threads,
            self.coder.sources(self.widths),
        )

    def gradients(self, batch: Batch) -> tuple[Gradients, dict[str, Array]]:
        """The gradients of one batch, and by name those of all parameters but W_enc and W_dec."""
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
        config = self.config
        with self.phases("forward and backward"):
            batch = self.batch(x, y)
            g, vectors = self.gradients(batch)
            self.counts = dict(batch.counts)
        if not math.isfinite(g.loss):
            raise TrainingDiverged(f"loss is {g.loss} at step {self.steps_done + 1}")
        with self.phases("gradients and Adam"):
            lr = config.plan.at(self.steps_done, config.steps)
            self.adam.update(
                self.params,
                g,
                batch.x,
                vectors,
                lr,
                unit_norm=self.architecture.unit_norm,
                num_threads=self.threads,
                sources=batch.sources,
            )
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
            "dead_fraction": float(self.dead.mean()),
            **self.counts,
            "lr": self.config.plan.at(self.steps_done - 1, self.config.steps),
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

    def resample(self, source: Source, occasion: int) -> int:
        """Resample dead latents, in place, on rows that the source gives; returns how many."""
        config, how = self.config, self.config.resampling
        dead = np.flatnonzero(self.dead)
        if how is None or not len(dead):
            return 0
        rng = np.random.default_rng([config.seed, 2, occasion])
        limit = max(min(how.rows, config.n_tokens // 20), 4 * len(dead))
        rows = first_rows(source.blocks(config.seed + 1 + occasion, 0), limit)
        x, y, mean = draw_by_loss(map(self.losses, rows), len(dead), rng)
        dead = dead[: len(x)]
        center = np.zeros(x.shape[1]) if self.coder.reads_all else mean
        revive(self.params, dead, x, y, center, how.encoder_scale, self.architecture.unit_norm)
        self.architecture.revive(self.params, dead)
        self.adam.forget(dead)
        self.tokens_since_fired[dead] = 0
        return len(dead)

    def save(self, directory: Path) -> None:
        """Write a checkpoint and the history, unless a parameter is not finite."""
        self.check_finite()
        groups = {
            "param": self.params,
            "m": self.adam.m,
            "v": self.adam.v,
            "counter": {"since_fired": self.tokens_since_fired},
            "transform_in": self.transforms[0].arrays,
            "transform_out": self.transforms[1].arrays,
        }
        state = {
            "config": self.config.to_dict(),
            "widths": list(self.widths),
            "tokens": self.tokens,
            "adam_step": self.adam.step,
            "variance": self.variance,
            "power": self.power,
            "transforms": [t.kind for t in self.transforms],
            "history": self.history,
            "data": self.data,
        }
        checkpoint.save(directory, groups, state)
        checkpoint.write_history(directory, self.history)

    @classmethod
    def resume(
        cls, directory: Path, config: TrainConfig, widths: tuple[int, ...], threads: int, data: str
    ) -> Run:
        """The run whose checkpoint is in a directory; data: `fingerprint` of what it is to go on with.

        Raises:
            FileNotFoundError: there is none. ValueError: it had other settings or data, which are named, or the file is
                damaged.
        """
        groups, state = checkpoint.load(directory)
        was = earlier_config(directory, state)
        config = config.filled(was)
        check_same_run(directory, state, was, config, widths, data)
        check_contents(directory / checkpoint.NAME, groups, state, was, widths)
        seen, given = (
            Transform(config.normalize, groups.get(f"transform_{side}", {})) for side in ("in", "out")
        )
        adam = Adam(config.betas, config.eps, config.clip_norm, groups["m"], groups["v"], state["adam_step"])
        return cls(
            config,
            widths,
            threads,
            groups["param"],
            adam,
            groups["counter"]["since_fired"],
            (seen, given),
            state["variance"],
            state["power"],
            state["tokens"],
            state["history"],
            data=data,
        )

    def finished(self, metadata: dict[str, Any]) -> SAE:
        """The SAE of this run, in raw units; what it was trained with is in its metadata, as `train_config`."""
        self.check_finite()
        return finished(self.params, self.config, self.widths, self.transforms, metadata)
