"""What `run.py` measures of one layer and of one SAE: detectors chosen on development tickets, scored on others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import sparse_sae
from sparse_sae.data.store import ActivationStore
from sparse_sae.demo.tickets import LABELS, Ticket, labels_of, topics_of
from sparse_sae.probing import (
    Probe,
    auroc,
    balanced_threshold,
    compare,
    dense_probe,
    document_maxima,
    document_means,
    sparse_probe,
    specificity,
    unit_probe,
    unit_views,
)

Scores = dict[str, dict[str, np.ndarray]]  # kind -> set of texts -> (n, m) values
TARGETS = {"label": labels_of, "topic": topics_of}
LABELLED = ("read", "development", "held-out")
DRAWS = 500


class Layer:
    """Activations of one layer: what SAEs are trained on, and what texts are pooled from.

    Attributes:
        training: (n, d_in) float16 rows of the tickets that are read and of English prose.
        texts: set -> store; "neutral" is English prose that is not in training.
        tokens: set -> how many.
    """

    def __init__(
        self, number: int, stores: dict[str, ActivationStore], sets: dict[str, list[Ticket]], neutral: int
    ) -> None:
        self.number = number
        prose = stores["english"]
        pieces = np.unique(prose.documents)
        self.texts = {name: stores[name] for name in LABELLED}
        self.texts["neutral"] = prose.select(documents=pieces[:neutral])
        reading = [stores["read"], prose.select(documents=pieces[neutral:])]
        self.training = np.concatenate([store.rows().astype(np.float16) for store in reading])
        self.tokens = {name: len(store) for name, store in self.texts.items()}
        self.tokens["training"] = len(self.training)
        self.targets = {
            target: {name: read(sets[name]) for name in LABELLED} for target, read in TARGETS.items()
        }
        self.groups = {
            label: {name: np.array([item.sentences[label] for item in sets[name]]) for name in LABELLED}
            for label in LABELS
        }
        self.neurons = self.pooled(None)

    def pooled(self, view: Callable[[np.ndarray], np.ndarray] | None) -> dict[str, np.ndarray]:
        """Set -> (n_texts, m) highest values on any token."""
        return {name: document_maxima(store, view) for name, store in self.texts.items()}


def baselines(layer: Layer, n_directions: int) -> dict[str, Any]:
    """Target -> label -> what needs no SAE: best neuron, PCA direction and random direction, and the dense probe."""
    sample = layer.training[:: max(1, len(layer.training) // 20_000)].astype(np.float32)
    centre = sample.mean(0)
    components = np.linalg.svd(sample - centre, full_matrices=False)[2].T
    random = np.random.default_rng(0).standard_normal((len(centre), n_directions), dtype=np.float32)
    random /= np.linalg.norm(random, axis=0)
    values: Scores = {
        "neuron": layer.neurons,
        "PCA direction": layer.pooled(lambda x: (x - centre) @ components),
        "random direction": layer.pooled(lambda x: (x - centre) @ random),
        "dense probe": {name: document_means(store) for name, store in layer.texts.items()},
    }

    def chosen(kind: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Probe:
        if kind == "dense probe":
            return dense_probe(x, y, groups=groups, ridges=(100.0,))
        return unit_probe(x, y)

    return measured(layer, values, chosen)


def latents_of(sae: sparse_sae.SAE, layer: Layer) -> dict[str, Any]:
    """An SAE's quality on held-out tickets and prose, and its latents as detectors, beside the best neuron."""
    rows = [layer.texts[name].rows() for name in ("held-out", "neutral")]
    quality = sparse_sae.evaluate(sae, np.concatenate(rows))
    latents = layer.pooled(unit_views(sae)["latent"])
    values: Scores = {
        "neuron": layer.neurons,
        "latent": latents,
        "2 latents": latents,
        "5 latents": latents,
    }

    def chosen(kind: str, x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Probe:
        if kind == "neuron":
            return unit_probe(x, y)
        # a feature that fires on something has to be high there
        return unit_probe(x, y, signs=(1,)) if kind == "latent" else sparse_probe(x, y, int(kind[0]))

    found = measured(layer, values, chosen)
    for target, of_labels in found.items():
        for label, entry in of_labels.items():
            best = auroc(latents["held-out"], layer.targets[target]["held-out"][label])
            # chosen on the held-out tickets themselves: more than any choice can reach, no estimate
            entry["latent"]["bound"] = round(float(best.max()), 4)
    return {name: round(getattr(quality, name), 4) for name in ("fvu", "l0", "dead_fraction")} | found


def random_weights(sae: sparse_sae.SAE, layer: Layer) -> dict[str, Any]:
    """The same for an SAE on a model with random weights."""
    return {"tickets": len(layer.neurons["held-out"])} | latents_of(sae, layer)


def measured(
    layer: Layer, values: Scores, chosen: Callable[[str, np.ndarray, np.ndarray, np.ndarray], Probe]
) -> dict[str, Any]:
    """Target -> label -> kind -> evidence on held-out tickets, AUROC in the words of development, specificity."""
    found: dict[str, Any] = {}
    for target, of_sets in layer.targets.items():
        found[target] = {}
        for label in LABELS:
            y = {name: of_sets[name][label] for name in LABELLED}
            groups = layer.groups[label]
            probes = {
                kind: chosen(kind, x["development"], y["development"], groups["development"])
                for kind, x in values.items()
            }
            scores = {kind: {name: probes[kind](x) for name, x in values[kind].items()} for kind in probes}
            evidence = compare(
                {kind: of["held-out"] for kind, of in scores.items()},
                y["held-out"],
                against="neuron",
                groups=groups["held-out"],
                n_draws=DRAWS,
            )
            found[target][label] = {
                kind: {
                    **_rounded(evidence[kind].to_dict()),
                    "units": list(probes[kind].columns) if len(probes[kind].columns) <= 5 else None,
                    "auroc_seen_words": round(float(auroc(of["read"], y["read"])), 4),
                    "auroc_development": round(float(auroc(of["development"], y["development"])), 4),
                    "specificity": {
                        name: _specificity(of, y["development"], of_sets[name], label, name)
                        for name in ("held-out", "read")
                    },
                }
                for kind, of in scores.items()
            }
    return found


def _specificity(
    scores: dict[str, np.ndarray],
    development: np.ndarray,
    labels: dict[str, np.ndarray],
    label: str,
    name: str,
) -> dict[str, Any]:
    threshold = balanced_threshold(scores["development"], development)
    counted = specificity(
        scores[name],
        labels,
        label,
        threshold,
        neutral=scores["neutral"],
        top=min(100, len(scores[name])),
    )
    return dict(_rounded(counted.to_dict()))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value
