"""From tensors under somebody's names to an `SAE`, with errors that name the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae.activations import Activation
from sparse_sae.formats._files import Array
from sparse_sae.sae import SAE
from sparse_sae.transforms import Transform

VECTORS = ("b_enc", "threshold", "b_gate", "b_mag", "r_mag")


def take(
    where: Path, tensors: dict[str, Any], names: dict[str, str], optional: tuple[str, ...] = ()
) -> dict[str, Array]:
    """Tensors by our names, from `names`: ours -> theirs. Those that nobody reads are an error.

    Silently leaving out a tensor would give an SAE that computes something else.
    """
    missing = [theirs for ours, theirs in names.items() if theirs not in tensors and ours not in optional]
    if missing:
        raise ValueError(
            f"{where}: no {', '.join(missing)}; found {', '.join(sorted(tensors)) or 'no tensors'}"
        )
    extra = sorted(tensors.keys() - set(names.values()))
    if extra:
        raise ValueError(
            f"{where}: holds {', '.join(extra)} beside {', '.join(names.values())}: another kind of SAE"
        )
    return {ours: tensors[theirs] for ours, theirs in names.items() if theirs in tensors}


def build(
    where: Path,
    params: dict[str, Array],
    activation: Activation,
    *,
    center: bool,
    kind: str | None = None,
    transform: Transform | None = None,
    sources: tuple[int, ...] = (),
    metadata: dict[str, Any] | None = None,
) -> SAE:
    """An SAE from parameters in its own layout (a latent a row), with W_enc, W_dec views where they can be.

    Raises a ValueError that names the file where they do not fit together or are not finite.
    """
    for name, value in params.items():
        if not np.issubdtype(value.dtype, np.floating):
            raise ValueError(f"{where}: {name} has dtype {value.dtype}, expected floats")
    dtype = np.float64 if params["W_enc"].dtype == np.float64 else np.float32
    params = {name: np.asarray(value, dtype) for name, value in params.items()}
    d_sae = len(params["W_enc"])
    for name in VECTORS:
        if name in params and params[name].shape != (d_sae,):
            raise ValueError(
                f"{where}: {name} has shape {params[name].shape}, expected ({d_sae},) like W_enc's latents"
            )
    try:
        return SAE.from_rows(
            params,
            activation,
            kind=kind,
            apply_b_dec_to_input=center,
            transform=transform,
            sources=sources,
            metadata=metadata,
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def matrices(where: Path, params: dict[str, Array], *names: str) -> None:
    """Raise a ValueError unless these are matrices."""
    for name in names:
        if params[name].ndim != 2:
            raise ValueError(f"{where}: {name} has shape {params[name].shape}, expected a matrix")


def transposed(matrix: Array) -> Array:
    """A contiguous copy of matrix.T, by tiles that use a cache line whole before it is evicted."""
    out = np.empty(matrix.shape[::-1], matrix.dtype)
    for i in range(0, matrix.shape[0], 16):
        for j in range(0, matrix.shape[1], 256):
            out[j : j + 256, i : i + 16] = matrix[i : i + 16, j : j + 256].T
    return out


def fold_decoder_norm(params: dict[str, Array], *vectors: str) -> None:
    """Make decoder rows unit in place of params; x̂ is unchanged, codes are multiplied by the norms.

    Latents without a decoder direction are switched off: they never wrote anything.
    """
    norm = np.linalg.norm(params["W_dec"].astype(np.float64), axis=1)
    inverse = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
    dtype = params["W_dec"].dtype
    params["W_dec"] = (params["W_dec"] * inverse[:, None]).astype(dtype)
    params["W_enc"] = (params["W_enc"] * norm[:, None]).astype(dtype)
    for name in ("b_enc", *vectors):
        params[name] = (params[name] * norm).astype(dtype)


def center_into_bias(params: dict[str, Array]) -> Array:
    """W_enc b_dec: what subtracting b_dec from the input takes off the pre-activations (d_sae,)."""
    return np.asarray(params["W_enc"].astype(np.float64) @ params["b_dec"].astype(np.float64))


def layer_of(text: str) -> int | None:
    """The layer number in a hook point or a file name."""
    found = re.search(r"(?:blocks\.|layers?[._]?|^|/)(\d+)(?:\.|/|_|$)", text)
    return int(found.group(1)) if found else None
