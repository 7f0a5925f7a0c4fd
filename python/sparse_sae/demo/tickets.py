"""Support tickets of an online shop with known labels: ground truth for a language model's features.

A ticket has five labels, each true in half of the tickets and independent of the others. For each label there
is a sentence either way, so that no topic gives it away: a customer who wants no refund often says so, a
parcel in time is mentioned, a fair price is praised. Held-out tickets are worded as no training ticket is.

In the large vocabulary a sentence has alternatives ("[would like|want]"), and no content word of a label's sentences is
in both splits: held-out tickets then ask whether a unit knows what is meant, not which words were used. A label that
does not hold may be spoken of all the same ("no refund is needed"), which `Ticket.topics` tells.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np

Split = Literal["train", "held_out"]
Vocabulary = Literal["small", "large"]
LABELS = ("refund_asked", "angry_tone", "high_value_order", "shipping_delay", "price_complaint")


@dataclass(frozen=True)
class Ticket:
    """A support ticket.

    Attributes:
        text: what the customer wrote.
        labels: for each of `LABELS`, whether it holds.
        onsets: for each of `LABELS`, at which character of the text the sentence about it begins.
        topics: for each of `LABELS`, whether it is spoken of, if only to say that it does not hold.
        sentences: for each of `LABELS`, the sentence before its alternatives were chosen and its blanks filled: the
            group of a grouped bootstrap, as tickets with the same sentence are not independent evidence.
    """

    text: str
    labels: dict[str, bool]
    onsets: dict[str, int] = field(repr=False)
    topics: dict[str, bool] = field(repr=False, default_factory=dict)
    sentences: dict[str, str] = field(repr=False, default_factory=dict)


def tickets(n: int, seed: int = 0, split: Split = "train", vocabulary: Vocabulary = "small") -> list[Ticket]:
    """Generate support tickets.

    Args:
        n: how many.
        seed: which; the same seed gives the same tickets, and the first of many are those of few.
        split: "train" or "held_out", whose sentences are worded differently throughout.
        vocabulary: "small": a label that does not hold is mostly spoken of; "large": some hundred sentences a label,
            no content word in both splits, and a third of the labels that do not hold are spoken of.

    Raises:
        ValueError: n is negative, or the split or the vocabulary has another name.

    >>> ticket = tickets(1, seed=3)[0]
    >>> sorted(ticket.labels) == sorted(LABELS), len(ticket.text.split()) > 20
    (True, True)
    """
    if n < 0:
        raise ValueError(f"n: got {n}, expected at least 0")
    if split not in ("train", "held_out"):
        raise ValueError(f"split: got {split!r}, expected 'train' or 'held_out'")
    if vocabulary not in ("small", "large"):
        raise ValueError(f"vocabulary: got {vocabulary!r}, expected 'small' or 'large'")
    make = _ticket if vocabulary == "small" else _large_ticket
    return [make(np.random.default_rng([seed, i, split == "held_out"]), split) for i in range(n)]


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


def topics_of(items: list[Ticket]) -> dict[str, np.ndarray]:
    """Label -> (n,) booleans: whether it is spoken of.

    >>> bool((topics_of(tickets(7))["refund_asked"] >= labels_of(tickets(7))["refund_asked"]).all())
    True
    """
    return {name: np.array([item.topics[name] for item in items], dtype=bool) for name in LABELS}


@cache
def wordings(vocabulary: Vocabulary = "small") -> dict[str, Any]:
    """What tickets are made of: products, greetings, introductions, endings, sentences (small: and amounts).

    `sentences[label]["holds" or "does not hold"][split]` is a list of sentences that say so; in the large vocabulary
    there is also "mentioned": spoken of, and it does not hold. No sentence is in both splits.

    >>> sorted(wordings()["sentences"]) == sorted(wordings("large")["sentences"]) == sorted(LABELS)
    True
    """
    name = "tickets.json" if vocabulary == "small" else "tickets_large.json"
    found: dict[str, Any] = json.loads((files("sparse_sae.demo") / name).read_text(encoding="utf-8"))
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
    sentences = {
        name: pick(texts["sentences"][name]["holds" if labels[name] else "does not hold"][split])
        for name in LABELS
    }
    order = rng.permutation(len(sentences))
    greeting, introduction = pick(texts["greetings"][split]), pick(texts["introductions"][split])
    parts = [("", greeting), ("", introduction), *((LABELS[i], sentences[LABELS[i]]) for i in order)]
    parts.append(("", pick(texts["endings"][split])))
    # a sentence that speaks of something else does not say so in this vocabulary; that the label's topic is absent
    # cannot be told, so all are counted as spoken of
    return _joined(
        [(label, part.format(**words)) for label, part in parts],
        labels,
        dict.fromkeys(LABELS, True),
        sentences,
    )


def _large_ticket(rng: np.random.Generator, split: Split) -> Ticket:
    labels = {name: bool(rng.integers(2)) for name in LABELS}
    topics = {name: labels[name] or rng.random() < 1 / 3 for name in LABELS}

    def pick(texts: list[str]) -> str:
        return texts[rng.integers(len(texts))]

    texts = wordings("large")
    words = {
        "product": pick(texts["products"][split]),
        "order": str(rng.integers(10_000, 100_000)),
        "day": pick(["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]),
        "days": str(rng.integers(3, 9)),
        "percent": str(5 * rng.integers(2, 9)),
    }
    ways = {
        name: "holds" if labels[name] else "mentioned" if topics[name] else "does not hold" for name in LABELS
    }
    sentences = {name: pick(texts["sentences"][name][ways[name]][split]) for name in LABELS}
    parts = [("", pick(texts["greetings"][split])), ("", pick(texts["introductions"][split]))]
    parts += [(LABELS[i], sentences[LABELS[i]]) for i in rng.permutation(len(LABELS))]
    parts.append(("", pick(texts["endings"][split])))
    said = [
        (label, re.sub(r"\[([^]]*)\]", lambda found: pick(found[1].split("|")), part).format(**words))
        for label, part in parts
    ]
    return _joined(said, labels, topics, sentences)


def _joined(
    parts: list[tuple[str, str]], labels: dict[str, bool], topics: dict[str, bool], sentences: dict[str, str]
) -> Ticket:
    said, onsets, length = [], {}, 0
    for label, part in parts:
        if part:
            said.append(part)
            onsets[label] = length
            length += len(part) + 1
    return Ticket(" ".join(said), labels, {name: onsets[name] for name in LABELS}, topics, sentences)
