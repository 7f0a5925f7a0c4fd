"""What weights an SAE has, their shapes, which have one entry or row for each latent, and what decides its codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from sparse_sae.codes import Array

NEEDED = ("W_enc", "W_dec", "b_enc", "b_dec")

PER_LATENT: Mapping[str, int] = MappingProxyType(
    {
        "W_enc": 0,
        "W_dec": 0,
        "b_enc": 0,
        "threshold": 0,
        "log_threshold": 0,
        "r_mag": 0,
        "b_mag": 0,
    }
)
"""The axis along which a weight, as it is stored, has one entry or row for each latent. Weights that are not named
here (b_dec, W_skip, an architecture's running means) have none, whatever their length: d_in may equal d_sae."""


def what_encodes(sae: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """Everything that decides an SAE's codes, as named arrays and settings fit for JSON: what a hash of an SAE covers.

    >>> import numpy as np, sparse_sae
    >>> eye, zero = np.eye(4, dtype=np.float32), np.zeros(4, np.float32)
    >>> sae = sparse_sae.SAE({"W_enc": eye, "W_dec": eye, "b_enc": zero, "b_dec": zero}, sparse_sae.TopK(k=2))
    >>> arrays, settings = what_encodes(sae)
    >>> sorted(arrays), sorted(settings)
    (['W_dec', 'W_enc', 'b_dec', 'b_enc'], ['apply_b_dec_to_input', 'architecture', 'kind', 'transform'])
    """
    arrays = {**sae.params, **{f"transform.{k}": v for k, v in sae.transform.arrays.items()}}
    settings = {
        "architecture": sae.activation.config(),
        "apply_b_dec_to_input": bool(sae.apply_b_dec_to_input),
        "kind": sae.kind,
        "transform": sae.transform.kind,
    }
    return arrays, settings


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
    if 0 in (d_sae, d_in, d_out):
        raise ValueError(
            f"W_enc, W_dec: shapes {(d_in, d_sae)} and {params['W_dec'].shape}, "
            "expected at least one input, latent and output"
        )
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
