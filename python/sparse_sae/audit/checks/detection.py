"""Does anything inside the model tell a label, and does it beat what needs no look inside?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparse_sae.audit.choosing import Measured, chance_interval, choose
from sparse_sae.audit.context import Context
from sparse_sae.audit.datasets import labelled
from sparse_sae.audit.delay import first_alarms, onset_tokens
from sparse_sae.audit.detectors import KINDS
from sparse_sae.audit.examples import Examples, divide
from sparse_sae.audit.observer import Monitor
from sparse_sae.audit.rates import delays
from sparse_sae.audit.results import Result
from sparse_sae.audit.watchlist import Watch, WatchList


def run(check: Mapping[str, Any], context: Context) -> Result:
    """Detectors chosen on development texts, measured once on the sealed test.

    Parameters of the check: data (`labelled`); kinds of detector (all; those of latents need an SAE); fprs
    [0.05, 0.01]; test_share 0.5; folds 5.
    """
    data = labelled(check["data"], context.policy.directory)
    context.note_data("examples", data.sha256, **data.about)
    division = divide(data.examples, context.seed, check.get("test_share", 0.5))
    test = data.examples.take(division.test)
    kinds = tuple(check.get("kinds", [k for k in KINDS if context.sae is not None or "latent" not in k]))
    if any("latent" in kind for kind in kinds):
        context.need_sae()
    features = context.features(data.prompts)
    context.read_test(test.sha256)
    fprs = tuple(float(f) for f in check.get("fprs", (0.05, 0.01)))
    found = choose(
        data.examples,
        features,
        division,
        kinds=kinds,
        fprs=fprs,
        folds=check.get("folds", 5),
        seed=context.seed,
    )
    result = Result()
    for i, text in enumerate(test.texts):
        sample = {
            "text": text,
            "label": bool(test.labels[i]),
            "group": str(np.asarray(test.groups)[i]),
            "source": str(np.asarray(test.sources)[i]),
            "hard": bool(test.hard[i]),
            "scores": {kind: float(m.scores[i]) for kind, m in found.items()},
        }
        for kind, measured in found.items():
            for fpr, at in measured.operating.items():
                if not isinstance(at, str):
                    sample[f"{kind} at {fpr:g}"] = bool(measured.scores[i] > at.threshold)
        result.samples.append(sample)
    alarms = _alarms(context, found, test, [data.prompts[i] for i in division.test], result)
    positives = int(test.labels.sum())
    low, high = chance_interval(positives, len(test) - positives)
    result.notes.append(
        f"{len(division.development)} texts to choose on, {len(test)} sealed ones ({positives} positive). A detector "
        f"that knows nothing has an AUROC between {low:.3f} and {high:.3f} on so many, 95 times in 100."
    )
    if division.duplicates:
        result.notes.append(
            f"{len(division.duplicates)} texts occurred twice in different groups; they were kept on one side."
        )
    refused: dict[float, str] = {}
    for kind, measured in found.items():
        result.number(f"{kind}: AUROC", *measured.auroc, chance=0.5)
        result.number(f"{kind}: AUROC in nested cross-validation", measured.nested, chance=0.5)
        if measured.hard is not None:
            result.number(f"{kind}: AUROC against hard negatives", measured.hard, chance=0.5)
        for source, area in measured.left_out.items():
            result.number(f"{kind}: AUROC on source {source}, chosen on the others", area, chance=0.5)
        if measured.calibration is not None:
            result.number(f"{kind}: calibration error", measured.calibration["ece"])
        for fpr, at in measured.operating.items():
            if isinstance(at, str):
                refused[fpr] = at
                continue
            result.rate(f"{kind}: found at {fpr:g}", f"{kind} at {fpr:g}", chance=fpr, label=True)
            result.rate(f"{kind}: false alarms at {fpr:g}", f"{kind} at {fpr:g}", label=False)
            _delay(result, f"{kind} at {fpr:g}", alarms)
        latent = measured.detector.what.get("latent")
        if latent is not None:
            result.notes.append(f"{kind}: latent {latent}.")
            context.chosen[f"{context.name}: {kind}"] = int(latent)
    result.notes += [f"Rates at {fpr:g} are refused: {why}." for fpr, why in refused.items()]
    return result


def _alarms(
    context: Context, found: Mapping[str, Measured], test: Examples, prompts: list[Any], result: Result
) -> dict[str, dict[str, float]]:
    """At which token a monitor speaks up on the positives whose onset is known, and how many after it: into the
    samples, and as "kind at fpr" -> what `delays` says."""
    known = np.flatnonzero(test.labels & (test.onsets >= 0))
    monitors: dict[str, Monitor] = {}
    for kind, measured in found.items():
        for fpr, at in measured.operating.items():
            if not isinstance(at, str):
                made = _monitor(context, measured.detector.what, at.threshold)
                monitors |= {} if made is None else {f"{kind} at {fpr:g}": made}
    if not len(known) or not monitors:
        return {}
    prompts = [prompts[i] for i in known]
    onset = onset_tokens(prompts, test.take_texts(known), test.onsets[known].tolist(), context.lm.tokenizer)
    first = first_alarms(context.lm, prompts, monitors)
    for name, at_token in first.items():
        for i, token, start in zip(known.tolist(), at_token.tolist(), onset.tolist(), strict=True):
            sample = result.samples[i]
            sample[f"{name}, alarm in time"] = bool(token >= start)  # false of none, and of one too early
            if not np.isnan(token):
                sample[f"{name}, delay in tokens"] = int(token) - start
    return {name: delays(np.where(at < onset, np.nan, at), onset) for name, at in first.items()}


def _monitor(context: Context, what: Mapping[str, Any], threshold: float) -> Monitor | None:
    """The detector as a monitor holds it; None for those that look at no activations."""
    about: dict[str, Any] = {"name": "detector", "threshold": threshold, "reason": context.name}
    if "latent" in what:
        watch = WatchList.of(context.sae, [Watch(**about, latent=what["latent"])], hook=context.hook)
        return Monitor(watch, context.sae, pooling="max")
    if "direction" in what:
        watches = [Watch(**about, direction=what["direction"], bias=what["bias"])]
        return Monitor(WatchList(watches, context.hook), pooling="mean")
    return None


def _delay(result: Result, name: str, alarms: Mapping[str, Mapping[str, float]]) -> None:
    """Median and 90th percentile over the alarms that came at the onset or after it, and how many those are."""
    if name not in alarms:
        return
    kind, _, fpr = name.rpartition(" at ")
    result.rate(f"{kind}: alarm at the onset or after it, at {fpr}", f"{name}, alarm in time")
    for key, said in (("median", "median"), ("p90", "90th percentile")):
        if key in alarms[name]:
            result.number(f"{kind}: delay at {fpr}, tokens, {said}", alarms[name][key])
