"""Activations: texts to sequences, forward passes, stores and streams."""

from sparse_sae.lm._extra import require_extra

require_extra()
