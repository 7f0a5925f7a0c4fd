"""The logit lens of an SAE: which tokens its latents promote directly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sparse_sae.lm.model.hooks import family_of, unwrap
from sparse_sae.lm.model.prompts import Model


def direct_logits(
    model: Model, sae: Any, latents: Sequence[int] | None = None, *, rms: float = 1.0
) -> NDArray[np.float32]:
    """Direct effect of latents on the logits: decoder rows read through the final norm and the unembedding.

    The logit lens (nostalgebraist 2020) of W_dec: what one unit of a latent adds to the logits if nothing
    between the hook point and the end reacts to it, with the norm's scale held fixed. For latents of the
    residual stream or of what is added to it.

    Args:
        model: a `LanguageModel` or a transformers causal model.
        sae: an SAE whose decoder rows are as wide as the residual stream.
        latents: which; None for all.
        rms: root mean square of the residual stream before the final norm. Effects are inversely proportional
            to it; which tokens come first does not depend on it.

    Returns:
        (n_latents, vocabulary) float32. Soft-capping of logits, where a model has it, is left out.

    >>> direct_logits(model, sae, [7])[0].argsort()[-5:]  # tokens that latent 7 promotes  # doctest: +SKIP
    """
    module = unwrap(model)
    rows = sae.rows["W_dec"] if latents is None else sae.rows["W_dec"][list(latents)]
    norm: Any = getattr(module, "base_model", module).get_submodule(family_of(module).final_norm)
    head: Any = module.get_output_embeddings()
    with torch.inference_mode():
        d = torch.from_numpy(np.array(rows, dtype=np.float32))
        if head is None or d.shape[1] != head.weight.shape[1]:
            raise ValueError(f"sae: decoder rows are {d.shape[1]} wide, the unembedding reads another width")
        # the norm itself, on rows made so large that its epsilon does not count, then scaled back
        centred = d - d.mean(1, keepdim=True) if isinstance(norm, nn.LayerNorm) else d
        size = centred.pow(2).mean(1, keepdim=True).sqrt()
        dtype = head.weight.dtype
        unit = norm((1e3 * d / size).to(dtype)) - norm(torch.zeros_like(d[:1]).to(dtype))
        logits: NDArray[np.float32] = (nn.functional.linear(unit, head.weight).float() * (size / rms)).numpy()
    return logits
