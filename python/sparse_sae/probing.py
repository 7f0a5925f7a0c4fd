"""Single units as detectors: values pooled by text, AUROC and average precision of known labels, top contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_sae._io.arrays import Array

if TYPE_CHECKING:
    from sparse_sae.data.store import ActivationStore
    from sparse_sae.sae import SAE


def auroc(scores: Array, labels: Array) -> Array:
    """Area under the ROC curve of each column; ties count half.

    Args:
        scores: (n,) or (n, m). labels: (n,) bool, with both values present.

    Returns:
        () or (m,) in [0, 1]: the chance that a positive scores above a negative.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    array(0.75)
    """
    from scipy.stats import rankdata

    labels = _checked(scores, labels)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    ranks = rankdata(scores, axis=0)
    return np.asarray((ranks[labels].sum(axis=0) - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: Array, labels: Array) -> float:
    """Mean over the positives of the precision at their rank; equal scores count as one threshold.

    Args:
        scores: (n,). labels: (n,) bool.

    >>> round(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])), 4)
    0.8333
    """
    labels = _checked(scores, labels)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last_of_ties = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    recalled = np.diff(hits[last_of_ties], prepend=0)
    return float((recalled * hits[last_of_ties] / (last_of_ties + 1)).sum() / hits[-1])


@dataclass(frozen=True)
class Detector:
    """One column used as a detector of a label: chosen on some examples, scored on others.

    Attributes:
        index: the column. sign: -1 where low scores mean the label.
        auroc, average_precision: on the held-out examples.
    """

    index: int
    sign: int
    auroc: float
    average_precision: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dict(vars(self))


def best_detector(train: Array, train_labels: Array, held_out: Array, held_out_labels: Array) -> Detector:
    """The column with the highest AUROC on the training examples, in either direction, scored on held-out ones.

    Args:
        train, held_out: (n, m) scores of m candidates. *_labels: (n,) bool.

    >>> x, y = np.array([[0.0, 2.0], [1.0, 1.0], [0.0, 0.0]]), np.array([False, False, True])
    >>> best_detector(x, y, x, y)
    Detector(index=1, sign=-1, auroc=1.0, average_precision=1.0)
    """
    areas = auroc(train, train_labels)
    index = int(np.argmax(np.maximum(areas, 1 - areas)))
    sign = 1 if areas[index] >= 0.5 else -1
    scores = sign * held_out[:, index]
    return Detector(
        index, sign, float(auroc(scores, held_out_labels)), average_precision(scores, held_out_labels)
    )


def document_maxima(store: ActivationStore, view: Callable[[Array], Array] | None = None) -> Array:
    """Pool by text: the highest value of each unit on any token of each text.

    Args:
        store: activations; texts are told apart by `store.documents` and come in its order.
        view: (n, d_in) rows -> (n, m) values; None for the activations themselves (neurons).

    Returns:
        (n_texts, m), for the texts that have rows left.

    >>> import tempfile
    >>> from sparse_sae.data.store import ActivationStore, StoreWriter
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     writer = StoreWriter(directory, d_in=2, dtype="float32")
    ...     rows = np.array([[1, 8], [3, 2], [5, 4]], np.float32)
    ...     writer.append(rows, tokens=[5, 6, 7], positions=[1, 2, 1], documents=[0, 0, 1])
    ...     writer.finish()
    ...     document_maxima(ActivationStore(directory))
    array([[3., 8.],
           [5., 4.]], dtype=float32)
    """
    documents = store.documents
    starts = np.append(np.flatnonzero(np.diff(documents, prepend=-1)), len(documents))
    maxima = []
    for first in range(0, len(starts) - 1, 32):  # texts at a time: enough rows for a fast encode
        bounds = starts[first : first + 33]
        rows = store.rows(slice(bounds[0], bounds[-1]))
        values = rows if view is None else view(rows)
        maxima.append(np.maximum.reduceat(values, bounds[:-1] - bounds[0], axis=0))
    return np.concatenate(maxima)


def unit_views(sae: SAE, seed: int = 0) -> dict[str, Callable[[Array], Array]]:
    """What a label's detectors are looked for among: "neuron", "latent", and as many "random" directions as latents.

    Random directions say how good the best of so many is by chance; they are centred on b_dec, as latents are.
    """
    random = np.random.default_rng(seed).standard_normal((sae.d_in, sae.d_sae), dtype=np.float32)
    random /= np.linalg.norm(random, axis=0)
    return {
        "neuron": lambda x: x,
        "latent": lambda x: np.asarray(sae.encode(x).toarray()),
        "random": lambda x: (x - sae.b_dec) @ random,
    }


def label_detectors(
    train: Mapping[str, Array],
    held_out: Mapping[str, Array],
    train_labels: Mapping[str, Array],
    held_out_labels: Mapping[str, Array],
) -> dict[str, dict[str, Detector]]:
    """For each label the best unit of each kind, chosen on training texts and scored on held-out ones.

    Args:
        train, held_out: kind of unit -> (n_texts, m) values, such as `document_maxima` of the `unit_views`.
        train_labels, held_out_labels: label -> (n_texts,) bool.

    Returns:
        label -> kind -> `Detector`.

    >>> x, late = np.array([[0.0, 2.0], [1.0, 1.0], [0.0, 0.0]]), np.array([True, False, False])
    >>> label_detectors({"neuron": x}, {"neuron": x}, {"late": late}, {"late": late})["late"]["neuron"].index
    1
    """
    return {
        label: {
            kind: best_detector(train[kind], train_labels[label], held_out[kind], held_out_labels[label])
            for kind in train
        }
        for label in train_labels
    }


@dataclass(frozen=True)
class Context:
    """A token on which a latent fires, among its neighbours.

    Attributes:
        value: the latent's activation. row: the row of the store.
        tokens: token ids around it, of its own sequence. at: which of them is the token.
    """

    value: float
    row: int
    tokens: tuple[int, ...]
    at: int

    def text(self, tokenizer: Any) -> str:
        """The words, with the token between double square brackets."""
        parts = self.tokens[: self.at], self.tokens[self.at : self.at + 1], self.tokens[self.at + 1 :]
        before, token, after = (tokenizer.decode(list(part)) for part in parts)
        return " ".join(f"{before}[[{token}]]{after}".split())


def top_contexts(
    sae: SAE, store: ActivationStore, latents: Sequence[int], n: int = 10, *, before: int = 10, after: int = 5
) -> dict[int, list[Context]]:
    """Where each latent fires most: latent -> its n strongest tokens in context, strongest first.

    Reads the whole store once, in blocks. A latent that fires on fewer tokens has fewer; ties go to the earlier row.

    Args:
        latents: which latents, distinct.
        before, after: how many neighbours of the token are kept.
    """
    columns = [int(latent) for latent in latents]
    best = np.full((n, len(columns)), -np.inf)
    rows = np.zeros((n, len(columns)), np.int64)
    for start, codes in _blocks_of_codes(sae, store):
        values = np.concatenate([best, codes.tocsc()[:, columns].toarray()])
        numbers = np.concatenate(
            [rows, np.tile(np.arange(start, start + codes.shape[0])[:, None], len(columns))]
        )
        order = np.argsort(-values, axis=0, kind="stable")[:n]
        best, rows = np.take_along_axis(values, order, 0), np.take_along_axis(numbers, order, 0)
    found: dict[int, list[Context]] = {}
    for column, latent in enumerate(columns):
        found[latent] = []
        for value, row in zip(best[:, column].tolist(), rows[:, column].tolist(), strict=True):
            if value > 0:
                tokens, at = store.context(row, before, after)
                found[latent].append(Context(value, row, tuple(tokens.tolist()), at))
    return found


def _blocks_of_codes(sae: SAE, store: ActivationStore, size: int = 8192) -> Iterator[tuple[int, Any]]:
    for start in range(0, len(store), size):
        yield start, sae.encode(store.rows(slice(start, start + size)))


def _checked(scores: Array, labels: Array) -> Array:
    labels = np.asarray(labels, dtype=bool)
    if labels.ndim != 1 or len(scores) != len(labels):
        raise ValueError(f"labels: shape {labels.shape}, expected ({len(scores)},), one per row of scores")
    if labels.all() or not labels.any():
        raise ValueError("labels: all alike, expected positives and negatives")
    return labels
