"""Matching dictionaries: to each other, across seeds and layers, and to the truth; always beside chance."""

from .chance import Chance, Level, random_like
from .matching import Matching, match

__all__ = ["Chance", "Level", "Matching", "match", "random_like"]
