"""Which families of transformers can be written out, and where each keeps its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sparse_sae.circuits.transformer import Layer, Norm, Transformer


def transformer_of(model: Any) -> Transformer:
    """The written-out form of a model; its parameters are shared, not copied.

    Args:
        model: a `LanguageModel`, or a transformers causal model of a family in `FAMILIES`.

    Raises:
        NotImplementedError: another family. TypeError: parameters of less than float32.
    """
    module: Any = model if isinstance(model, nn.Module) else model.model
    kind = getattr(getattr(module, "config", None), "model_type", type(module).__name__)
    if kind not in FAMILIES:
        raise NotImplementedError(
            f"model: attribution graphs are written out for {', '.join(sorted(FAMILIES))}; this one is {kind!r}. "
            "Feature circuits (feature_circuit) work on every family with hook points"
        )
    dtype = next(module.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"model: parameters are {dtype}, expected float32 or float64; load it with dtype='float32'"
        )
    return FAMILIES[kind](module, str(getattr(model, "name", kind)))


def _rms(norm: Any) -> Norm:
    return Norm(False, norm.weight.data, None, float(norm.variance_epsilon))


def _layer_norm(norm: Any) -> Norm:
    return Norm(True, norm.weight.data, norm.bias.data, float(norm.eps))


def _bias(linear: Any) -> Tensor | None:
    return None if linear.bias is None else linear.bias.data


def _llama(module: Any, name: str) -> Transformer:
    """Llama, Mistral, Qwen 2 and 3: RMSNorm, rotary positions, grouped keys and values, perhaps q/k-norms."""
    base, config = module.base_model, module.config
    layers = []
    for block in base.layers:
        a = block.self_attn
        normed = hasattr(a, "q_norm")
        window = config.sliding_window if config.model_type == "mistral" else None
        layers.append(
            Layer(
                norm1=_rms(block.input_layernorm),
                norm2=_rms(block.post_attention_layernorm),
                W_Q=a.q_proj.weight.data,
                W_K=a.k_proj.weight.data,
                W_V=a.v_proj.weight.data,
                W_O=a.o_proj.weight.data,
                b_Q=_bias(a.q_proj),
                b_K=_bias(a.k_proj),
                b_V=_bias(a.v_proj),
                b_O=_bias(a.o_proj),
                q_norm=_rms(a.q_norm) if normed else None,
                k_norm=_rms(a.k_norm) if normed else None,
                mlp=block.mlp,
                n_heads=config.num_attention_heads,
                n_groups=config.num_key_value_heads,
                scale=float(a.scaling),
                window=getattr(a, "sliding_window", None) or window,
            )
        )
    head = module.get_output_embeddings()
    return Transformer(
        name,
        module,
        layers,
        _rms(base.norm),
        head.weight.data,
        _bias(head),
        base.embed_tokens,
        base.rotary_emb,
    )


def _gpt2(module: Any, name: str) -> Transformer:
    """GPT-2: LayerNorm, learned positions, biases everywhere, weights stored (in, out)."""
    base, config = module.base_model, module.config
    if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights:
        raise NotImplementedError(
            "model: this GPT-2 scales its attention in a way that is not written out here"
        )
    layers = []
    for block in base.h:
        weights = block.attn.c_attn.weight.data.T.chunk(3)
        biases = block.attn.c_attn.bias.data.chunk(3)
        heads = config.num_attention_heads
        layers.append(
            Layer(
                norm1=_layer_norm(block.ln_1),
                norm2=_layer_norm(block.ln_2),
                W_Q=weights[0],
                W_K=weights[1],
                W_V=weights[2],
                W_O=block.attn.c_proj.weight.data.T,
                b_Q=biases[0],
                b_K=biases[1],
                b_V=biases[2],
                b_O=block.attn.c_proj.bias.data,
                q_norm=None,
                k_norm=None,
                mlp=block.mlp,
                n_heads=heads,
                n_groups=heads,
                scale=1 / math.sqrt(config.hidden_size // heads),
                window=None,
            )
        )

    def embed(ids: Tensor) -> Tensor:
        out: Tensor = base.wte(ids) + base.wpe(torch.arange(len(ids), device=ids.device))
        return out

    head = module.get_output_embeddings()
    return Transformer(
        name, module, layers, _layer_norm(base.ln_f), head.weight.data, _bias(head), embed, None
    )


FAMILIES: dict[str, Callable[[Any, str], Transformer]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gpt2": _gpt2,
}
