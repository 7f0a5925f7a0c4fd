"""What a run was asked for, in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._arguments import normalise_numbers, real, whole
from .optim import Schedule, default_lr
from .resampling import Resampling

_CHOICES = {
    "schedule": ("linear", "cosine", "constant"),
    "normalize": ("scale", "none", "whiten", "token_norm", "layer_norm"),
    "b_dec_init": ("geometric_median", "mean", "zero"),
    "dtype": ("float32", "float64"),
}


@dataclass(frozen=True)
class Options:
    """What `train` was asked for, defaults filled in. See there."""

    d_sae: int
    n_tokens: int
    batch_size: int
    seed: int = 0
    lr: float | None = None
    schedule: str = "linear"
    warmup: float = 0.05
    decay: float = 0.2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 6.25e-10
    clip_norm: float = 0.0
    normalize: str = "scale"
    b_dec_init: str = "geometric_median"
    dead_after: int | None = None
    resampling: Resampling | None = None
    dtype: str = "float32"
    log_every: int = 10

    def __post_init__(self) -> None:
        normalise_numbers(self)
        for name in ("d_sae", "n_tokens", "batch_size", "log_every"):
            whole(name, getattr(self, name), least=1)
        whole("seed", self.seed, least=0)
        if self.dead_after is None:
            # A tenth of the run, and at least one batch: a latent that no batch has met is not dead yet.
            object.__setattr__(self, "dead_after", min(10_000_000, max(self.n_tokens // 10, self.batch_size)))
        whole("dead_after", self.dead_after, least=1)
        if self.lr is not None:
            real("lr", self.lr, above=0)
        real("eps", self.eps, above=0)
        real("clip_norm", self.clip_norm, least=0)
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise TypeError(f"betas: got {self.betas!r}, expected two numbers, such as (0.9, 0.999)")
        betas = tuple(real("betas", beta, least=0) for beta in self.betas)
        if max(betas) >= 1:
            raise ValueError(f"betas: got {self.betas}, expected two numbers from 0, below 1")
        object.__setattr__(self, "betas", betas)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        if self.resampling is not None and not isinstance(self.resampling, Resampling):
            raise TypeError(f"resampling: got {self.resampling!r}, expected a Resampling or None")
        _ = self.plan  # checks warmup and decay

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.n_tokens // self.batch_size

    @property
    def plan(self) -> Schedule:
        """The learning rate of every step."""
        lr = default_lr(self.d_sae, self.steps) if self.lr is None else self.lr
        return Schedule(lr, self.warmup, self.decay, self.schedule)

    def settings(self) -> dict[str, Any]:
        """As JSON values; a resumed run must have the same."""
        values = {name: value for name, value in vars(self).items() if name != "log_every"}
        resampling = self.resampling.config() if self.resampling else None
        return {**values, "lr": self.plan.lr, "betas": list(self.betas), "resampling": resampling}
