"""Sparse codes by pursuit: better codes than a linear encoder's, for the same dictionary, at a price in time.

An SAE's encoder sees each latent's direction once and cannot undo interference between latents that overlap.
Pursuit looks for the codes that explain x best: `encode` for a fixed dictionary, `learn` for a dictionary
trained with such codes, `learn_online` for one of a language model's width. `refine` keeps an encoder's codes and takes
away those that the others make unnecessary.
"""

from sparse_sae.pursuit.inference import encode
from sparse_sae.pursuit.learning import Learned, learn
from sparse_sae.pursuit.online import Online, learn_online
from sparse_sae.pursuit.refinement import leave_one_out, refine

__all__ = ["Learned", "Online", "encode", "learn", "learn_online", "leave_one_out", "refine"]
