"""Which units tell what a text is about: values pooled by text, detectors of labels, and what they are worth.

- `document_maxima`, `document_means`, `unit_views`, `label_detectors`: units (neurons, latents, random directions).
- `unit_probe`, `sparse_probe`, `dense_probe`: one unit, a few, all of them.
- `compare`, `specificity`: intervals over groups of texts, paired differences, and where else a detector fires.
- `top_contexts`: where a latent fires most.
"""

from sparse_sae.probing.contexts import Context, top_contexts
from sparse_sae.probing.evidence import (
    Estimate,
    Evidence,
    Specificity,
    balanced_threshold,
    compare,
    specificity,
)
from sparse_sae.probing.probes import Probe, dense_probe, sparse_probe, unit_probe
from sparse_sae.probing.scores import auroc, average_precision
from sparse_sae.probing.units import (
    Detector,
    best_detector,
    document_maxima,
    document_means,
    label_detectors,
    unit_views,
)

__all__ = [
    "Context",
    "Detector",
    "Estimate",
    "Evidence",
    "Probe",
    "Specificity",
    "auroc",
    "average_precision",
    "balanced_threshold",
    "best_detector",
    "compare",
    "dense_probe",
    "document_maxima",
    "document_means",
    "label_detectors",
    "sparse_probe",
    "specificity",
    "top_contexts",
    "unit_probe",
    "unit_views",
]
