"""From trained weights to an SAE in the units of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.architectures import Architecture
from sparse_sae.sae import SAE
from sparse_sae.training.config import TrainConfig
from sparse_sae.transforms import Transform


def finished(
    weights: Mapping[str, Array],
    config: TrainConfig,
    widths: tuple[int, ...],
    transforms: tuple[Transform, Transform],
    metadata: Mapping[str, Any],
) -> SAE:
    """An SAE of copies of weights: transforms folded where they can be, decoder rows at unit norm where that changes
    nothing.
    """
    params = {name: value.copy() for name, value in weights.items()}
    architecture, coder, (inputs, outputs) = config.architecture, config.coder, transforms
    if inputs.folds:
        inputs.fold(params, encoder=True, decoder=coder.reads_all, centered=coder.reads_all)
        if not coder.reads_all:
            outputs.fold(params, encoder=False, decoder=True, centered=False)
        if coder.kind != "crosscoder":
            _unit_rows(params, architecture, architecture.unit_norm and outputs.kind in ("none", "scale"))
    used, params = architecture.trained(params)
    how = {name: value for name, value in config.to_dict().items() if name != "metadata"}
    return SAE.from_rows(
        params,
        used,
        kind=coder.kind,
        apply_b_dec_to_input=coder.reads_all,
        transform=Transform() if inputs.folds else inputs,
        sources=coder.sources(widths),
        metadata={**metadata, "train_config": how},
    )


def _unit_rows(params: dict[str, Array], architecture: Architecture, equal: bool) -> None:
    """Give decoder rows unit norm, and codes the units of the data; equal: all rows have the same norm.

    Where latents compete for a place, they may only be scaled all alike.
    """
    norms = np.linalg.norm(params["W_dec"].astype(np.float64), axis=1)
    if (architecture.competes and not equal) or np.allclose(norms, 1, atol=1e-5):
        return
    factor = np.full_like(norms, norms.mean()) if equal else np.where(norms > 0, norms, 1)
    factor = factor.astype(params["W_dec"].dtype)
    params["W_dec"] /= factor[:, None]
    params["W_enc"] *= factor[:, None]
    params["b_enc"] *= factor
    architecture.rescale(params, factor)
