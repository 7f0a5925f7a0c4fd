"""How much of a difference a circuit of units carries: faithfulness, completeness, and their curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from torch import Tensor

from sparse_sae._arguments import one_of, whole
from sparse_sae.circuits.effects import Effects, Side, sides
from sparse_sae.circuits.pairs import Batch, Edit, Passes
from sparse_sae.circuits.units import Units

ErrorPolicy = Literal["default", "keep", "remove"]
Reference = Literal["patch", "zero"]
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # those of MIB (Mueller et al. 2025)


@dataclass(frozen=True)
class Mask:
    """Which nodes of a hook point are in a circuit: units (P, M), errors (P,)."""

    units: NDArray[np.bool_]
    errors: NDArray[np.bool_]


@dataclass(frozen=True)
class Curve:
    """Faithfulness and completeness by size.

    Attributes:
        sizes: nodes in the circuit. fractions: of all nodes whose effect is not zero.
        faithfulness: F(C). completeness: F(M∖C), lower is better.
        errors, reference: the policy, see `FeatureCircuit.faithfulness`.
    """

    sizes: list[int]
    fractions: list[float]
    faithfulness: list[float]
    completeness: list[float]
    errors: ErrorPolicy
    reference: Reference

    @property
    def cpr(self) -> float:
        """Circuit performance ratio (MIB): ∫ F(k) dk over fractions k, by trapezoids from F(0) = 0; high is good."""
        return float(trapezoid([0, *self.faithfulness], [0, *self.fractions]))

    @property
    def cmd(self) -> float:
        """Circuit-model distance (MIB): ∫ |1 - F(k)| dk; lower is better."""
        return float(trapezoid(np.abs(1 - np.array([0, *self.faithfulness])), [0, *self.fractions]))

    def __str__(self) -> str:
        rows = zip(self.sizes, self.fractions, self.faithfulness, self.completeness, strict=True)
        head = f"errors {self.errors}, reference {self.reference}: CPR {self.cpr:.3f}, CMD {self.cmd:.3f}"
        return "\n".join(
            [
                head,
                "  nodes  share  F(C)  F(M∖C)",
                *(f"{n:7d} {k:6.1%} {f:5.2f} {c:7.2f}" for n, k, f, c in rows),
            ]
        )


def faithfulness(
    passes: Passes,
    units: Sequence[Units],
    batches: Sequence[Batch],
    masks: Sequence[Mask],
    errors: ErrorPolicy,
    reference: Reference,
) -> float:
    """F of one circuit, of means over all pairs; NaN where m(M) = m(∅)."""
    return many(passes, units, batches, [masks], errors, reference)[0]


def curve(
    passes: Passes,
    units: Sequence[Units],
    batches: Sequence[Batch],
    effects: Sequence[Effects],
    errors: ErrorPolicy,
    reference: Reference,
    sizes: Sequence[int] | None = None,
) -> Curve:
    """Circuits of the nodes of largest |effect|; error nodes are ranked among them under the policy "default".

    Raises:
        ValueError: a size of less than one, or of more nodes than have an effect.
    """
    scores = [np.abs(e.units).ravel() for e in effects]
    if errors == "default":
        scores += [np.abs(e.errors) for e in effects]
    ordered = np.sort(np.concatenate(scores))[::-1]
    count = int((ordered > 0).sum())
    if sizes is None:
        sizes = sorted({max(1, round(f * count)) for f in FRACTIONS}) if count else []
    else:
        sizes = sorted({whole("sizes", size, least=1, most=count) for size in sizes})
    wanted: list[list[Mask]] = []
    for size in sizes:
        least = ordered[size - 1]
        inside = [Mask(np.abs(e.units) >= least, np.abs(e.errors) >= least) for e in effects]
        wanted += [inside, [Mask(~m.units, ~m.errors) for m in inside]]
    values = many(passes, units, batches, wanted, errors, reference)
    return Curve(list(sizes), [n / count for n in sizes], values[::2], values[1::2], errors, reference)


def matched(mask: Mask, effects: Effects, rng: np.random.Generator) -> Mask:
    """As many units at every position, drawn from those that have an effect there; the same errors."""
    units = np.zeros_like(mask.units)
    for position, chosen in enumerate(mask.units):
        there = np.flatnonzero(effects.units[position])
        units[position, rng.choice(there, int(chosen.sum()), replace=False)] = True
    return Mask(units, mask.errors)


def many(
    passes: Passes,
    units: Sequence[Units],
    batches: Sequence[Batch],
    circuits: Sequence[Sequence[Mask]],
    errors: ErrorPolicy,
    reference: Reference,
) -> list[float]:
    """F of each circuit, of means over all pairs; NaN where m(M) = m(∅)."""
    for name, value, known in (
        ("errors", errors, ("default", "keep", "remove")),
        ("reference", reference, ("patch", "zero")),
    ):
        one_of(name, value, known)
    total = np.zeros(len(circuits) + 2)
    for batch in batches:
        patch = passes.read(batch.patch)
        references = [sides(u, patch[u.hook]) if reference == "patch" else None for u in units]
        count, n = batch.clean.shape
        none = [Mask(np.zeros((1, len(u)), bool), np.zeros(1, bool)) for u in units]
        total[0] += passes.values(batch.clean, batch, {}).sum()
        for number, masks in enumerate([none, *circuits], 1):
            edits = {
                u.hook: _edit(u, mask, side, errors, int(count), int(n))
                for u, mask, side in zip(units, masks, references, strict=True)
            }
            total[number] += passes.values(batch.clean, batch, edits).sum()
    whole, empty = total[0], total[1]
    if abs(whole - empty) <= 1e-6 * max(abs(whole), abs(empty)):
        return [float("nan")] * len(circuits)
    return [float(x) for x in (total[2:] - empty) / (whole - empty)]


def _edit(units: Units, mask: Mask, side: Side | None, errors: ErrorPolicy, count: int, n: int) -> Edit:
    """Nodes outside the circuit go to their reference; what is inside stays what this pass made it."""
    position = np.tile(np.arange(n) if len(mask.errors) > 1 else np.zeros(n, int), count)

    def outside(codes: object) -> NDArray[np.float32]:
        kept = codes.copy()  # type: ignore[attr-defined]
        rows = np.repeat(np.arange(count * n), np.diff(kept.indptr))
        kept.data[mask.units[position[rows], kept.indices]] = 0
        out: NDArray[np.float32] = kept @ units.directions
        return out

    def edit(x: Tensor) -> Tensor:
        own = sides(units, x.float().cpu().numpy())
        move = -outside(own.codes)
        if side is not None:
            move = move + outside(side.codes)
        if errors == "remove":
            move = move - own.error
        elif errors == "default":
            error = own.error if side is None else own.error - side.error
            move = move - error * ~mask.errors[position][:, None]
        return x + torch.from_numpy(move).to(x).reshape(x.shape)

    return edit
