"""The model: loading, hook points by name, prompts as tokens."""

from sparse_sae.lm._extra import require_extra

require_extra()
