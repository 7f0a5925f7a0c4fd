"""Support tickets of an online shop with known labels: ground truth for a language model's features.

A ticket has five labels, each true in half of the tickets and independent of the others. For each label there
is a sentence either way, so that no topic gives it away: a customer who wants no refund often says so, a
parcel in time is mentioned, a fair price is praised. Held-out tickets are worded as no training ticket is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np

Split = Literal["train", "held_out"]
LABELS = ("refund_asked", "angry_tone", "high_value_order", "shipping_delay", "price_complaint")


@dataclass(frozen=True)
class Ticket:
    """A support ticket.

    Attributes:
        text: what the customer wrote.
        labels: for each of `LABELS`, whether it holds.
        onsets: for each of `LABELS`, at which character of the text the sentence about it begins.
    """

    text: str
    labels: dict[str, bool]
    onsets: dict[str, int] = field(repr=False)


def tickets(n: int, seed: int = 0, split: Split = "train") -> list[Ticket]:
    """Generate support tickets.

    Args:
        n: how many.
        seed: which; the same seed gives the same tickets, and the first of many are those of few.
        split: "train" or "held_out", whose sentences are worded differently throughout.

    Raises:
        ValueError: n is negative or the split has another name.

    >>> ticket = tickets(1, seed=3)[0]
    >>> sorted(ticket.labels) == sorted(LABELS), len(ticket.text.split()) > 20
    (True, True)
    """
    if n < 0:
        raise ValueError(f"n: got {n}, expected at least 0")
    if split not in ("train", "held_out"):
        raise ValueError(f"split: got {split!r}, expected 'train' or 'held_out'")
    return [_ticket(np.random.default_rng([seed, i, split == "held_out"]), split) for i in range(n)]


def label_matrix(items: list[Ticket]) -> np.ndarray:
    """(n, 5) booleans: the labels of tickets, columns in the order of `LABELS`.

    >>> label_matrix(tickets(7)).shape
    (7, 5)
    """
    return np.array([[item.labels[name] for name in LABELS] for item in items], dtype=bool).reshape(-1, 5)


def labels_of(items: list[Ticket]) -> dict[str, np.ndarray]:
    """Label -> (n,) booleans.

    >>> labels_of(tickets(7))["refund_asked"].shape
    (7,)
    """
    return dict(zip(LABELS, label_matrix(items).T, strict=True))


@cache
def wordings() -> dict[str, Any]:
    """What tickets are made of, from `tickets.json`: products, greetings, introductions, endings, amounts, sentences.

    `sentences[label]["holds" or "does not hold"][split]` is a list of sentences that say so. No sentence is in
    both splits.

    >>> sorted(wordings()["sentences"]) == sorted(LABELS)
    True
    """
    found: dict[str, Any] = json.loads(
        (files("sparse_sae.demo") / "tickets.json").read_text(encoding="utf-8")
    )
    return found


def _ticket(rng: np.random.Generator, split: Split) -> Ticket:
    labels = {name: bool(rng.integers(2)) for name in LABELS}

    def pick(texts: list[str]) -> str:
        return texts[rng.integers(len(texts))]

    texts = wordings()
    amounts = texts["amounts"]["high" if labels["high_value_order"] else "low"]
    words = {
        "product": pick(texts["products"]),
        "amount": pick(amounts[split]),
        "order": str(rng.integers(10_000, 100_000)),
        "day": pick(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]),
        "days": str(rng.integers(3, 9)),
        "percent": str(5 * rng.integers(2, 9)),
    }
    sentences = [
        pick(texts["sentences"][name]["holds" if labels[name] else "does not hold"][split]) for name in LABELS
    ]
    order = rng.permutation(len(sentences))
    parts = [
        ("", pick(texts["greetings"][split])),
        ("", pick(texts["introductions"][split])),
        *((LABELS[i], sentences[i]) for i in order),
    ]
    parts.append(("", pick(texts["endings"][split])))
    said, onsets, length = [], {}, 0
    for label, part in parts:
        if part:
            said.append(part.format(**words))
            onsets[label] = length
            length += len(said[-1]) + 1
    return Ticket(" ".join(said), labels, {name: onsets[name] for name in LABELS})
