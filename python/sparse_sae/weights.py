"""What weights an SAE has: their shapes, and which have one entry or row for each latent, stated once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from .codes import Array

NEEDED = ("W_enc", "W_dec", "b_enc", "b_dec")

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


def check_weights(params: Mapping[str, Array], needed: Sequence[str], *, centred: bool) -> None:
    """Raise unless weights, stored a latent a row, have the names, dtypes and shapes of one SAE and are finite.

    Args:
        needed: names that must be there. centred: whether b_dec is subtracted from the input, and must be as wide.

    Raises:
        ValueError, TypeError: the first that does not fit, named.
    """
    for name in needed:
        if name not in params:
            raise ValueError(f"params: no {name!r}, expected {', '.join(needed)}")
    w, dtype = params["W_enc"], params["W_enc"].dtype
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"W_enc: dtype {dtype}, expected float32 or float64")
    if w.ndim != 2 or params["W_dec"].ndim != 2:
        raise ValueError(
            f"W_enc, W_dec: {w.ndim} and {params['W_dec'].ndim} axes, expected (d_in, d_sae), (d_sae, d_out)"
        )
    d_sae, d_in = w.shape
    d_out = params["W_dec"].shape[1]
    shapes = {**dict.fromkeys(PER_LATENT, (d_sae,)), "W_enc": w.shape, "W_dec": (d_sae, d_out)}
    shapes |= {"b_dec": (d_out,), "W_skip": (d_out, d_in)}
    for name, value in params.items():
        if value.shape != shapes.get(name, value.shape):
            raise ValueError(
                f"{name}: shape {value.shape}, expected {shapes[name]} to go with W_enc {(d_in, d_sae)}, "
                "which is (d_in, d_sae)"
            )
        if value.dtype != dtype:
            raise TypeError(f"{name}: dtype {value.dtype}, expected {dtype} like W_enc")
        if not np.isfinite(value).all():
            raise ValueError(f"{name}: holds NaN or infinity; the file or the training run is damaged")
    if centred and d_in != d_out:
        raise ValueError(
            f"apply_b_dec_to_input: b_dec is {d_out} wide, the input {d_in}; pass False for a transcoder"
        )
