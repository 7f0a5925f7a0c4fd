"""What a run is asked for: every default and every check, in one frozen object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from sparse_sae._arguments import as_json, conform, known_names, require
from sparse_sae._io.values import read_values
from sparse_sae.activations import Activation
from sparse_sae.architectures import Architecture, from_config
from sparse_sae.coders import Coder
from sparse_sae.training.optim import Center, Decay, Schedule, default_lr
from sparse_sae.training.resampling import Resampling
from sparse_sae.transforms import Normalize

Precision: TypeAlias = Literal["float32", "float64"]

_NO_EFFECT = ("part", "log_every", "checkpoint_every", "metadata")  # on the weights of a run with given data


@dataclass(frozen=True)
class TrainConfig:
    """What a run is asked for. `train`, `train_many`, the command line, its files and checkpoints all read this.

    None stands for a default that depends on other fields; `filled` puts it in.

    Args:
        architecture: `TopK(k=32)` or another of `sparse_sae.architectures`.
        d_sae: number of latents.
        n_tokens: rows to train on, in whole batches; data that can be read again is, in a new order every epoch.
        batch_size: rows of a step; None: 1/500 of n_tokens, between 256 and 4096, a power of two.
        seed: fixes initial weights and the order of rows.
        coder: what is read and written: "sae", "transcoder", "crosscoder" or a `Coder`.
        lr: the highest Adam rate; None: 2e-4 at 16,384 latents, higher for fewer and for short runs.
        schedule: after the warm-up, "linear" (constant, then falling to zero), "cosine" or "constant".
        warmup: share of the run over which the rate rises.
        decay: share of the run over which a "linear" rate falls.
        betas: Adam's.
        eps: Adam's.
        clip_norm: largest norm of a gradient; 0: any.
        normalize: "scale" (E|x|² = d_in, folded into the weights at the end), "none", "whiten" (folded),
            "token_norm" or "layer_norm" (kept: they depend on the token).
        b_dec_init: "geometric_median", "mean" or "zero".
        dead_after: a latent is dead when it has not fired for this many rows; None: a tenth of n_tokens, at least
            one batch and at most 10 million.
        resampling: also, or instead of an architecture's AuxK, resample dead latents; see `Resampling`.
        dtype: "float32" or "float64".
        part: of data with several parts side by side, only this one (from 0); None: all.
        checkpoint_every: steps between checkpoints, where there is a directory for them.
        log_every: steps between records of the history.
        metadata: kept with the SAE (JSON values); what a store says of its model and hook point is there without.

    Raises:
        TypeError, ValueError: a value that cannot be, named, before anything starts.

    >>> from sparse_sae import TopK
    >>> config = TrainConfig(TopK(k=4), d_sae=32, n_tokens=20_000)
    >>> config.batch_size, config.filled().batch_size, config.filled().dead_after
    (None, 256, 2000)
    >>> TrainConfig.from_dict(config.to_dict()) == config
    True
    """

    architecture: Architecture
    _: KW_ONLY
    d_sae: int
    n_tokens: int
    batch_size: int | None = None
    seed: int = 0
    coder: Coder = field(default_factory=Coder)
    lr: float | None = None
    schedule: Decay = "linear"
    warmup: float = 0.05
    decay: float = 0.2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 6.25e-10
    clip_norm: float = 0.0
    normalize: Normalize = "scale"
    b_dec_init: Center = "geometric_median"
    dead_after: int | None = None
    resampling: Resampling | None = None
    dtype: Precision = "float32"
    part: int | None = None
    checkpoint_every: int = 200
    log_every: int = 10
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        coder: Any = self.coder
        if isinstance(coder, str):
            object.__setattr__(self, "coder", Coder(coder))  # type: ignore[arg-type]
        conform(self)
        given: Any = self.architecture
        if isinstance(given, Activation):
            raise TypeError(
                f"architecture: got {given!r}, which says how an SAE encodes, expected how one is trained, "
                "for example sparse_sae.TopK(k=32)"
            )
        for name, kind, example in (
            ("architecture", Architecture, "for example TopK(k=32)"),
            ("coder", Coder, "sae, transcoder, crosscoder or a Coder"),
            ("resampling", Resampling | None, "a Resampling or None"),
            ("metadata", Mapping | None, "a dict"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name}: got {getattr(self, name)!r:.200}, expected {example}")
        for name in ("d_sae", "n_tokens", "dead_after", "checkpoint_every", "log_every"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "a whole number from 1 on")
        require(
            self.batch_size is None or 1 <= self.batch_size <= self.n_tokens,
            "batch_size",
            self.batch_size,
            f"1 to n_tokens = {self.n_tokens}, or None",
        )
        for name in ("seed", "part"):
            value = getattr(self, name)
            require(value is None or value >= 0, name, value, "a whole number from 0 on")
        require(all(0 <= b < 1 for b in self.betas), "betas", self.betas, "two numbers from 0, below 1")
        require(self.eps > 0, "eps", self.eps, "a positive number")
        require(self.clip_norm >= 0, "clip_norm", self.clip_norm, "a largest norm, or 0 for any")
        _ = self.plan  # has checks of its own
        object.__setattr__(self, "metadata", as_json("metadata", self.metadata or {}))
        self.architecture.check(self.d_sae)

    def filled(self, earlier: TrainConfig | None = None) -> TrainConfig:
        """The same with every None filled in: with what an earlier run that is resumed had, or by the defaults."""
        if earlier is not None:
            known = {name: getattr(earlier, name) for name in ("batch_size", "lr", "dead_after")}
            return replace(self, **{k: v for k, v in known.items() if getattr(self, k) is None})
        dead = min(10_000_000, max(self.n_tokens // 10, self.rows))
        return replace(self, batch_size=self.rows, lr=self.plan.lr, dead_after=self.dead_after or dead)

    @property
    def rows(self) -> int:
        """Rows of a step."""
        return default_batch_size(self.n_tokens) if self.batch_size is None else self.batch_size

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.n_tokens // self.rows

    @property
    def plan(self) -> Schedule:
        """The learning rate of every step."""
        lr = default_lr(self.d_sae, self.steps) if self.lr is None else self.lr
        return Schedule(lr, self.warmup, self.decay, self.schedule)

    def settings(self) -> dict[str, Any]:
        """What decides on the weights, defaults filled in, as JSON values."""
        return {name: value for name, value in self.filled().to_dict().items() if name not in _NO_EFFECT}

    def to_dict(self) -> dict[str, Any]:
        """Every field as JSON values, for a file and for `from_dict`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("architecture", "coder", "resampling"):
            values[name] = None if values[name] is None else values[name].config()
        result: dict[str, Any] = as_json("config", values)
        return result

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The config that `to_dict` describes; what is left out has its default.

        Args:
            values: `architecture` is a name or a dict with `name` and hyperparameters, `coder` a kind or a dict with
                `kind` and `skip`, `resampling` a dict.

        Raises:
            TypeError: an unknown name, here or in one of the dicts, with the known one that it may stand for; a
                missing one. ValueError: as for the constructor.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"config: got {values!r:.200}, expected names and values")
        given = dict(values)
        known_names("config", given, [f.name for f in fields(cls)])
        if missing := [name for name in ("architecture", "d_sae", "n_tokens") if given.get(name) is None]:
            raise TypeError(f"config: no {', '.join(missing)}, expected since there is no default")
        if isinstance(given["architecture"], str):
            given["architecture"] = {"name": given["architecture"]}
        if isinstance(given["architecture"], Mapping):
            given["architecture"] = from_config(given["architecture"])
        for name, kind in (("coder", Coder), ("resampling", Resampling)):
            if isinstance(given.get(name), Mapping):
                known_names(name, given[name], [f.name for f in fields(kind)])
                given[name] = kind(**given[name])
        return cls(**given)

    @classmethod
    def read(cls, path: str | Path) -> TrainConfig:
        """The config in a .yaml, .yml or .json file; see `from_dict`."""
        return cls.from_dict(read_values(path))


def default_batch_size(n_tokens: int) -> int:
    """A power of two near n_tokens / 500, from 256 to 4096; fewer than 20 batches of 256 are of one size near that.

    >>> default_batch_size(60_000), default_batch_size(10_000_000), default_batch_size(1000), default_batch_size(100)
    (256, 4096, 250, 100)
    """
    if n_tokens < 20 * 256:  # what is left over would be a large part
        return n_tokens // max(1, round(n_tokens / 256))
    return min(n_tokens, int(2 ** np.clip(round(math.log2(max(1, n_tokens / 500))), 8, 12)))
