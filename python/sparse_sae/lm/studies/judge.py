"""A yes-or-no judge made of the model itself: worked examples before the text, and a threshold fitted on others.

A small model that is asked outright judges at chance. Shown a few examples first it does better (in-context learning,
Brown et al. 2020), and as it prefers one answer whatever it reads, the threshold is calibrated on texts whose answer
is known (Zhao et al. 2021). How well it then judges is measured on other texts before anything is steered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparse_sae.lm.model.prompts import Model, Prompt
from sparse_sae.lm.studies.experiments import Values
from sparse_sae.lm.studies.scores import choice_logprobs
from sparse_sae.probing import auroc, balanced_threshold


@dataclass(frozen=True)
class Judge:
    """Decides yes or no about a text; an `Outcome` for `experiment` and `dose_response`.

    Attributes:
        preface: what stands before every text: the instruction and the worked examples.
        before, after: what frames a text, such as "Ticket: " and a line that asks.
        yes, no: the answers, of as many tokens each.
        threshold: margins above it are a yes. auroc: of the margins on the texts it was fitted on.
    """

    preface: str
    before: str
    after: str
    yes: str
    no: str
    threshold: float
    auroc: float

    def prompt(self, text: str) -> str:
        """The text as the model gets it."""
        return f"{self.preface}{self.before}{text}{self.after}"

    def margins(
        self, model: Model, prompts: Sequence[Prompt], *, tokenizer: Any = None, batch_size: int = 16
    ) -> NDArray[np.float64]:
        """(n,) log p(yes) - log p(no) - threshold of prompts made by `prompt`; what they share is read once."""
        logp = choice_logprobs(
            model, prompts, [self.yes, self.no], tokenizer=tokenizer, batch_size=batch_size, share_prefix=True
        )
        margins: NDArray[np.float64] = logp[:, 0] - logp[:, 1] - self.threshold
        return margins

    def __call__(self, model: Model, prompts: Sequence[Prompt]) -> Values:
        """ "yes", 1 or 0 for each prompt, and "margin"."""
        margins = self.margins(model, prompts)
        return {"yes": (margins > 0).astype(np.float64), "margin": margins}


def calibrated_judge(
    model: Model,
    instruction: str,
    examples: Sequence[tuple[str, bool]],
    texts: Sequence[str],
    labels: ArrayLike,
    *,
    before: str = "Ticket: ",
    after: str = "\nAnswer:",
    yes: str = " Yes",
    no: str = " No",
    tokenizer: Any = None,
    batch_size: int = 16,
) -> Judge:
    """A judge whose threshold separates labelled texts best.

    Args:
        model: a `LanguageModel` or a transformers causal model.
        instruction: what is to be judged, in a sentence or two.
        examples: (text, answer) pairs shown before every text; both answers should occur.
        texts, labels: what the threshold is fitted on, (n,) bool; other texts than the examples.
        before, after, yes, no: the frame of a text, and the answers.
        tokenizer: for a bare transformers model.

    Returns:
        A `Judge` with the threshold of the highest balanced accuracy (the middle of the gap it lies in).

    Raises:
        ValueError: labels of another number than texts, or all alike; an example that is among the texts.

    >>> judge = calibrated_judge(lm, "Is a refund asked for?", examples, texts, asked)  # doctest: +SKIP
    >>> auroc(judge.margins(lm, [judge.prompt(t) for t in held_out]), held_out_asked)  # doctest: +SKIP
    """
    asked = np.asarray(labels, dtype=bool)
    if asked.shape != (len(texts),):
        raise ValueError(f"labels: got shape {asked.shape}, expected ({len(texts)},), one for each text")
    if asked.all() or not asked.any():
        raise ValueError("labels: got all alike, expected texts of both kinds")
    if set(texts) & {text for text, _ in examples}:
        raise ValueError("examples: got a text that the threshold is fitted on too, expected others")
    shown = "".join(f"{before}{text}{after}{yes if answer else no}\n\n" for text, answer in examples)
    judge = Judge(f"{instruction}\n\n{shown}", before, after, yes, no, 0.0, 0.0)
    margins = judge.margins(
        model, [judge.prompt(text) for text in texts], tokenizer=tokenizer, batch_size=batch_size
    )
    fitted = balanced_threshold(margins, asked)
    return Judge(judge.preface, before, after, yes, no, fitted, float(auroc(margins, asked)))
