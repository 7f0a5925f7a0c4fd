"""Llama Scope: hyperparams.json and checkpoints/final.safetensors, later config.json and sae_weights.safetensors.

As OpenMOSS' own loader does it, the norm of the training data is folded into the biases and the decoder, so codes
are in units of the raw activations (SAELens' are √d_in / norm times those), and so is jump_relu_threshold.
encoder.weight is mapped; decoder.weight, a latent a column there, is copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae.activations import Activation, JumpReLU, ReLU, TopK
from sparse_sae.formats._build import build, fold_decoder_norm, matrices, take, transposed
from sparse_sae.formats._files import Array, integer, peek_json, peek_shapes, read_json, read_safetensors
from sparse_sae.sae import SAE

NAME = "llama_scope"
EXPECTS = "Llama Scope: a directory with hyperparams.json and checkpoints/final.safetensors"
_NAMES = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "W_dec": "decoder.weight",
    "b_dec": "decoder.bias",
}
_NORM = "dataset_average_activation_norm"


def recognise(path: Path) -> bool:
    """Whether this looks like either layout, complete or not."""
    if not path.is_dir():
        return False
    if (path / "hyperparams.json").is_file() or (path / "checkpoints" / "final.safetensors").is_file():
        return True
    return "encoder.weight" in peek_shapes(path / "sae_weights.safetensors") and bool(
        peek_json(path / "config.json")
    )


def read(path: Path) -> SAE:
    """Read either layout."""
    first = not (path / "sae_weights.safetensors").is_file()
    where = path / ("hyperparams.json" if first else "config.json")
    file = path / ("checkpoints/final.safetensors" if first else "sae_weights.safetensors")
    config = read_json(where)
    tensors = read_safetensors(file)
    if config.get("use_glu_encoder"):
        raise NotImplementedError(
            f"{where}: use_glu_encoder: an encoder with a second, gating matrix is not read"
        )
    stored = {n.removeprefix(_NORM + "."): tensors.pop(n) for n in sorted(tensors) if n.startswith(_NORM)}
    log_threshold = tensors.pop("log_jumprelu_threshold", None)
    params = take(file, tensors, _NAMES)
    matrices(file, params, "W_enc", "W_dec")
    params["W_dec"] = transposed(params["W_dec"])
    if log_threshold is not None:
        params["threshold"] = np.exp(np.broadcast_to(log_threshold, params["b_enc"].shape))
        if config.get("sparsity_include_decoder_norm"):
            # Theirs is held against pre-activation · |W_dec|.
            params["threshold"] = params["threshold"] / np.linalg.norm(params["W_dec"], axis=1)
    given = config.get(_NORM) or {}
    hooks = {
        "in": config.get("hook_point_in"),
        "out": config.get("hook_point_out") or config.get("hook_point_in"),
    }
    if config.get("norm_activation") == "dataset-wise":
        norms = {side: given.get(side, stored.get(str(hook))) for side, hook in hooks.items()}
        if None in norms.values():
            raise ValueError(
                f"{where}: {_NORM} is missing, without which inputs cannot be scaled; found {sorted(config)}"
            )
        d_in = params["W_enc"].shape[1]
        scale = {side: np.sqrt(d_in) / float(norm) for side, norm in norms.items()}  # type: ignore[arg-type]
        _fold(params, scale["in"], scale["out"])
    elif config.get("norm_activation") not in (None, "inference", "none"):
        raise NotImplementedError(f"{where}: norm_activation {config['norm_activation']!r} is not read")
    if config.get("sparsity_include_decoder_norm"):
        fold_decoder_norm(params, *params.keys() & {"threshold"})
    sae = build(
        file,
        params,
        _activation(config, params, where),
        center=bool(config.get("apply_decoder_bias_to_pre_encoder", False)),
        kind="transcoder" if hooks["out"] != hooks["in"] else None,
        metadata=_metadata(config, hooks),
    )
    for key, value in (("d_model", sae.d_in), ("d_sae", sae.d_sae)):
        if config.get(key) not in (None, value):
            raise ValueError(
                f"{where}: {key} is {config[key]}, the weights say {value}; they are of two SAEs"
            )
    return sae


def _fold(params: dict[str, Array], scale_in: float, scale_out: float) -> None:
    """Codes as of raw inputs: they shrink by scale_in, and decode to raw outputs."""
    for name in params.keys() & {"b_enc", "threshold"}:
        params[name] = (params[name] / scale_in).astype(np.float32)
    params["b_dec"] = (params["b_dec"] / scale_out).astype(np.float32)
    if scale_in != scale_out:
        params["W_dec"] = (params["W_dec"] * (scale_in / scale_out)).astype(np.float32)


def _activation(config: dict[str, Any], params: dict[str, Array], where: Path) -> Activation:
    threshold = float(config.get("jump_relu_threshold") or 0)
    name = str(config.get("act_fn", "jumprelu")).lower()
    if name == "jumprelu" or (name == "topk" and threshold > 0):
        params.setdefault("threshold", np.full(params["b_enc"].shape, max(threshold, 0), np.float32))
        return JumpReLU()
    if name == "topk":
        return TopK(k=integer(config, "top_k", where))
    if name == "relu":
        return ReLU()
    raise NotImplementedError(f"{where}: act_fn {name!r} is not read")


def _metadata(config: dict[str, Any], hooks: dict[str, Any]) -> dict[str, Any]:
    metadata = {"hook_name": hooks["in"]}
    if hooks["out"] != hooks["in"]:
        metadata["hook_name_out"] = hooks["out"]
    return {k: v for k, v in metadata.items() if v}
