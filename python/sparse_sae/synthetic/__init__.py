"""Activations whose true features are known.

`lesson()` is one small, fixed data set; `superposition(...)` describes a family of them as large as you like,
made block by block, with `synthsaebench_16k()` as a known member. A library that looks for features is
believed for what it finds here, beside what chance finds (`sparse_sae.match`).
"""

from sparse_sae.synthetic.directions import push_apart, random_directions
from sparse_sae.synthetic.firing import Hierarchy, zipf
from sparse_sae.synthetic.lesson import Lesson, lesson
from sparse_sae.synthetic.world import Samples, Superposition, superposition, synthsaebench_16k

__all__ = [
    "Hierarchy",
    "Lesson",
    "Samples",
    "Superposition",
    "lesson",
    "push_apart",
    "random_directions",
    "superposition",
    "synthsaebench_16k",
    "zipf",
]
