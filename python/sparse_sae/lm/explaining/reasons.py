"""Why did the model say this? The answer in one line, with the runs that confirm it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparse_sae.lm.explaining.attribution import explain
from sparse_sae.lm.explaining.explanation import Effect
from sparse_sae.lm.explaining.labels import LatentLabel, common, label_latents
from sparse_sae.lm.explaining.passes import Subject, subject
from sparse_sae.lm.explaining.targets import Target
from sparse_sae.lm.model.engine import Point
from sparse_sae.lm.model.prompts import Model, Prompt

if TYPE_CHECKING:
    from sparse_sae.data.store import ActivationStore


@dataclass(frozen=True)
class Reason:
    """The latents that made a model say something, and how sure that is; prints as sentences.

    Effects are differences of the target between runs of the model: unedited minus edited, so that what is positive
    spoke for the answer. They do not add up, as the model is not linear.

    Attributes:
        target: what was measured, in words; value: on the unedited model.
        hook: where.
        latents: the responsible ones, largest effect first; empty if none of those ablated spoke for the answer.
        effects: effect of ablating each of `latents` alone.
        together: effect of ablating them all at once.
        random_latents: effects of ablating as many other active latents, chosen at random, once each.
        random_directions: effects of random changes of the same norm at each position as the joint ablation.
        all_latents: effect of ablating every latent at the positions looked at.
        outside: effect of removing what the SAE does not reconstruct, which no latent can answer for.
        ablated: how many latents were ablated one by one to find these.
    """

    target: str
    value: float
    hook: str
    latents: tuple[LatentLabel, ...]
    effects: tuple[float, ...]
    together: float
    random_latents: tuple[float, ...]
    random_directions: tuple[float, ...]
    all_latents: float
    outside: float
    ablated: int

    @property
    def confirmed(self) -> bool:
        """Whether removing the latents costs the answer more than every control does; there must be five."""
        controls = (*self.random_latents, *self.random_directions)
        return bool(self.latents) and len(controls) >= 5 and self.together > max(0.0, *controls)

    @property
    def p(self) -> float:
        """Permutation p: the share of controls, and the latents themselves, whose effect is as large as theirs."""
        controls = (*self.random_latents, *self.random_directions)
        return (1 + sum(effect >= self.together for effect in controls)) / (1 + len(controls))

    @property
    def share_outside(self) -> float:
        """|outside| / (|outside| + |all_latents|): how much of the answer lies outside the dictionary."""
        whole = abs(self.outside) + abs(self.all_latents)
        return abs(self.outside) / whole if whole else 0.0

    def line(self) -> str:
        """One line: which feature, how large, confirmed or not, how much it leaves open."""
        if not self.latents:
            return (
                f"{self.target}: no latent at {self.hook} speaks for it ({self.ablated} ablated one by one); "
                f"{self.share_outside:.0%} of the effect lies outside the dictionary."
            )
        n = len(self.latents)
        joint = f", without {n} latents together by {self.together:.3f}" if n > 1 else ""
        controls = (*self.random_latents, *self.random_directions)
        verdict = "confirmed" if self.confirmed else "NOT confirmed"
        beside = "no controls"
        if controls:
            beside = f"{len(controls)} controls {min(controls):+.3f} … {max(controls):+.3f}, p = {self.p:.2g}"
        return (
            f"{self.target} = {self.value:.3f}; without {self.latents[0]} it falls by {self.effects[0]:.3f}{joint}: "
            f"{verdict} ({beside}); {self.share_outside:.0%} of the effect lies outside the dictionary."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values, with the line and the verdict."""
        derived = {"line": self.line(), "confirmed": self.confirmed, "p": self.p}
        return {**asdict(self), **derived, "share_outside": self.share_outside}

    def __str__(self) -> str:
        lines = [self.line()]
        for label, effect in zip(self.latents, self.effects, strict=True):
            lines.append(f"  {effect:+.4f}  {label}")
            lines += [f"           {context}" for context in label.contexts[:3]]
        lines.append(
            f"  {self.all_latents:+.4f}  all latents; {self.outside:+.4f}  what the SAE does not reconstruct"
        )
        return "\n".join(lines)


def why(
    model: Model,
    sae: Any,
    prompt: Prompt,
    answer: Target,
    *,
    store: ActivationStore | None = None,
    names: Mapping[int, str] | None = None,
    top: int = 3,
    candidates: int = 20,
    controls: int = 20,
    positions: Literal["all", "prompt"] | Sequence[int] = "all",
    hook: str | Point | None = None,
    tokenizer: Any = None,
    batch_size: int = 8,
    seed: int = 0,
) -> Reason:
    """Which features made the model give this answer, in words and numbers.

    The latents with the largest first-order estimate are ablated one by one (`explain`); those whose ablation makes
    the answer less likely are the responsible ones. They are then ablated together, beside controls: as many other
    active latents, and random directions of the same norm at the same positions. As the responsible latents were chosen
    by their effect, the controls of the same norm are the ones that count; and one prompt says nothing of others. What
    the SAE does not reconstruct is measured beside.

    Args:
        model: a `LanguageModel` or a transformers causal model.
        sae: an SAE on the activations of `hook`.
        prompt: text, token ids or chat messages.
        answer: what it said, as text; or another target of `explain`, such as ("No", "Yes").
        store: activations at the hook point, to say where latents fire; None: where they do in the prompt.
        names: latent -> a name known beforehand.
        top: responsible latents named at most.
        candidates: latents ablated one by one.
        controls: random sets of latents, and as many random directions.
        positions, hook, tokenizer, batch_size: as for `explain`.
        seed: of the controls.

    Returns:
        A `Reason`: `print(reason)`, `reason.line()`, `reason.confirmed`.

    Raises:
        ValueError: as `explain`, or top, candidates or controls below 1.

    >>> print(why(lm, sae, chat, "Unfortunately, refunds are not available.", store=store))  # doctest: +SKIP
    """
    for name, given in (("top", top), ("candidates", candidates), ("controls", controls)):
        if given < 1:
            raise ValueError(f"{name}: got {given}, expected at least 1")
    shared: dict[str, Any] = {"positions": positions, "hook": hook, "tokenizer": tokenizer}
    found = explain(model, sae, prompt, answer, top=candidates, batch_size=batch_size, **shared)
    tried = [effect for effect in found.effects if effect.ablation is not None]
    chosen = sorted((e for e in tried if (e.ablation or 0) > 0), key=lambda e: -(e.ablation or 0))[:top]
    read = subject(model, sae, prompt, answer, **shared)
    latents = [effect.latent for effect in chosen]
    rng = np.random.default_rng(seed)
    sets = _other_latents(read, latents, controls, rng) if chosen else []
    directions = _random_directions(read.without(latents), controls, rng) if chosen else []
    changes = [read.without(), read.without_error(), read.without(latents)]
    changes += [*(read.without(others) for others in sets), *directions]
    effects = read.passes.ablations(changes, batch_size).tolist()
    labels = label_latents(model, sae, latents, store=store, names=dict(names or {}), tokenizer=tokenizer)
    return Reason(
        target=found.target,
        value=found.value,
        hook=found.hook,
        latents=tuple(_placed(label, e) for label, e in zip(labels, chosen, strict=True)),
        effects=tuple(float(effect.ablation or 0.0) for effect in chosen),
        together=effects[2] if chosen else 0.0,
        random_latents=tuple(effects[3 : 3 + len(sets)]),
        random_directions=tuple(effects[3 + len(sets) :]),
        all_latents=effects[0],
        outside=effects[1],
        ablated=len(tried),
    )


def _placed(label: LatentLabel, effect: Effect) -> LatentLabel:
    """Where nothing else says where a latent fires, the prompt does."""
    if label.fires_on:
        return label
    tokens = [place.token for place in sorted(effect.places, key=lambda place: -place.activation)]
    return LatentLabel(label.latent, label.name, common(tokens), label.promotes, label.contexts)


def _other_latents(read: Subject, latents: list[int], n: int, rng: np.random.Generator) -> list[list[int]]:
    others = np.setdiff1d(np.unique(read.codes.indices), latents)
    size = min(len(latents), len(others))
    return [sorted(rng.choice(others, size, replace=False).tolist()) for _ in range(n)] if size else []


def _random_directions(
    change: NDArray[np.float32], n: int, rng: np.random.Generator
) -> list[NDArray[np.float32]]:
    norms = np.linalg.norm(change, axis=1, keepdims=True)
    unit = rng.standard_normal((n, *change.shape), dtype=np.float32)
    return list(unit / np.linalg.norm(unit, axis=2, keepdims=True) * norms)
