"""Single units as detectors: values pooled by text, and the best unit of each kind for each label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.probing.scores import auroc, average_precision

if TYPE_CHECKING:
    from sparse_sae.data.store import ActivationStore
    from sparse_sae.sae import SAE


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
    starts, maxima = _texts(store), []
    for first in range(0, len(starts) - 1, 32):  # texts at a time: enough rows for a fast encode
        bounds = starts[first : first + 33]
        rows = store.rows(slice(bounds[0], bounds[-1]))
        values = rows if view is None else view(rows)
        maxima.append(np.maximum.reduceat(values, bounds[:-1] - bounds[0], axis=0))
    return np.concatenate(maxima)


def document_means(store: ActivationStore) -> Array:
    """The mean activation of each text: what a dense probe reads.

    Args:
        store: activations; texts come in the order of `store.documents`.

    Returns:
        (n_texts, d_in) float32, for the texts that have rows left; in the units of the model.

    >>> document_means(store).shape  # doctest: +SKIP
    (1500, 576)
    """
    starts, means = _texts(store), []
    for first in range(0, len(starts) - 1, 32):
        bounds = starts[first : first + 33]
        rows = store.rows(slice(bounds[0], bounds[-1]))
        sums = np.add.reduceat(rows, bounds[:-1] - bounds[0], axis=0)
        means.append(sums / np.diff(bounds)[:, None].astype(np.float32))
    return np.concatenate(means)


def _texts(store: ActivationStore) -> Array:
    """Where each text begins, and where the last one ends."""
    documents = store.documents
    return np.append(np.flatnonzero(np.diff(documents, prepend=-1)), len(documents))


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
