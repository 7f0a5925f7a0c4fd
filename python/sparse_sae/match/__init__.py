"""Matching dictionaries: to each other, across seeds and layers, and to the truth; always beside chance.

- `match`: the optimal one-to-one assignment, its measures and their chance level.
- `detectors`: every latent as a detector of every true feature.
- `stability`, `refinement`, `duplicates`: across seeds, across layers or sizes, within one dictionary.
- `families`: absorption and splitting, where the hierarchy of the true features is known.
"""

from sparse_sae.match.chance import Chance, Level, random_like
from sparse_sae.match.detectors import Detectors, detectors
from sparse_sae.match.families import Families, families
from sparse_sae.match.matching import Matching, match
from sparse_sae.match.stability import Refinement, Stability, duplicates, refinement, stability

__all__ = [
    "Chance",
    "Detectors",
    "Families",
    "Level",
    "Matching",
    "Refinement",
    "Stability",
    "detectors",
    "duplicates",
    "families",
    "match",
    "random_like",
    "refinement",
    "stability",
]
