"""Dose and response: an outcome against the strength of steering, beside controls of equal norm.

That steering with a latent changes an outcome says little by itself: so may any push of that size. Each
strength is therefore also given along random directions and along other latents, every one of the same norm,
and the side effects on neutral text are measured for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_sae.lm.model.engine import Point
from sparse_sae.lm.model.pairing import hook_of
from sparse_sae.lm.model.prompts import Model, Prompt
from sparse_sae.lm.steering.interventions import steer_direction
from sparse_sae.lm.steering.positions import Positions
from sparse_sae.lm.studies.experiments import Change, Intervention, Outcome, adjusted, experiment
from sparse_sae.lm.studies.reuse import layers_below, reuse_below
from sparse_sae.lm.studies.scores import score_texts

LATENT = "latent"


@dataclass(frozen=True)
class Arm:
    """Everything measured along one direction.

    Attributes:
        name: "latent", "random direction 0", …, "latent 812" (a random one).
        kind: "latent", "random direction" or "random latent".
        changes: strength -> outcome -> `Change` against no steering.
        perplexity, kl: strength -> perplexity of the neutral texts, and KL(unsteered ‖ steered) there in nats
            a token; empty without neutral texts.
    """

    name: str
    kind: str
    changes: dict[float, dict[str, Change]]
    perplexity: dict[float, float] = field(default_factory=dict)
    kl: dict[float, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DoseResponse:
    """Response of each outcome to each strength, for the latent and its controls; prints as a table.

    Attributes:
        latents: what was steered.
        strengths: multiples of the latents' decoder rows added, ascending.
        norm: norm of what strength 1 adds.
        arms: the latent first, then the controls.
        perplexity: of the neutral texts without steering, or None.
    """

    latents: list[int]
    strengths: list[float]
    norm: float
    hook: str
    arms: list[Arm]
    perplexity: float | None
    confidence: float

    @property
    def outcomes(self) -> list[str]:
        """Names of the outcomes tested."""
        return list(self.arms[0].changes[self.strengths[0]])

    def control_changes(self, outcome: str, strength: float, kind: str | None = None) -> NDArray[np.float64]:
        """Mean change of an outcome under each control (of one kind, or all) at a strength."""
        arms = [arm for arm in self.arms[1:] if kind is None or arm.kind == kind]
        return np.array([arm.changes[strength][outcome].change for arm in arms])

    def p_against_controls(self, outcome: str, strength: float) -> float:
        """Share of latent and controls, the latent counted, whose change is at least as large as the
        latent's.

        With c controls it cannot be below 1 / (c + 1).
        """
        change = self.arms[0].changes[strength][outcome].change
        controls = self.control_changes(outcome, strength)
        return float((1 + (np.abs(controls) >= abs(change)).sum()) / (1 + len(controls)))

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings and lists; strengths that were keys become entries."""
        out = {**asdict(self), "outcomes": self.outcomes}
        for entry, arm in zip(out["arms"], self.arms, strict=True):
            entry["responses"] = [
                {"strength": s, "changes": [asdict(change) for change in arm.changes[s].values()]}
                | ({"perplexity": arm.perplexity[s], "kl": arm.kl[s]} if arm.kl else {})
                for s in self.strengths
            ]
            for key in ("changes", "perplexity", "kl"):
                del entry[key]
        return out

    def __str__(self) -> str:
        interval = f"{self.confidence:.0%} interval"
        head = (
            f"{'outcome':<16} {'strength':>8} {'rate/mean':>9} {'change':>8}  {interval:<18} {'p (Holm)':>8}"
        )
        lines = [
            f"latents {self.latents} added at {self.hook}; strength 1 has norm {self.norm:.3g}",
            f"{head}  {'controls: range of change':<25} {'p vs. them':>10}",
        ]
        for outcome in self.outcomes:
            for s in self.strengths:
                c = self.arms[0].changes[s][outcome]
                span = f"[{c.change_interval[0]:+.3f}, {c.change_interval[1]:+.3f}]"
                line = f"{outcome:<16} {s:>8g} {c.after:>9.3f} {c.change:>+8.3f}  {span:<18} {c.p_holm:>8.2g}"
                controls = self.control_changes(outcome, s)
                if len(controls):
                    span = f"{controls.min():+.3f} … {controls.max():+.3f}"
                    line += f"  {span:<25} {self.p_against_controls(outcome, s):>10.2g}"
                lines.append(line)
        if self.perplexity is not None:
            lines.append(f"neutral text: perplexity {self.perplexity:.2f} unsteered")
            for s in self.strengths:
                own = self.arms[0]
                line = f"{'':<16} {s:>8g} perplexity {own.perplexity[s]:.2f}, KL {own.kl[s]:.4f}"
                if len(self.arms) > 1:
                    line += f"; controls KL {np.median([arm.kl[s] for arm in self.arms[1:]]):.4f} (median)"
                lines.append(line)
        return "\n".join(lines)

    def plot(self, outcomes: Sequence[str] | None = None) -> Any:
        """A matplotlib figure: outcome against strength with its interval, controls behind, side effects
        below.

        >>> response.plot().savefig("dose.png")  # doctest: +SKIP
        """
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError as error:
            raise ImportError('plots need matplotlib: pip install "sparse-sae[plot]"') from error
        names = list(outcomes) if outcomes is not None else self.outcomes
        n_rows = len(names) + (self.perplexity is not None)
        figure = Figure(figsize=(6, 2.4 * n_rows), layout="constrained")
        axes = figure.subplots(n_rows, 1, sharex=True, squeeze=False)[:, 0]
        colours = {"random direction": "0.6", "random latent": "tab:olive", LATENT: "tab:blue"}
        x = np.array(sorted([0.0, *self.strengths]))
        for axis, outcome in zip(axes, names, strict=False):
            before = self.arms[0].changes[self.strengths[0]][outcome].before
            seen = set()
            for arm in reversed(self.arms):  # the latent is drawn over its controls
                after = {0.0: before} | {s: arm.changes[s][outcome].after for s in self.strengths}
                label = None if arm.kind in seen else arm.kind
                seen.add(arm.kind)
                width = 2.0 if arm.kind == LATENT else 0.8
                axis.plot(x, [after[s] for s in x], color=colours[arm.kind], lw=width, label=label)
            spans = [self.arms[0].changes[s][outcome].after_interval for s in self.strengths]
            low, high = np.array(spans).T
            axis.fill_between(self.strengths, low, high, color=colours[LATENT], alpha=0.2, lw=0)
            axis.set_ylabel(outcome)
        if self.perplexity is not None:
            for arm in reversed(self.arms):
                kl = {0.0: 0.0} | arm.kl
                axes[-1].plot(x, [kl[s] for s in x], color=colours[arm.kind])
            axes[-1].set_ylabel("KL on neutral\ntext (nats/token)")
        axes[0].legend(fontsize="small")
        axes[-1].set_xlabel(f"strength (multiples of the decoder row, norm {self.norm:.3g})")
        return figure


def dose_response(
    model: Model,
    sae: Any,
    latents: int | Sequence[int],
    strengths: Sequence[float],
    prompts: Sequence[Prompt],
    outcome: Outcome,
    *,
    outcomes: Sequence[str] | None = None,
    n_directions: int = 5,
    n_latents: int = 5,
    pool: Sequence[int] | None = None,
    neutral: Sequence[Prompt] = (),
    positions: Positions = "all",
    hook: str | Point | None = None,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
    tokenizer: Any = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> DoseResponse:
    """Steer by adding latents at several strengths, with controls, and measure what changes.

    Args:
        model, sae: as in `steer`; the mode is "add".
        latents: one latent, or several whose decoder rows are added together.
        strengths: how much of the decoder row to add, negative to subtract; not 0, which is always measured.
        prompts: held-out prompts on which the outcome is measured.
        outcome: see `experiment`; usually made by `decisions`.
        outcomes: outcomes to test, all by default.
        n_directions: random directions (uniform on the sphere) as controls.
        n_latents: random other latents as controls, their rows scaled to the same norm.
        pool: latents to draw those from, such as those that are alive; all by default.
        neutral: texts that have nothing to do with it, on which perplexity and KL are measured.
        positions: as in `steer`, for the prompts; neutral texts are steered at all positions.
        groups, confidence: as in `experiment`.
        seed: draws the controls and the bootstrap.
        progress: called with a line before each measurement.

    Returns:
        A `DoseResponse`. p-values are adjusted over the latent's strengths × outcomes (controls are not
        tested: they are what the latent is compared with).

    >>> response = dose_response(model, sae, 7, [-40, 40], prompts, outcome)  # doctest: +SKIP
    """
    chosen = [latents] if isinstance(latents, int | np.integer) else list(latents)
    doses = sorted({float(s) for s in strengths})
    if not doses or 0.0 in doses or not np.isfinite(doses).all():
        raise ValueError(f"strengths: got {list(strengths)}, expected finite numbers other than 0")
    directions = _directions(sae, chosen, n_directions, n_latents, pool, seed)
    point = hook_of(model, sae, hook, writes=True)

    def steering(vector: NDArray[np.float32], dose: float, where: Positions) -> Intervention:
        return lambda: steer_direction(model, point, vector, dose, positions=where)

    edits = {(name, s): steering(vector, s, positions) for name, _, vector in directions for s in doses}
    found = experiment(
        model,
        prompts,
        outcome,
        {f"{name} × {s:g}": edit for (name, s), edit in edits.items()},
        outcomes=outcomes,
        groups=groups,
        confidence=confidence,
        seed=seed,
        progress=progress,
        reuse=point if layers_below(model, point) else None,
    )
    by_edit: dict[str, list[Change]] = {}
    for change in found.changes:
        by_edit.setdefault(change.edit, []).append(change)
    for own in _regrouped(adjusted([c for s in doses for c in by_edit[f"{LATENT} × {s:g}"]])):
        by_edit[own[0].edit] = own

    side = {}
    if len(neutral):
        if progress is not None:
            progress("neutral text")
        everywhere = {
            f"{name} × {s:g}": steering(vector, s, "all") for name, _, vector in directions for s in doses
        }
        with reuse_below(model, point) if layers_below(model, point) else nullcontext():
            side = score_texts(model, neutral, everywhere, tokenizer=tokenizer)
    arms = [
        Arm(
            name,
            kind,
            {s: {c.outcome: c for c in by_edit[f"{name} × {s:g}"]} for s in doses},
            {s: side[f"{name} × {s:g}"].perplexity for s in doses} if side else {},
            {s: side[f"{name} × {s:g}"].kl for s in doses} if side else {},
        )
        for name, kind, _ in directions
    ]
    norm = float(np.linalg.norm(directions[0][2]))
    plain = side["unedited"].perplexity if side else None
    return DoseResponse([int(j) for j in chosen], doses, norm, point.name, arms, plain, confidence)


def _regrouped(changes: list[Change]) -> list[list[Change]]:
    groups: dict[str, list[Change]] = {}
    for change in changes:
        groups.setdefault(change.edit, []).append(change)
    return list(groups.values())


def _directions(
    sae: Any, latents: list[int], n_directions: int, n_latents: int, pool: Sequence[int] | None, seed: int
) -> list[tuple[str, str, NDArray[np.float32]]]:
    """(name, kind, vector) of the latents' summed decoder rows and of the controls, all of one norm."""
    decoder = sae.rows["W_dec"]
    vector = np.asarray(decoder[latents].sum(0), dtype=np.float32)
    norm = np.linalg.norm(vector)
    if not norm > 0:
        raise ValueError(f"latents {latents}: their decoder rows add up to nothing")
    rng = np.random.default_rng(seed)
    directions = [(LATENT, LATENT, vector)]
    for i in range(n_directions):
        random = rng.standard_normal(len(vector))
        scaled = (random * (norm / np.linalg.norm(random))).astype(np.float32)
        directions.append((f"random direction {i}", "random direction", scaled))
    others = np.setdiff1d(np.arange(len(decoder)) if pool is None else np.asarray(pool), latents)
    others = others[np.linalg.norm(decoder[others], axis=1) > 0]
    if len(others) < n_latents:
        raise ValueError(
            f"n_latents: {n_latents} controls were asked for, {len(others)} other latents are there"
        )
    for j in rng.choice(others, n_latents, replace=False):
        row = decoder[j] * (norm / np.linalg.norm(decoder[j]))
        directions.append((f"latent {j}", "random latent", np.asarray(row, dtype=np.float32)))
    return directions
