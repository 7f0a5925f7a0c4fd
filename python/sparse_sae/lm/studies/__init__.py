"""Measurements: quality on the model, outcomes under edits, doses, intervals and tests."""

from sparse_sae.lm._extra import require_extra

require_extra()
