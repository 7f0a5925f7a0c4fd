"""Activations whose true features are known.

`lesson()` is one small, fixed data set; `superposition(...)` describes a family of them as large as you like,
made block by block. A library that looks for features is believed for what it finds here, beside what chance
finds (`sparse_sae.match`).
"""

from .lesson import Lesson, lesson

__all__ = ["Lesson", "lesson"]
