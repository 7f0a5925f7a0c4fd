"""Which weights have one entry or row for each latent, stated once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PER_LATENT: Mapping[str, int] = MappingProxyType({
    "W_enc": 0,
    "W_dec": 0,
    "b_enc": 0,
    "threshold": 0,
    "log_threshold": 0,
    "r_mag": 0,
    "b_mag": 0,
})  # fmt: skip
"""The axis along which a weight, as it is stored, has one entry or row for each latent. Weights that are not named
here (b_dec, W_skip, an architecture's running means) have none, whatever their length: d_in may equal d_sae."""
