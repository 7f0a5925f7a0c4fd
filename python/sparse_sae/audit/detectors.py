"""Detectors of a label, fitted on development texts: the best latent, and the baselines it has to be held against."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.special import expit

from sparse_sae._io.arrays import Array
from sparse_sae.audit.examples import Examples
from sparse_sae.audit.features import Features
from sparse_sae.probing import auroc


@dataclass(frozen=True)
class Fitted:
    """A detector: scores of texts, the higher the more like the label.

    Attributes:
        name: of the kind of detector. score: (features, texts) -> (n,).
        what: what was chosen, such as a latent's number.
        probability: whether a score is a log-odds, so that it can be calibrated.
    """

    name: str
    score: Callable[[Features, Sequence[str]], Array]
    what: dict[str, Any]
    probability: bool = False


def logistic(x: Any, labels: Array, l2: float = 1.0) -> tuple[Array, float]:
    """Logistic regression, dense or CSR: weights and bias that minimise loss + l2/2 · |w|² (L-BFGS of SciPy).

    Classes weigh the same, however many cases each has.

    >>> w, b = logistic(np.array([[-1.0], [1.0]]), np.array([False, True]))
    >>> bool(w[0] > 0.3), round(abs(b), 3)
    (True, 0.0)
    """
    y = np.where(labels, 1.0, -1.0)
    weight = np.where(labels, 0.5 / labels.sum(), 0.5 / (~labels).sum()) * len(y)

    def loss(parameters: Array) -> tuple[float, Array]:
        w, b = parameters[:-1], parameters[-1]
        margin = y * (x @ w + b)
        value = float((weight * np.logaddexp(0, -margin)).sum() + 0.5 * l2 * w @ w)
        slope = -weight * y * expit(-margin)
        return value, np.append(x.T @ slope + l2 * w, slope.sum())

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return found.x[:-1], float(found.x[-1])


def best_latent(features: Features, examples: Examples, candidates: Array | None = None) -> Fitted:
    """The latent whose largest value in a text tells the label best, by AUROC, upwards only: it fires on the label."""
    if features.latents is None:
        raise ValueError("sae: got None, expected the SAE whose latents are to be chosen from")
    values = features.latents if candidates is None else features.latents[:, candidates]
    areas = auroc(values, examples.labels)
    at = int(np.argmax(areas))
    latent = at if candidates is None else int(candidates[at])

    def score(f: Features, _texts: Sequence[str]) -> Array:
        if f.latents is None:
            raise ValueError("features: no latents")
        return f.latents[:, latent].astype(np.float64)

    return Fitted("latent", score, {"latent": latent, "development_auroc": float(areas[at])})


def random_latent(features: Features, examples: Examples, seed: int = 0, among: int = 1) -> Fitted:
    """The best of `among` latents drawn from those that fire on a development text: what choosing from few gives."""
    if features.latents is None:
        raise ValueError("sae: got None, expected the SAE whose latents are drawn from")
    alive = np.flatnonzero(features.latents.any(axis=0))
    if not len(alive):
        raise ValueError("sae: no latent fires on any development text")
    drawn = np.random.default_rng(seed).choice(alive, min(among, len(alive)), replace=False)
    found = best_latent(features, examples, drawn)
    return Fitted("random latent", found.score, {**found.what, "among": int(among)})


def raw_probe(features: Features, examples: Examples, l2: float = 10.0) -> Fitted:
    """Logistic regression on mean activations; its direction is what a monitor with pooling="mean" watches."""
    mean, scale = features.raw.mean(0, dtype=np.float64), features.raw.std(0, dtype=np.float64) + 1e-6
    w, b = logistic((features.raw - mean) / scale, examples.labels, l2)
    direction, bias = w / scale, float(b - mean @ (w / scale))

    def score(f: Features, _texts: Sequence[str]) -> Array:
        return np.asarray(f.raw @ direction + bias)

    return Fitted("raw probe", score, {"direction": direction.tolist(), "bias": bias, "l2": l2}, True)


_WORD = re.compile(r"\w+|[^\w\s]")


def bag_of_words(_features: Features, examples: Examples, l2: float = 1.0) -> Fitted:
    """Logistic regression on which words a text has; no model at all."""
    counts: dict[str, int] = {}
    for text in examples.texts:
        for word in set(_WORD.findall(text.lower())):
            counts[word] = counts.get(word, 0) + 1
    vocabulary = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if n > 1))}

    def rows(texts: Sequence[str]) -> csr_array:
        found = [sorted({vocabulary[w] for w in _WORD.findall(t.lower()) if w in vocabulary}) for t in texts]
        indptr = np.concatenate([[0], np.cumsum([len(f) for f in found])]).astype(np.int64)
        index = np.array([i for f in found for i in f], np.int64)
        return csr_array((np.ones(len(index)), index, indptr), shape=(len(texts), max(1, len(vocabulary))))

    w, b = logistic(rows(examples.texts), examples.labels, l2)
    return Fitted(
        "bag of words",
        lambda _f, texts: np.asarray(rows(texts) @ w + b),
        {"words": len(vocabulary), "l2": l2},
        True,
    )


def length(features: Features, examples: Examples) -> Fitted:
    """How long a text is, in tokens; longer or shorter, as it was in development."""
    sign = 1.0 if auroc(features.tokens, examples.labels) >= 0.5 else -1.0
    return Fitted("length", lambda f, _texts: sign * f.tokens.astype(np.float64), {"sign": sign})


KINDS: dict[str, Callable[[Features, Examples], Fitted]] = {
    "latent": best_latent,
    "raw probe": raw_probe,
    "random latent": random_latent,
    "bag of words": bag_of_words,
    "length": length,
}
