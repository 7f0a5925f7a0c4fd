"""What moves each outcome of a decision: latents found on development prompts, edited at the end of sealed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparse_sae._arguments import one_of
from sparse_sae.audit.choosing import chance_interval
from sparse_sae.audit.context import Context
from sparse_sae.audit.datasets import Labelled, labelled
from sparse_sae.audit.hashes import sha256, sha256_of
from sparse_sae.audit.last_token import KINDS, LastTokenEdits
from sparse_sae.audit.results import Result
from sparse_sae.lm.harvest.reader import in_dtype
from sparse_sae.lm.model.pairing import require_own_space
from sparse_sae.lm.studies.deciding import Decisions, decide, decision_gradients, log_odds
from sparse_sae.lm.studies.significance import bootstrap_mean
from sparse_sae.probing import auroc


def run(check: Mapping[str, Any], context: Context) -> Result:
    """Parameters of the check: data and development (`labelled`); outcomes, name -> a continuation of one token;
    strength .1, the share of the activation's median norm that is added; controls 9, directions of equal norm; block
    500, how many prompts a sample of the bundle counts; batch_size 16; compute_dtype "float32", or "bfloat16", sooner
    and to three digits.

    A decision is the most probable outcome once each one's mean on development prompts is taken off (contextual
    calibration, Zhao et al. 2021): a small model prefers one answer whatever it reads.
    """
    sae = context.need_sae()
    require_own_space(sae)
    outcomes = dict(check["outcomes"])
    development = labelled(check["development"], context.policy.directory)
    data = labelled(check["data"], context.policy.directory)
    both = set(development.examples.texts) & set(data.examples.texts)
    if both:
        raise ValueError(
            f"data: {len(both)} texts are in development too, {min(both)[:60]!r} is one; give others"
        )
    context.note_data("development", development.sha256, **development.about)
    context.note_data("examples", data.sha256, **data.about)

    choices, hook = list(outcomes.values()), context.hook
    dtype = one_of("compute_dtype", check.get("compute_dtype", "float32"), ("float32", "bfloat16"))
    lm = in_dtype(context.lm, dtype)
    size = int(check.get("batch_size", 16))
    prior = decide(lm, development.prompts, choices, hook, batch_size=size).plain.mean(0)
    rows, gradients = decision_gradients(lm, development.prompts, choices, hook, batch_size=size)
    chosen = _strongest(sae, rows, gradients)
    edits = LastTokenEdits.of(
        sae, chosen, rows, float(check.get("strength", 0.1)), int(check.get("controls", 9)), context.seed
    )
    context.read_test(data.examples.sha256)
    memory = context.kept([hook, choices, str(lm.dtype), edits.sha256])
    block = int(check.get("block", 500))
    found = decide(lm, data.prompts, choices, hook, edits.edits, batch_size=size, block=block, memory=memory)
    result = Result()
    _samples(result, data, found, prior, list(outcomes), edits, block)
    _rates(result, list(outcomes))
    odds = log_odds(np.asarray(found.plain, np.float64))
    after = log_odds(np.asarray(found.edited, np.float64))
    codes = np.asarray(sae.encode(found.rows)[:, edits.latents].toarray())
    for o, name in enumerate(outcomes):
        _outcome(result, name, o, edits, chosen[o], odds, after, codes, data, _decided(found.plain, prior))
    _notes(result, data, development, chosen, list(outcomes), edits)
    return result


def _strongest(sae: Any, rows: Any, gradients: Any) -> list[int]:
    """For each outcome the latent whose activation times its decoder row moves the log-odds most, by the gradient's
    mean on development prompts; a latent serves one outcome."""
    codes = sae.encode(rows)
    decoder = np.asarray(sae.rows["W_dec"], np.float64)
    chosen: list[int] = []
    for o in range(gradients.shape[1]):
        effect = np.abs(np.asarray(codes.multiply(gradients[:, o] @ decoder.T).mean(axis=0)).reshape(-1))
        effect[chosen] = -1
        if not effect.max() > 0:
            raise ValueError("sae: no latent is active on the last token of any development prompt")
        chosen.append(int(effect.argmax()))
    return chosen


def _decided(logp: Any, prior: Any) -> Any:
    return (logp - prior).argmax(-1)


def _samples(
    result: Result,
    data: Labelled,
    found: Decisions,
    prior: Any,
    names: list[str],
    edits: LastTokenEdits,
    block: int,
) -> None:
    """One sample for `block` prompts: how many were decided how, and hashes of texts and of log-probabilities."""
    plain, after = _decided(found.plain, prior), _decided(found.edited, prior)
    texts = data.examples.texts
    for start in range(0, len(texts), block):
        part = slice(start, min(start + block, len(texts)))
        values = np.concatenate([found.plain[part, None], found.edited[part]], 1)
        sample: dict[str, Any] = {
            "text": f"prompts {part.start} to {part.stop - 1}",
            "cases": part.stop - part.start,
            "texts_sha256": sha256_of(texts[part]),
            "values_sha256": sha256(np.ascontiguousarray(values).tobytes()),
        }
        for o, name in enumerate(names):
            sample[name] = int((plain[part] == o).sum())
            for e, latent, kind in edits.of_latents():
                edit = _edit(names[edits.latents.index(latent)], kind)
                sample[f"{name}, {edit}"] = int((after[part, e] == o).sum())
        for e, latent, kind in edits.of_latents():
            edit = _edit(names[edits.latents.index(latent)], kind)
            sample[f"decided otherwise, {edit}"] = int((after[part, e] != plain[part]).sum())
        result.samples.append(sample)


def _edit(outcome: str, kind: str) -> str:
    return f"latent of {outcome} {kind}"


def _rates(result: Result, names: list[str]) -> None:
    for name in names:
        result.rate(f"{name}: rate", name)
    for name in names:
        for kind in KINDS:
            edit = _edit(name, kind)
            result.rate(f"{name}: rate, {edit}", f"{name}, {edit}")
            result.rate(f"decided otherwise, {edit}", f"decided otherwise, {edit}")


def _outcome(
    result: Result,
    name: str,
    o: int,
    edits: LastTokenEdits,
    latent: int,
    odds: Any,
    after: Any,
    codes: Any,
    data: Labelled,
    decided: Any,
) -> None:
    """Detects, silences, adds: each beside chance or directions of equal norm."""
    value = codes[:, edits.latents.index(latent)]
    own = decided == o
    result.number(f"{name}: its latent is active, share", float((value > 0).mean()))
    if 0 < own.sum() < len(own):
        result.number(f"{name}: its latent detects the decision, AUROC", float(auroc(value, own)), chance=0.5)
    result.number(
        f"{name}: the decision's log-odds detect the label, AUROC",
        float(auroc(odds[:, o], data.examples.labels)),
        chance=0.5,
    )
    for kind in KINDS:
        at, controls = edits.index(kind, latent)
        change = after[:, at, o] - odds[:, o]
        mean, (low, high) = float(change.mean()), map(float, bootstrap_mean(change))
        others = (after[:, controls, o] - odds[:, o, None]).mean(0)
        result.number(f"{name}: {kind}, change of log-odds", mean, low, high, chance=0.0)
        result.number(
            f"{name}: {kind}, largest change by a control of equal norm",
            float(np.abs(others).max()),
        )
        p = (1 + int((np.abs(others) >= abs(mean)).sum())) / (1 + len(others))
        result.number(f"{name}: {kind}, p against controls", p, chance=0.5)


def _notes(
    result: Result,
    data: Labelled,
    development: Labelled,
    chosen: list[int],
    names: list[str],
    edits: LastTokenEdits,
) -> None:
    texts, labels = data.examples.texts, data.examples.labels
    positives = int(labels.sum())
    low, high = chance_interval(positives, len(texts) - positives)
    pairs = ", ".join(f"{latent} for {name}" for latent, name in zip(chosen, names, strict=True))
    result.notes.append(
        f"Latents chosen on {len(development.examples.texts)} development prompts: {pairs}. Edits are at the last token"
        " alone, where the decision is made: silencing takes the latent's activation times its decoder row away, adding"
        f" puts {edits.strength:.3g} along it. Each is held against {edits.n_controls} directions of equal norm, of "
        "which every second is the decoder row of another latent that is active there."
    )
    result.notes.append(
        f"{len(texts)} sealed prompts, {len(texts) - len(set(texts))} of them repeated; {positives} carry the label. "
        f"An AUROC at chance lies between {low:.3f} and {high:.3f} on so many. A sample counts a block of prompts."
    )
