"""What `explain` explains: a number read from the logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sparse_sae.lm.model.prompts import continuation_ids

Target: TypeAlias = "str | int | tuple[str | int, str | int] | Callable[[Tensor], Tensor]"


@dataclass(frozen=True)
class Measure:
    """A target as a function of one row of logits (positions, vocabulary).

    `appended`: tokens it reads beyond the prompt; `keep`: how many of the last logits it needs, 0 for all.
    """

    name: str
    read: Callable[[Tensor], Tensor]
    appended: list[int]
    keep: int


def target_measure(target: Target, tokenizer: Any) -> Measure:
    """The measure of a target as a user gives it; see `explain`."""
    if isinstance(target, str):
        wanted = torch.tensor(continuation_ids(target, tokenizer))
        n = len(wanted)

        def continuation(logits: Tensor) -> Tensor:
            return logits[-n:].log_softmax(-1).gather(1, wanted[:, None]).sum()

        return Measure(f"log-probability of {target!r}", continuation, wanted[:-1].tolist(), n)
    if isinstance(target, int | np.integer):
        token = int(target)
        shown = repr(tokenizer.decode([token])) if tokenizer is not None else str(token)
        return Measure(f"log-probability of {shown}", lambda logits: logits[-1].log_softmax(-1)[token], [], 1)
    if isinstance(target, tuple):
        if len(target) != 2:
            raise ValueError(f"target: a logit difference is a pair (a, b), got {len(target)} entries")
        a, b = (_one_token(t, tokenizer) for t in target)
        return Measure(
            f"logit of {target[0]!r} - logit of {target[1]!r}", lambda out: out[-1, a] - out[-1, b], [], 1
        )
    if callable(target):
        return Measure(getattr(target, "__name__", "target"), target, [], 0)
    raise TypeError(
        f"target: got {type(target).__name__}, expected a string, a token id, a pair or a function"
    )


def _one_token(token: str | int, tokenizer: Any) -> int:
    if not isinstance(token, str):
        return int(token)
    if tokenizer is None:
        raise ValueError("tokenizer: needed for a target given as text")
    ids = continuation_ids(token, tokenizer)
    if len(ids) != 1:
        raise ValueError(
            f"target: {token!r} is {len(ids)} tokens; a logit difference needs one token on each side"
        )
    return ids[0]
