"""Sparse codes by pursuit: better codes than a linear encoder's, for the same dictionary, at a price in time.

An SAE's encoder sees each latent's direction once and cannot undo interference between latents that overlap.
Pursuit looks for the codes that explain x best: `encode` for a fixed dictionary, `learn` for a dictionary
trained with such codes.
"""

from .inference import encode
from .learning import Learned, learn

__all__ = ["Learned", "encode", "learn"]
