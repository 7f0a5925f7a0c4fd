"""Warnings with evidence: the classic ways in which an SAE looks better than it is.

Each check returns a `Finding` with the numbers it rests on, or None. `evaluate` runs all those whose evidence is
given and keeps what they found as `warnings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Finding",
    "as_good_as_control",
    "at_chance",
    "diagnose",
    "dying_latents",
    "findings",
    "narrow_training_data",
    "shuffled_components",
    "too_sparse",
    "unstable",
]

FIRINGS = 10  # of the average latent, before one that never fired is called dead
MIN_ROWS = 32  # for a comparison of two FVUs
PURSUIT_ALWAYS = 1 << 30  # multiply-adds that are cheap in any case, under a tenth of a second
LOW_FVU = 0.3  # "low FVU" in the checks of identifiability: what many would call a good reconstruction


@dataclass(frozen=True)
class Finding:
    """A reason not to trust an SAE yet: which check, one sentence with what to do, and the numbers behind
    it."""

    name: str
    message: str
    evidence: dict[str, float]

    def __str__(self) -> str:
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in self.evidence.items())
        return f"{self.name}: {self.message} ({numbers})"


def narrow_training_data(
    fvu_held_out: float, fvu_other: float, *, ratio: float = 2.0, gap: float = 0.1
) -> Finding | None:
    """The SAE explains data like its training data much better than other data of the same hook point.

    Args:
        fvu_held_out: FVU on held-out rows of the training distribution.
        fvu_other: FVU on rows from elsewhere (other text, another language, code).
        ratio, gap: both must be exceeded, fvu_other > ratio · fvu_held_out and > fvu_held_out + gap.

    >>> print(narrow_training_data(0.1, 0.6))
    narrow training data: ... (fvu_held_out 0.1, fvu_other 0.6)
    >>> narrow_training_data(0.1, 0.15) is None
    True
    """
    if not (fvu_other > ratio * fvu_held_out and fvu_other > fvu_held_out + gap):
        return None
    return Finding(
        "narrow training data",
        "the features of the other data are missing from the dictionary; train on data as broad as the intended use",
        {"fvu_held_out": fvu_held_out, "fvu_other": fvu_other},
    )


def dying_latents(
    density: ArrayLike, n_rows: int, dead_before: float | None = None, *, most: float = 0.1
) -> Finding | None:
    """Many latents never fire, or more and more of them stop.

    Args:
        density: (d_sae,) share of rows on which each latent fired (`Metrics.density`).
        n_rows: how many rows that was. A latent that fires less than once in 3 / n_rows rows may look dead by
            chance.
        dead_before: dead fraction earlier in training, if known; a rise by half of `most` is a finding too.
        most: dead fraction that is still accepted.

    >>> dying_latents([0.1, 0.0, 0.0, 0.2], 100_000).evidence["dead_fraction"]
    0.5
    """
    dead = float((np.asarray(density) == 0).mean())
    rising = dead_before is not None and dead > dead_before + most / 2
    if dead <= most and not rising:
        return None
    evidence = {"dead_fraction": dead, "rows": float(n_rows), "density_that_may_be_missed": 3 / n_rows}
    if dead_before is not None:
        evidence["dead_fraction_before"] = dead_before
    return Finding(
        "latents are dying" if rising else "dead latents",
        "capacity is lost; use AuxK or resampling, a lower learning rate, or a weaker sparsity",
        evidence,
    )


def too_sparse(sae: Any, x: Any, *, rows: int = 256, drop: float = 0.1, seed: int = 0) -> Finding | None:
    """The dictionary could explain much more of x if only twice as many of its latents might fire.

    Both counts are coded by orthogonal matching pursuit over the same W_dec, so that a weak encoder is not
    mistaken for too strong a sparsity. None where 2 · L0 latents would be more than half as many as there are
    dimensions: so many explain much whatever they are.

    Args:
        sae: anything with `encode`, `W_dec` and `b_dec`, that reads what it writes.
        x: (n, d) activations.
        rows: rows drawn from x; pursuit is slow.
        drop: fall of FVU from L0 to 2 · L0 latents that counts.
        seed: of the draw.
    """
    from sparse_sae.pursuit import encode

    x = np.asarray(x, dtype=np.float32)
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x: got shape {x.shape}, expected (n, d) with n >= 1")
    x = x[np.random.default_rng(seed).permutation(len(x))[:rows]]
    l0 = sae.encode(x).nnz / len(x)
    k = max(1, round(l0))
    if 2 * k > min(len(sae.W_dec), x.shape[1] // 2):
        return None
    W, b = np.asarray(sae.W_dec, np.float32), np.asarray(sae.b_dec, np.float32)
    variance = float(((x - x.mean(axis=0)) ** 2).sum())
    fvu = [
        float(((x - encode(x, W, b, method="omp", k=n) @ W - b) ** 2).sum()) / variance if variance else 0.0
        for n in (k, 2 * k)
    ]
    if fvu[0] - fvu[1] < drop:
        return None
    return Finding(
        "codes too sparse",
        f"the same dictionary explains much more with {2 * k} active latents than with {k}; allow more",
        {"l0": l0, "fvu_pursuit_at_l0": fvu[0], "fvu_pursuit_at_twice_l0": fvu[1]},
    )


def at_chance(matching: Any, fvu: float, *, least: float = 0.3) -> Finding | None:
    """Low FVU, but latents match the known features hardly better than random directions would.

    Args:
        matching: `match(sae, truth)` with its chance level.
        fvu: of the SAE.
        least: corrected score, (s - chance) / (1 - chance), that is accepted.
    """
    if fvu > LOW_FVU or matching.corrected >= least:
        return None
    chance = max(level.mcc.mean for level in matching.chance.values())
    return Finding(
        "matches at chance level",
        "the reconstruction is good but the latents are not the features; a low FVU alone shows nothing",
        {"fvu": fvu, "mcc": matching.mcc, "chance": chance, "corrected": matching.corrected},
    )


def unstable(stability: Any, fvu: float, *, least: float = 0.3) -> Finding | None:
    """Low FVU, but another seed finds other latents.

    Args:
        stability: `match.stability([...])` of SAEs that differ in their seed only.
        fvu: of these SAEs.
        least: corrected agreement that is accepted.
    """
    if fvu > LOW_FVU or stability.corrected >= least:
        return None
    return Finding(
        "unstable across seeds",
        "what this SAE found depends on its random start; report only latents that other seeds find too",
        {
            "fvu": fvu,
            "mcc": stability.mean,
            "chance": stability.chance.mean,
            "corrected": stability.corrected,
        },
    )


def as_good_as_control(
    fvu: float, fvu_control: float, control: str = "control", *, ratio: float = 1.25
) -> Finding | None:
    """Low FVU, but an SAE trained alike on data without features reconstructs that nearly as well.

    Args:
        fvu: of the SAE on its held-out data.
        fvu_control: of an SAE with the same settings, trained and held out on the control:
            `shuffled_components(x)`, or activations of the model with random weights.
        control: its name, for the message.
        ratio: the control's FVU must be at least this many times higher.

    >>> as_good_as_control(0.10, 0.11, "random weights").name
    'as good as control'
    """
    if fvu > LOW_FVU or fvu_control >= ratio * fvu:
        return None
    return Finding(
        "as good as control",
        f"data without features ({control}) is reconstructed about as well, so the FVU is no evidence of features",
        {"fvu": fvu, "fvu_control": fvu_control},
    )


def shuffled_components(x: ArrayLike, seed: int = 0) -> NDArray[np.float32]:
    """A control for x (n, d): each principal component shuffled over the samples on its own.

    Mean, covariance and the distribution along every principal axis stay; what occurs together with what is
    lost, and with it any sparse feature that is not itself a principal axis.
    """
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2:
        raise ValueError(f"x: got shape {rows.shape}, expected (n, d) with n >= 2")
    mean = rows.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(rows.T).reshape(rows.shape[1], rows.shape[1]))
    components = np.random.default_rng(seed).permuted((rows - mean) @ axes, axis=0)
    return np.asarray(components @ axes.T + mean, dtype=np.float32)


def diagnose(sae: Any, x: Any, y: Any = None, **evidence: Any) -> list[Finding]:
    """The warnings of `evaluate(sae, x, y, **evidence)`, none if all is well as far as could be seen."""
    from sparse_sae.evaluation.metrics import evaluate

    return list(evaluate(sae, x, y, **evidence).warnings)


def findings(
    sae: Any,
    quality: Any,
    sample: NDArray[Any],
    *,
    fvu_other: float | None = None,
    seeds: Sequence[Any] = (),
    truth: Any = None,
    controls: Mapping[str, float] | None = None,
    dead_before: float | None = None,
) -> tuple[list[Finding], list[str]]:
    """Every check whose evidence is at hand.

    Args:
        sae: the SAE. quality: its `Metrics`. sample: (n, d_in) some of the rows.
        fvu_other: its FVU on another distribution. seeds, truth, dead_before: see `evaluate`.
        controls: name → FVU of an SAE trained alike on a control.

    Returns:
        What was found, and what was looked for.
    """
    from sparse_sae.match import match, stability

    found: list[Finding | None] = []
    checked = []
    fired = quality.n_rows * quality.l0
    if dead_before is not None or fired == 0 or fired >= FIRINGS * len(quality.density):
        checked.append("dead latents")
        found.append(dying_latents(quality.density, quality.n_rows, dead_before))
    if _sparsity_can_be_told(sae, quality, len(sample)) and sae.encode(sample).data.min(initial=0) >= 0:
        checked.append("codes too sparse")
        found.append(too_sparse(sae, sample))
    if fvu_other is not None:
        checked.append("narrow training data")
        found.append(narrow_training_data(quality.fvu, fvu_other))
    if truth is not None:
        checked.append("matches at chance level")
        found.append(at_chance(match(sae, truth), quality.fvu))
    if seeds:
        checked.append("unstable across seeds")
        found.append(unstable(stability([sae, *seeds]), quality.fvu))
    for name, fvu in (controls or {}).items():
        checked.append(f"as good as control ({name})")
        found.append(as_good_as_control(quality.fvu, fvu, name))
    return [finding for finding in found if finding is not None], checked


def _sparsity_can_be_told(sae: Any, quality: Any, rows: int) -> bool:
    """Whether `too_sparse` can say something of this SAE, and costs at most a quarter of having evaluated it."""
    k = max(1, round(quality.l0))
    if sae.is_transcoder or not sae.transform.is_identity or rows < MIN_ROWS or not quality.l0:
        return False
    if 2 * k > min(sae.d_sae, sae.d_in // 2):
        return False
    one_pass = sae.d_sae * sae.d_in
    cost = 3 * k * rows * one_pass
    return bool(cost <= max(PURSUIT_ALWAYS, quality.n_rows * one_pass / 4))
