"""Does anything inside the model tell a label, and does it beat what needs no look inside?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparse_sae.audit.choosing import chance_interval, choose
from sparse_sae.audit.context import Context
from sparse_sae.audit.datasets import labelled
from sparse_sae.audit.detectors import KINDS
from sparse_sae.audit.examples import divide
from sparse_sae.audit.features import text_features
from sparse_sae.audit.results import Result


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
    features = text_features(context.lm, data.prompts, context.hook, context.sae)
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
            "text": text, "label": bool(test.labels[i]), "group": str(np.asarray(test.groups)[i]),
            "source": str(np.asarray(test.sources)[i]), "hard": bool(test.hard[i]),
            "scores": {kind: float(m.scores[i]) for kind, m in found.items()},
        }  # fmt: skip
        for kind, measured in found.items():
            for fpr, at in measured.operating.items():
                if not isinstance(at, str):
                    sample[f"{kind} at {fpr:g}"] = bool(measured.scores[i] > at.threshold)
        result.samples.append(sample)
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
        latent = measured.detector.what.get("latent")
        if latent is not None:
            result.notes.append(f"{kind}: latent {latent}.")
            context.chosen[f"{context.name}: {kind}"] = int(latent)
    result.notes += [f"Rates at {fpr:g} are refused: {why}." for fpr, why in refused.items()]
    return result
