"""What `explain` returns: latents by their effect on a target, as data and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Place:
    """A latent at one position: its activation there and its estimated effect on the target."""

    position: int
    token: str
    activation: float
    estimate: float


@dataclass(frozen=True)
class Effect:
    """What one latent does to the target.

    Attributes:
        latent: its index.
        estimate: gradient × activation, summed over the positions looked at.
        ablation: target with the model unedited minus target with the latent ablated there, or None if this
            was not run for it. Positive: the latent pushes the target up.
        places: the positions at which it is active, strongest estimate first.
    """

    latent: int
    estimate: float
    ablation: float | None
    places: list[Place]


@dataclass(frozen=True)
class Explanation:
    """Latents by their effect on a target; prints as a table.

    Attributes:
        value: the target on the unedited model.
        target: what was measured, in words.
        tokens: the tokens read, prompt and continuation.
        effects: ablated latents by |ablation|, then the others by |estimate|.
        error_estimate, bias_estimate: the same first-order effect of what the SAE does not reconstruct, and
            of its b_dec, at the positions looked at; how much of the answer is not in the latents.
        agreement: Pearson correlation of estimate and ablation over the ablated latents; None for fewer than
            three.
    """

    value: float
    target: str
    method: str
    hook: str
    tokens: list[str]
    effects: list[Effect]
    error_estimate: float
    bias_estimate: float
    agreement: float | None

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings and lists, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"{self.target} = {self.value:.4f} at {self.hook}",
            f"{'latent':>8} {'ablation':>9} {'estimate':>9}  most at (position, token, activation)",
        ]
        for effect in self.effects[: max(10, sum(e.ablation is not None for e in self.effects))]:
            ablation = "-" if effect.ablation is None else f"{effect.ablation:+.4f}"
            where = ", ".join(f"{p.position} {p.token!r} {p.activation:.1f}" for p in effect.places[:3])
            lines.append(f"{effect.latent:>8} {ablation:>9} {effect.estimate:>+9.4f}  {where}")
        total = sum(effect.estimate for effect in self.effects)
        lines.append(
            f"estimates in all: latents {total:+.4f}, SAE error {self.error_estimate:+.4f}, "
            f"b_dec {self.bias_estimate:+.4f}"
        )
        if self.agreement is not None:
            lines.append(f"correlation of estimate and ablation: {self.agreement:.3f}")
        return "\n".join(lines)
