"""Each latent as a detector of labels of texts: AUROC, beside the best that shuffled labels reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.browser.contexts import Stream
from sparse_sae.browser.spill import Entries
from sparse_sae.probing import auroc


class Labels:
    """Texts known to have a label or not, and how well latents tell the two apart.

    Args:
        labels: name -> {"positive": numbers of texts, "negative": numbers of texts} of the store.
        documents: the texts' numbers that the store has.

    Raises:
        ValueError: a label without positives or negatives, or with a text that the store does not have.
    """

    def __init__(
        self, labels: Mapping[str, Mapping[str, Sequence[int]]], documents: Array, seed: int = 0
    ) -> None:
        self._sets: dict[str, tuple[Array, Array, Array]] = {}
        self.chance = dict.fromkeys(labels, 0.0)
        known = np.unique(documents)
        for name, sides in labels.items():
            if not isinstance(sides, Mapping) or set(sides) != {"positive", "negative"}:
                raise ValueError(
                    f"labels: {name!r} needs lists of texts 'positive' and 'negative', and no more"
                )
            positive, negative = (np.unique(np.asarray(sides[k], np.int64)) for k in ("positive", "negative"))
            texts = np.concatenate([positive, negative])
            strangers = np.setdiff1d(texts, known)
            if not len(positive) or not len(negative) or len(strangers) or len(np.unique(texts)) < len(texts):
                found = (
                    f"text {strangers[0]} is not in the store"
                    if len(strangers)
                    else "one side is empty or both share texts"
                )
                raise ValueError(f"labels: {name!r}: {found}")
            truth = np.isin(np.sort(texts), positive)
            shuffled = np.random.default_rng(seed).permutation(truth)
            self._sets[name] = (np.sort(texts), truth, shuffled)

    def __bool__(self) -> bool:
        return bool(self._sets)

    def of(self, entries: Entries, m: int, stream: Stream) -> dict[str, Array]:
        """name -> (m,) AUROC of each latent's maximum over a text. `chance` keeps the best under shuffled labels."""
        found: dict[str, Array] = {}
        for name, (texts, truth, shuffled) in self._sets.items():
            document = stream.documents[entries.row]
            place = np.minimum(np.searchsorted(texts, document), len(texts) - 1)
            inside = texts[place] == document
            scores = np.zeros((len(texts), m), np.float32)
            np.maximum.at(scores, (place[inside], entries.latent[inside]), np.abs(entries.value[inside]))
            areas = auroc(scores, truth)
            found[name] = areas
            by_chance = auroc(scores, shuffled)
            self.chance[name] = max(self.chance[name], float(by_chance.max(initial=0.0)))
        return found


def best(areas: Mapping[str, Array], i: int) -> tuple[float | None, str | None, dict[str, Any]]:
    """The label a latent tells best, by |AUROC - ½|; its AUROC; and all of them."""
    each = {name: round(float(values[i]), 4) for name, values in areas.items()}
    if not each:
        return None, None, {}
    name = max(each, key=lambda n: abs(each[n] - 0.5))
    return each[name], name, each
