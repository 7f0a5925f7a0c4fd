"""What each family of transformers calls its modules, and how its layers add up. A new family is one row here."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Family:
    """Facts of a family. Module paths: `layers`, `final_norm` from the base model, the others from a layer."""

    layers: str
    attn: str
    mlp: str
    z: str  # module whose input is the heads' outputs
    neurons: str  # module whose input is the MLP's neurons
    mid: str  # the norm that reads the residual stream between attention and MLP
    attn_out: str = ""  # module whose output is added to the residual stream, where that is not `attn`
    mlp_out: str = ""
    final_norm: str = "norm"  # from the base model
    # attention and MLP read the same stream side by side: where this attribute of the configuration is true
    parallel_if: str = ""


_LLAMA = Family("layers", "self_attn", "mlp", "self_attn.o_proj", "mlp.down_proj", "post_attention_layernorm")
# Gemma normalises what attention and MLP return before adding it
_GEMMA = Family(
    "layers",
    "self_attn",
    "mlp",
    "self_attn.o_proj",
    "mlp.down_proj",
    "pre_feedforward_layernorm",
    attn_out="post_attention_layernorm",
    mlp_out="post_feedforward_layernorm",
)

# config.model_type -> names
FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3": replace(_GEMMA, layers="language_model.layers", final_norm="language_model.norm"),
    "gpt2": Family("h", "attn", "mlp", "attn.c_proj", "mlp.c_proj", "ln_2", final_norm="ln_f"),
    "gpt_neox": Family(
        "layers",
        "attention",
        "mlp",
        "attention.dense",
        "mlp.dense_4h_to_h",
        "post_attention_layernorm",
        final_norm="final_layer_norm",
        parallel_if="use_parallel_residual",
    ),
}
