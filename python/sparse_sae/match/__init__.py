"""Matching dictionaries: to each other, across seeds and layers, and to the truth; always beside chance.

- `match`: the optimal one-to-one assignment, its measures and their chance level.
- `detectors`: every latent as a detector of every true feature.
- `stability`, `refinement`, `duplicates`: across seeds, across layers or sizes, within one dictionary.
- `families`: absorption and splitting, where the hierarchy of the true features is known.
"""

from .chance import Chance, Level, random_like
from .detectors import Detectors, detectors
from .families import Families, families
from .matching import Matching, match
from .stability import Refinement, Stability, duplicates, refinement, stability

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
