"""Controlled experiments: the same prompts under several edits of a model, and what changed for certain.

Every prompt is measured without an edit and with each of them, so comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from sparse_sae.lm.model.engine import Point
from sparse_sae.lm.model.prompts import Model, Prompt
from sparse_sae.lm.studies.reuse import reuse_below
from sparse_sae.lm.studies.scores import choice_logprobs
from sparse_sae.lm.studies.significance import (
    benjamini_hochberg,
    bootstrap_mean,
    holm,
    mcnemar,
    sign_flip,
    wilson,
)

Values: TypeAlias = "dict[str, NDArray[np.float64]]"
Outcome: TypeAlias = "Callable[[Model, Sequence[Prompt]], Mapping[str, ArrayLike]]"
Intervention: TypeAlias = Callable[[], AbstractContextManager[Any]]


def decisions(
    choices: Mapping[str, str | Sequence[str]],
    *,
    prior: Mapping[str, float] | None = None,
    tokenizer: Any = None,
    batch_size: int = 16,
    share_prefix: bool = False,
) -> Outcome:
    """An outcome: which of several answers the model would give, from one forward pass a prompt.

    Args:
        choices: decision -> the text, or texts, that express it; their probabilities are added. The texts
            should be about equally long, as a longer one is always less probable.
        prior: decision -> log-probability to subtract before decisions are compared, for a model that prefers
            an answer whatever the prompt (contextual calibration, Zhao et al. 2021).
        batch_size, share_prefix: as in `choice_logprobs`.

    Returns:
        A function (model, prompts) -> values of each prompt: for every decision its name, 1 where it is the
        most probable and 0 elsewhere, and "log p(name)", its log-probability among the decisions (prior
        subtracted).

    >>> outcome = decisions({"approve": "Approved", "refuse": "Refused"})
    """
    if len(choices) < 2:
        raise ValueError(f"choices: at least two decisions are needed, got {list(choices)}")
    texts = {name: [text] if isinstance(text, str) else list(text) for name, text in choices.items()}
    shift = np.array([(prior or {}).get(name, 0.0) for name in texts])
    unknown = set(prior or {}) - set(texts)
    if unknown:
        raise ValueError(f"prior: no such decision {sorted(unknown)}; they are {list(texts)}")

    def measure(model: Model, prompts: Sequence[Prompt]) -> Values:
        flat = [text for group in texts.values() for text in group]
        each = choice_logprobs(
            model, prompts, flat, tokenizer=tokenizer, batch_size=batch_size, share_prefix=share_prefix
        )
        ends = np.cumsum([len(group) for group in texts.values()])
        parts = np.split(each, ends[:-1], axis=1)
        logp = np.stack([logsumexp(part, axis=1) for part in parts], 1) - shift
        logp -= logsumexp(logp, axis=1, keepdims=True)
        best = logp.argmax(1)
        values: Values = {name: (best == i).astype(np.float64) for i, name in enumerate(texts)}
        return values | {f"log p({name})": logp[:, i] for i, name in enumerate(texts)}

    return measure


@dataclass(frozen=True)
class Change:
    """One outcome under one edit, against the same prompts without it.

    Attributes:
        before, after: mean over prompts; a rate if the outcome is 0 or 1 for each.
        before_interval, after_interval: Wilson intervals of rates, bootstrap intervals of means and of
            anything in groups.
        change, change_interval: mean paired difference with its bootstrap interval.
        p, p_holm, p_bh: exact McNemar test of a rate (sign-flip permutation test of a mean, or of anything
            when prompts come in groups), and the same adjusted over all changes of the experiment.
        n: prompts.
    """

    edit: str
    outcome: str
    before: float
    after: float
    change: float
    before_interval: tuple[float, float]
    after_interval: tuple[float, float]
    change_interval: tuple[float, float]
    p: float
    p_holm: float
    p_bh: float
    n: int


@dataclass(frozen=True)
class Experiment:
    """Changes, one for each edit and outcome; prints as a table.

    `values` holds what was measured: edit ("unedited" first) -> outcome -> (n_prompts,) array.
    """

    changes: list[Change]
    values: dict[str, Values]
    confidence: float

    def to_dict(self) -> list[dict[str, Any]]:
        """The changes as dicts, ready for JSON."""
        return [asdict(change) for change in self.changes]

    def __str__(self) -> str:
        width = max([4, *(len(change.edit) for change in self.changes)])
        interval = f"{self.confidence:.0%} interval"
        head = f"{'before':>8} {'after':>8} {'change':>8}  {interval:<18} p (Holm)"
        lines = [f"{'edit':<{width}}  {'outcome':<16} {head}"]
        for c in self.changes:
            span = f"[{c.change_interval[0]:+.3f}, {c.change_interval[1]:+.3f}]"
            numbers = f"{c.before:>8.3f} {c.after:>8.3f} {c.change:>+8.3f}"
            lines.append(f"{c.edit:<{width}}  {c.outcome:<16} {numbers}  {span:<18} {c.p_holm:.2g}")
        return "\n".join(lines)


def experiment(
    model: Model,
    prompts: Sequence[Prompt],
    outcome: Outcome,
    edits: Mapping[str, Intervention],
    *,
    outcomes: Sequence[str] | None = None,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    reuse: str | Point | None = None,
    chunk: int = 256,
    progress: Callable[[str], None] | None = None,
) -> Experiment:
    """Measure an outcome on every prompt without and with each edit, and test what changed.

    Args:
        model: a `LanguageModel` or a transformers causal model.
        prompts: held-out prompts.
        outcome: (model, prompts) -> outcome -> (n_prompts,) values; `decisions` makes one.
        edits: name -> function that opens a context in which the model is edited, such as
            `lambda: steer(model, sae, {7: 40.0})`.
        outcomes: which outcomes to test; all by default. Fewer tests need a smaller adjustment.
        groups: (n_prompts,) labels of prompts that are not independent (of one template, say); intervals and
            tests then treat a group as one observation.
        confidence: coverage of the intervals.
        reuse: a hook point that all edits are at, or above: the layers below it are run once for each prompt
            (`reuse_below`), which gives the same numbers sooner.
        chunk: prompts measured under all edits before the next ones are taken up; bounds what `reuse` keeps.
        progress: called with a line before each measurement.

    >>> up = {"up": lambda: steer(model, sae, {7: 40.0})}
    >>> print(experiment(model, prompts, outcome, up))  # doctest: +SKIP
    """
    if "unedited" in edits:
        raise ValueError("edits: the name 'unedited' is taken by the model as it is")
    n = len(prompts)
    if n < 2:
        raise ValueError(f"prompts: an experiment needs at least two, got {n}")
    labels = None if groups is None else np.asarray(groups)
    if labels is not None and labels.shape != (n,):
        raise ValueError(f"groups: got shape {labels.shape}, expected ({n},), one label a prompt")
    parts: dict[str, list[Values]] = {}
    for start in range(0, n, chunk):
        part = prompts[start : start + chunk]
        with nullcontext() if reuse is None else reuse_below(model, reuse):
            for name, edit in {"unedited": nullcontext, **edits}.items():
                if progress is not None:
                    progress(f"prompts {start + 1} to {start + len(part)} of {n}: {name}")
                with edit():
                    measured = outcome(model, part)
                checked = {key: _checked(key, value, len(part)) for key, value in measured.items()}
                parts.setdefault(name, []).append(checked)
    values = {
        name: {key: np.concatenate([v[key] for v in some]) for key in some[0]} for name, some in parts.items()
    }
    tested = list(values["unedited"]) if outcomes is None else list(outcomes)
    missing = [key for key in tested if key not in values["unedited"]]
    if missing:
        raise ValueError(f"outcomes: {missing} were not measured; there are {list(values['unedited'])}")
    changes = _changes(values, list(edits), tested, labels, confidence, seed)
    return Experiment(adjusted(changes), values, confidence)


def adjusted(changes: list[Change]) -> list[Change]:
    """The same changes with p-values adjusted over all of them."""
    p = [change.p for change in changes]
    pairs = zip(changes, holm(p).tolist(), benjamini_hochberg(p).tolist(), strict=True)
    return [Change(**{**asdict(change), "p_holm": h, "p_bh": b}) for change, h, b in pairs]


def _checked(name: str, value: ArrayLike, n: int) -> NDArray[np.float64]:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != (n,) or not np.isfinite(array).all():
        raise ValueError(
            f"outcome {name!r}: got shape {array.shape}, expected {n} finite values, one a prompt"
        )
    return array


def _changes(
    values: dict[str, Values],
    edits: list[str],
    tested: list[str],
    groups: NDArray[Any] | None,
    confidence: float,
    seed: int,
) -> list[Change]:
    names = [(edit, key) for edit in edits for key in tested]
    before = np.stack([values["unedited"][key] for _, key in names], 1)
    after = np.stack([values[edit][key] for edit, key in names], 1)
    n = len(before)
    columns = np.concatenate([before, after, after - before], axis=1)
    low, high = bootstrap_mean(columns, confidence, groups=groups, seed=seed)
    p = sign_flip(after - before, groups=groups, seed=seed)
    if groups is None:  # what is yes or no has its own interval and an exact test
        rates = np.flatnonzero(np.isin(columns[:, : 2 * len(names)], (0.0, 1.0)).all(0))
        low[rates], high[rates] = wilson(columns[:, rates].sum(0), n, confidence)
        for i in np.intersect1d(rates, rates - len(names)):  # both before and after
            p[i] = mcnemar(before[:, i], after[:, i])
    means = columns.mean(0).reshape(3, len(names)).tolist()
    ends = list(zip(low.tolist(), high.tolist(), strict=True))
    spans = [ends[part : part + len(names)] for part in range(0, len(ends), len(names))]
    return [
        Change(
            edit,
            key,
            means[0][i],
            means[1][i],
            means[2][i],
            spans[0][i],
            spans[1][i],
            spans[2][i],
            float(p[i]),
            float(p[i]),
            float(p[i]),
            n,
        )
        for i, (edit, key) in enumerate(names)
    ]
