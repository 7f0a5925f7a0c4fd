"""Choosing a detector on development texts, and measuring it once on sealed ones, beside its baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.audit.detectors import KINDS, Fitted
from sparse_sae.audit.examples import Division, Examples
from sparse_sae.audit.features import Features
from sparse_sae.audit.rates import (
    Operating,
    Unsupported,
    auroc_interval,
    calibration,
    operating_point,
    threshold_at,
)
from sparse_sae.audit.watchlist import Watch
from sparse_sae.probing import auroc


@dataclass(frozen=True)
class Measured:
    """A detector's quality on the sealed test.

    Attributes:
        nested: AUROC on development by cross-validation in which the choice is made anew in each fold.
        auroc: (value, low, high) on the sealed test, bootstrapped by group; chance is .5.
        hard: AUROC against hard negatives alone, or None without any.
        left_out: source -> AUROC on it, chosen on the development texts of all other sources.
        operating: what is known at each false positive rate asked for; a sentence where n cannot support it.
        calibration: of log-odds; None for detectors without.
        scores: (n_test,).
    """

    detector: Fitted
    nested: float
    auroc: tuple[float, float, float]
    hard: float | None
    left_out: dict[str, float]
    operating: dict[float, Operating | str]
    calibration: dict[str, float] | None
    scores: Array


def choose(
    examples: Examples,
    features: Features,
    division: Division,
    *,
    kinds: tuple[str, ...] = tuple(KINDS),
    fprs: tuple[float, ...] = (0.01, 0.001),
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Measured]:
    """Fit each kind of detector on the development side and measure all of them on the test side.

    Everything chosen (the latent, weights, thresholds) is chosen on development texts. The caller notes that the test
    was read (`Seal`).

    Args:
        kinds: names in `detectors.KINDS`. fprs: false positive rates at which TPR is wanted.
        folds: of the nested cross-validation, by group.

    Returns:
        kind -> `Measured`.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ValueError(f"kinds: got {sorted(unknown)}, expected some of {', '.join(KINDS)}")
    dev, test = examples.take(division.development), examples.take(division.test)
    dev_f, test_f = features.take(division.development), features.take(division.test)
    negative = ~test.labels
    independent = len(set(np.asarray(test.groups)[negative].tolist()))
    found = {}
    for kind in kinds:
        fitted = KINDS[kind](dev_f, dev)
        scores = fitted.score(test_f, test.texts)
        honest, nested = _out_of_fold(kind, dev, dev_f, folds, seed)
        # A fitted direction knows the texts it was fitted on; one latent's values are what they are on any text.
        threshold_on = honest if fitted.probability else fitted.score(dev_f, dev.texts)
        hard = None
        if test.hard.any():
            some = test.labels | test.hard
            hard = float(auroc(scores[some], test.labels[some]))
        at: dict[float, Operating | str] = {}
        for fpr in fprs:
            try:
                at[fpr] = operating_point(
                    threshold_on[~dev.labels], scores, test.labels, fpr, independent=independent
                )
            except Unsupported as error:
                at[fpr] = str(error)
        found[kind] = Measured(
            fitted,
            nested,
            auroc_interval(scores, test.labels, test.groups, seed=seed),
            hard,
            _left_out(kind, dev, dev_f),
            at,
            calibration(1 / (1 + np.exp(-np.clip(scores, -700, 700))), test.labels)
            if fitted.probability
            else None,
            scores,
        )
    return found


def _out_of_fold(
    kind: str, examples: Examples, features: Features, folds: int, seed: int
) -> tuple[Array, float]:
    """(n,) scores of development texts by detectors that were chosen without them, and the mean AUROC in a fold."""
    names = np.unique(np.asarray(examples.groups))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = dict(zip(names[order].tolist(), (np.arange(len(names)) % folds).tolist(), strict=True))
    fold = np.array([fold_of[group] for group in np.asarray(examples.groups).tolist()])
    scores, areas = np.zeros(len(examples)), []
    for number in range(folds):
        out = fold == number
        rest = examples.labels[~out]
        if not out.any() or rest.all() or not rest.any():
            raise ValueError(
                f"folds: {folds} leave one class only in a fold; fewer, or more groups, are needed"
            )
        fitted = KINDS[kind](features.take(np.flatnonzero(~out)), examples.take(np.flatnonzero(~out)))
        part = examples.take_texts(np.flatnonzero(out))
        scores[out] = fitted.score(features.take(np.flatnonzero(out)), part)
        if 0 < examples.labels[out].sum() < out.sum():
            areas.append(float(auroc(scores[out], examples.labels[out])))
    if not areas:
        raise ValueError(
            f"folds: no fold of {folds} has both classes; fewer folds, or mixed groups, are needed"
        )
    return scores, float(np.mean(areas))


def _left_out(kind: str, examples: Examples, features: Features) -> dict[str, float]:
    sources = np.asarray(examples.sources)
    found = {}
    for source in dict.fromkeys(sources.tolist()):
        out = sources == source
        sides = (examples.labels[out], examples.labels[~out])
        if any(not len(side) or side.all() or not side.any() for side in sides):
            continue
        fitted = KINDS[kind](features.take(np.flatnonzero(~out)), examples.take(np.flatnonzero(~out)))
        part = examples.take_texts(np.flatnonzero(out))
        found[str(source)] = float(auroc(fitted.score(features.take(np.flatnonzero(out)), part), sides[0]))
    return found


def watch_labels(
    examples: Examples,
    features: Features,
    name: str,
    *,
    count: int = 1,
    fpr: float = 0.05,
    provenance: Mapping[str, Any] | None = None,
) -> list[Watch]:
    """Watches for a label: the `count` latents that tell it best on these texts, and the raw probe.

    Thresholds let at most `fpr` of the negatives pass: by max pooling for latents, by mean pooling for the direction.
    Give development texts only.
    """
    if features.latents is None:
        raise ValueError("features: no latents; text_features(…, sae) pools them")
    areas = auroc(features.latents, examples.labels)
    about = {**(provenance or {}), "examples": examples.sha256, "n": len(examples), "fpr": fpr}
    watches = []
    for latent in np.argsort(-areas, kind="stable")[:count].tolist():
        area = float(areas[latent])
        limit = threshold_at(features.latents[~examples.labels, latent], fpr)
        reason = f"tells {name} from the rest, AUROC {area:.3f} on {len(examples)} development texts"
        watches.append(
            Watch(
                f"{name}: latent {latent}",
                limit,
                reason,
                latent=latent,
                provenance={**about, "development_auroc": area},
            )
        )
    probe = KINDS["raw probe"](features, examples)
    scores = probe.score(features, examples.texts)
    watches.append(
        Watch(
            f"{name}: raw probe",
            threshold_at(scores[~examples.labels], fpr),
            f"logistic regression for {name} on mean activations",
            direction=probe.what["direction"],
            bias=probe.what["bias"],
            provenance={**about, "development_auroc": float(auroc(scores, examples.labels))},
        )
    )
    return watches


def watch_explanation(
    explanation: Any, name: str, thresholds: Mapping[int, float] | float, count: int = 5
) -> list[Watch]:
    """Watches for the latents that `explain` found to move a target, largest effect first.

    Args:
        thresholds: by latent, or one for all, in units of the latents' activation.
    """
    chosen = [effect for effect in explanation.effects if effect.ablation is not None][:count]
    if not chosen:
        raise ValueError(
            "explanation: no latent was ablated, so no effect is known; explain(…, top=20) ablates"
        )
    watches = []
    for effect in chosen:
        provenance = {
            "explain": explanation.method,
            "target": explanation.target,
            "ablation": effect.ablation,
            "strongest_seen": max((place.activation for place in effect.places), default=0.0),
        }
        limit = thresholds if isinstance(thresholds, int | float) else thresholds[effect.latent]
        reason = f"ablating it changes {explanation.target} by {-effect.ablation:+.3f}"
        watches.append(
            Watch(f"{name}: latent {effect.latent}", limit, reason, effect.latent, provenance=provenance)
        )
    return watches


def chance_interval(n_positive: int, n_negative: int, confidence: float = 0.95) -> tuple[float, float]:
    """Where the AUROC of a detector that knows nothing falls: the normal approximation of Mann and Whitney's U.

    >>> [round(v, 2) for v in chance_interval(100, 100)]
    [0.42, 0.58]
    """
    from scipy.special import ndtri

    deviation = np.sqrt((n_positive + n_negative + 1) / (12 * n_positive * n_negative))
    half = float(ndtri(0.5 + confidence / 2) * deviation)
    return 0.5 - half, 0.5 + half
