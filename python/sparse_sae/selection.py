"""Which latents are active: codes of the pre-activations above thresholds, or of the k largest of each row."""

from __future__ import annotations

from sparse_sae import _kernels
from sparse_sae.codes import Array, Codes, Params


def above(
    params: Params,
    threshold: Array | None,
    x: Array,
    center: Array | None,
    latents: Array | None,
    num_threads: int,
) -> Codes:
    """Pre-activations above thresholds (d_sae,), or above 0."""
    return Codes(
        *_kernels.encode_threshold(
            x,
            params["W_enc"],
            params["b_enc"],
            threshold,
            center=center,
            latents=latents,
            num_threads=num_threads,
        )
    )


def top(
    params: Params,
    x: Array,
    k: int,
    center: Array | None,
    latents: Array | None,
    absolute: bool,
    num_threads: int,
) -> tuple[Codes, int]:
    """The k largest pre-activations of each row, and the number of rows that screening could not decide."""
    found = _kernels.encode_topk(
        x,
        params["W_enc"],
        params["b_enc"],
        k,
        center=center,
        latents=latents,
        absolute=absolute,
        relu=not absolute,
        num_threads=num_threads,
    )
    return Codes(*found[:3]), found[3]
