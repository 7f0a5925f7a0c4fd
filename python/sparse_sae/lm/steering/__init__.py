"""Edits of activations while a model runs."""

from sparse_sae.lm._extra import require_extra

require_extra()
