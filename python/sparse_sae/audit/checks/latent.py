"""The three tests of a watched latent, on prompts whose label it is meant to detect."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np

from sparse_sae.audit.checks.generation import REFUSAL
from sparse_sae.audit.choosing import chance_interval
from sparse_sae.audit.context import Context
from sparse_sae.audit.datasets import labelled
from sparse_sae.audit.examples import divide
from sparse_sae.audit.rates import auroc_interval
from sparse_sae.audit.results import Result
from sparse_sae.audit.sets import items
from sparse_sae.lm import english_documents, steer
from sparse_sae.lm.model.generation import answers
from sparse_sae.lm.studies.causal import Causal, Effect, causal_tests
from sparse_sae.probing import auroc


def run(check: Mapping[str, Any], context: Context) -> Result:
    """Parameters of the check: data (`labelled`); latent, a number or "check: detector" of an earlier detection;
    choices, two continuations; strength (the latent's largest value on development texts); controls 9; benign_texts 4
    English documents; over_refusal, benign prompts answered with the latent steered (0); n sealed prompts (all).
    """
    sae, data = context.need_sae(), labelled(check["data"], context.policy.directory)
    context.note_data("examples", data.sha256, **data.about)
    latent = context.latent(check["latent"])
    first, second = check["choices"]
    division = divide(data.examples, context.seed)
    index = division.test[: check.get("n")]
    features = context.features(data.prompts)
    test = data.examples.take(index)
    context.read_test(test.sha256)
    assert features.latents is not None
    strength = float(check.get("strength") or features.latents[division.development, latent].max())
    benign = list(islice(english_documents(), check.get("benign_texts", 4)))
    found = causal_tests(
        context.lm,
        sae,
        latent,
        [data.prompts[i] for i in index],
        (first, second),
        benign,
        strength=strength,
        hook=context.hook,
        controls=check.get("controls", 9),
        seed=context.seed,
    )
    result = Result()
    result.notes.append(
        f"Latent {latent}; steered with {strength:.3g} times its decoder row at every position; the outcome is "
        f"log p({first!r}) - log p({second!r})."
    )
    for i, text in enumerate(test.texts):
        result.samples.append(
            {
                "text": text,
                "label": bool(test.labels[i]),
                "group": str(np.asarray(test.groups)[i]),
                "value": float(features.latents[index[i], latent]),
                "before": float(found.before[i]),
                "steered": float(found.steered[i]),
                "silenced": float(found.silenced[i]),
                "first": bool(found.before[i] > 0),
                "first, steered": bool(found.steered[i] > 0),
                "first, silenced": bool(found.silenced[i] > 0),
            }
        )
    values = features.latents[index]
    result.number("detects: AUROC", *auroc_interval(values[:, latent], test.labels, test.groups), chance=0.5)
    alive = np.flatnonzero(values.any(axis=0))
    result.number(
        "detects: share of live latents that do better", float(_better(values, alive, latent, test.labels))
    )
    positives = int(test.labels.sum())
    low, high = chance_interval(positives, len(test) - positives)
    result.notes.append(
        f"An AUROC at chance lies between {low:.3f} and {high:.3f} on these {len(test)} texts."
    )
    for name, effect, controls in (
        ("steers", found.steer, found.steer_controls),
        ("silences", found.silence, found.silence_controls),
    ):
        _against(result, name, effect, controls, found.perplexity)
    for field in ("first", "first, steered", "first, silenced"):
        result.rate(f"{first!r} before {second!r}{field[5:]}", field)
    if check.get("over_refusal"):
        _over_refusal(result, context, latent, strength, int(check["over_refusal"]))
    return result


def _better(values: Any, alive: Any, latent: int, labels: Any) -> float:
    own = float(auroc(values[:, latent], labels))
    return float((auroc(values[:, alive], labels) > own).mean()) if len(alive) else 0.0


def _against(result: Result, name: str, effect: Effect, controls: list[Effect], plain: float) -> None:
    result.number(f"{name}: change of the outcome, nats", effect.change)
    largest = max((abs(c.change) for c in controls), default=0.0)
    result.number(f"{name}: largest change by a control of equal norm, nats", largest)
    result.number(f"{name}: p against controls", Causal.p_value(effect, controls), chance=0.5)
    result.number(f"{name}: perplexity of benign text", effect.perplexity, chance=plain)
    result.number(f"{name}: KL on benign text, nats a token", effect.kl)
    if controls:
        result.number(
            f"{name}: KL on benign text, median control", float(np.median([c.kl for c in controls]))
        )


def _over_refusal(result: Result, context: Context, latent: int, strength: float, n: int) -> None:
    benign = [item for item in items("refusal") if not item.label][:n]
    prompts = [item.messages for item in benign]
    plain = answers(context.lm, prompts, 16)
    with steer(context.lm, context.sae, {latent: strength}, hook=context.hook):
        steered = answers(context.lm, prompts, 16)
    for item, a, b in zip(benign, plain, steered, strict=True):
        result.samples.append(
            {
                "text": item.prompt,
                "benign": True,
                "answer": a,
                "answer, steered": b,
                "refused": bool(REFUSAL.search(a)),
                "refused, steered": bool(REFUSAL.search(b)),
            }
        )
    result.rate("over-refusal of benign requests", "refused", benign=True)
    result.rate("over-refusal of benign requests, steered", "refused, steered", benign=True)
