"""Tiny random models of every family, and transcoders for them, that the tests of circuits share."""

from __future__ import annotations

from typing import Any

import numpy as np

import sparse_sae

IDS = [1, 9, 3, 7, 11, 9]
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gpt2"]
CONFIGS = {
    "llama": "LlamaConfig",
    "nine heads": "LlamaConfig",
    "mistral": "MistralConfig",
    "qwen2": "Qwen2Config",
    "qwen3": "Qwen3Config",
    "gpt2": "GPT2Config",
}
_BUILT: dict[Any, Any] = {}


def model_of(family: str, dtype: Any = None) -> Any:
    """A random model of a family, float64 unless another dtype is asked for; "nine heads" is a wider Llama."""
    import torch
    import transformers

    dtype = dtype or torch.float64
    if (family, dtype) not in _BUILT:
        sizes: dict[str, Any] = {
            "vocab_size": 50,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "intermediate_size": 48,
            "max_position_embeddings": 32,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
        if family == "gpt2":
            sizes = {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32}
            sizes |= {"bos_token_id": 1, "eos_token_id": 2}
        if family == "nine heads":  # numbers that no vector of a CPU divides
            sizes |= {"hidden_size": 144, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16}
        if family == "mistral":
            sizes["sliding_window"] = 4
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, CONFIGS[family])(**sizes))
        model = model.eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))  # norms and biases that do something
        _BUILT[family, dtype] = model.to(dtype)
    return _BUILT[family, dtype]


def transcoders(model: Any, layers: tuple[int, ...] = (0, 2), skip: bool = True) -> Any:
    """A set of random transcoders: one of layer 0 reads what the norm returns, the others hook_resid_mid."""
    from sparse_sae.circuits import DictionarySet

    rng = np.random.default_rng(0)
    path = "transformer.h.0.mlp:in" if model.config.model_type == "gpt2" else "model.layers.0.mlp:in"
    width = model.config.hidden_size
    saes = {}
    for layer in layers:
        params = {
            "W_enc": rng.normal(size=(40, width)),
            "W_dec": rng.normal(size=(40, width)),
            "b_enc": rng.normal(size=40) / 4,
            "b_dec": rng.normal(size=width) / 4,
        }
        if skip:
            params["W_skip"] = rng.normal(size=(width, width)) / 8
        sae = sparse_sae.SAE.from_rows(
            {k: v.astype(np.float64) for k, v in params.items()},
            sparse_sae.TopK(k=5),
            apply_b_dec_to_input=False,
        )
        reads = path if layer == 0 else f"blocks.{layer}.hook_resid_mid"
        saes[reads, f"blocks.{layer}.hook_mlp_out"] = sae
    return DictionarySet(saes, model_name=model.config.model_type)
