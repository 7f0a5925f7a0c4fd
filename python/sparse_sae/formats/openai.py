"""OpenAI's GPT-2 autoencoders: one .pt state dict a layer, read through torch's weights-only loader.

TopK models see each row as (x - mean) / (std + 1e-5), std unbiased, and write mean and std back; ReLU models do
not, and nothing in the file but the activation's name tells. encoder.weight is mapped, decoder.weight copied.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sparse_sae.activations import Activation, ReLU, TopK
from sparse_sae.formats._build import build, matrices, take, transposed
from sparse_sae.formats._files import peek_torch, read_torch
from sparse_sae.sae import SAE
from sparse_sae.transforms import Transform

NAME = "openai"
EXPECTS = "OpenAI: a .pt file with pre_bias, latent_bias, encoder.weight and decoder.weight"
_NAMES = {"W_enc": "encoder.weight", "b_enc": "latent_bias", "W_dec": "decoder.weight", "b_dec": "pre_bias"}
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


def recognise(path: Path) -> bool:
    """Whether this is such a file."""
    return path.is_file() and {"pre_bias", "latent_bias"} <= peek_torch(path)


def read(path: Path) -> SAE:
    """Read such a file."""
    state = read_torch(path)
    activation = state.pop("activation", "ReLU")
    settings = state.pop("activation_state_dict", {})
    for name in (*_STATISTICS, "activation.k", "activation.postact_fn"):
        state.pop(name, None)
    params = take(path, state, _NAMES)
    matrices(path, params, "W_enc", "W_dec")
    params["W_dec"] = transposed(params["W_dec"])
    chosen: Activation
    if activation == "TopK":
        if settings.get("postact_fn", "ReLU") != "ReLU":
            raise NotImplementedError(
                f"{path}: TopK with postact_fn {settings['postact_fn']!r} is not read, only ReLU"
            )
        if not isinstance(settings.get("k"), int):
            raise ValueError(f"{path}: activation_state_dict holds {settings!r}, expected a k")
        chosen, transform = TopK(k=settings["k"]), Transform("layer_norm")
    elif activation == "ReLU":
        chosen, transform = ReLU(), Transform()
    else:
        raise NotImplementedError(f"{path}: activation {activation!r} is not read, only 'TopK' and 'ReLU'")
    return build(path, params, chosen, center=True, transform=transform, metadata=_metadata(path))


def _metadata(path: Path) -> dict[str, Any]:
    """…/gpt2-small/{location}/autoencoders/{layer}.pt, as released."""
    sites = {
        "mlp_post_act": "mlp.hook_post",
        "resid_delta_attn": "hook_attn_out",
        "resid_delta_mlp": "hook_mlp_out",
        "resid_post_attn": "hook_resid_mid",
        "resid_post_mlp": "hook_resid_post",
    }
    location = path.parent.parent.name
    site = next((hook for name, hook in sites.items() if location.startswith(name)), None)
    if site is None or not re.fullmatch(r"\d+\.pt", path.name):
        return {}
    return {"model_name": "gpt2-small", "hook_name": f"blocks.{path.stem}.{site}"}
