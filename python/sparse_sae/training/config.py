"""What a run was asked for, in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .optim import Schedule, default_lr
from .resampling import Resampling


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
    dead_after: int = 0
    resampling: Resampling | None = None
    dtype: str = "float32"
    log_every: int = 10

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.n_tokens // self.batch_size

    @property
    def plan(self) -> Schedule:
        """The learning rate of every step."""
        return Schedule(self.lr or default_lr(self.d_sae, self.steps), self.warmup, self.decay, self.schedule)

    def settings(self) -> dict[str, Any]:
        """As JSON values; a resumed run must have the same."""
        values = {name: value for name, value in vars(self).items() if name != "log_every"}
        resampling = self.resampling.config() if self.resampling else None
        return {**values, "lr": self.plan.lr, "betas": list(self.betas), "resampling": resampling}
