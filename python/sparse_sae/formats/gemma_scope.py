"""Gemma Scope 1 (params.npz) and 2 (config.json, params.safetensors): JumpReLU SAEs and transcoders of Google's.

Both store W_enc as (d_in, d_sae), which is copied into latents by row; Gemma Scope 2's W_dec is mapped. The input
is never centred by b_dec. What an array of Gemma Scope 1 was trained on is said by its folder's name alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae.activations import JumpReLU
from sparse_sae.formats._build import build, matrices, take, transposed
from sparse_sae.formats._files import Array, peek_json, peek_npz, read_json, read_npz, read_safetensors
from sparse_sae.sae import SAE

NAME = "gemma_scope"
EXPECTS = "Gemma Scope: params.npz, or a directory with it; Gemma Scope 2: config.json and params.safetensors"
_NPZ, _TENSORS = "params.npz", "params.safetensors"
_NAMES = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def recognise(path: Path) -> bool:
    """Whether this looks like either, complete or not."""
    if path.is_dir():
        second = peek_json(path / "config.json").get("architecture") == "jump_relu"
        return (path / _NPZ).is_file() or (path / _TENSORS).is_file() or second
    return path.name == _NPZ or {n.lower() for n in _NAMES} <= {n.lower() for n in peek_npz(path)}


def read(path: Path) -> SAE:
    """Read either."""
    if path.is_dir() and not (path / _NPZ).is_file():
        return _read_second(path)
    file = path / _NPZ if path.is_dir() else path
    tensors = {("W_" + n[2:] if n.startswith("w_") else n): v for n, v in read_npz(file).items()}
    scale = tensors.pop("scaling_factor", None)
    if scale is not None and not np.allclose(scale, 1):
        raise ValueError(f"{file}: scaling_factor is not 1, which no Gemma Scope release has; a foreign file")
    params = take(file, tensors, {n: n for n in _NAMES})
    matrices(file, params, "W_enc", "W_dec")
    metadata = _metadata(file.parent)
    if metadata.get("hook_name") == "hook_embed":
        # Trained on embeddings as Gemma scales them, √d_in times those that the hook point shows.
        root = np.sqrt(params["W_enc"].shape[0]).astype(np.float32)
        params["W_enc"], params["W_dec"] = params["W_enc"] / root, params["W_dec"] * root
    return _build(file, params, metadata)


def _read_second(path: Path) -> SAE:
    config = read_json(path / "config.json")
    if config.get("architecture") != "jump_relu":
        raise ValueError(
            f"{path / 'config.json'}: architecture {config.get('architecture')!r}, expected 'jump_relu'"
        )
    file = path / _TENSORS
    tensors = read_safetensors(file)
    if tensors.get("w_dec", np.empty((0, 0))).ndim == 3:
        raise NotImplementedError(
            f"{file}: a cross-layer transcoder, whose latents write to many layers, is not read"
        )
    names = {n: n.lower() for n in ("W_enc", "W_dec")} | {n: n for n in _NAMES[2:]}
    params = take(file, tensors, {**names, "W_skip": "affine_skip_connection"}, optional=("W_skip",))
    matrices(file, params, "W_enc", "W_dec")
    if "W_skip" in params:
        matrices(file, params, "W_skip")
        params["W_skip"] = params["W_skip"].T  # theirs is (d_in, d_out)
    elif config.get("affine_connection"):
        raise ValueError(f"{file}: config.json promises an affine_skip_connection, the weights have none")
    renamed = {
        "model_name": "model_name",
        "hf_hook_point_in": "hf_hook_name",
        "hf_hook_point_out": "hf_hook_name_out",
    }
    metadata = {ours: config[theirs] for theirs, ours in renamed.items() if config.get(theirs)}
    return _build(file, params, {**_metadata(path), **metadata})


def _build(where: Path, params: dict[str, Array], metadata: dict[str, Any]) -> SAE:
    params["W_enc"] = transposed(params["W_enc"])
    params["threshold"] = np.maximum(params["threshold"], 0)  # ReLU comes first
    kind = "transcoder" if metadata.keys() & {"hook_name_out", "hf_hook_name_out"} else None
    return build(where, params, JumpReLU(), center=False, kind=kind, metadata=metadata)


def _metadata(folder: Path) -> dict[str, Any]:
    """Model and hook point, as far as folders named as in the release say: …/gemma-scope-2b-pt-res/layer_20/…"""
    text = str(folder.absolute())
    metadata: dict[str, Any] = {}
    model = re.search(r"gemma-scope-(2b|9b|27b)-(pt|it)", text)
    if model:
        metadata["model_name"] = f"gemma-2-{model.group(1)}" + ("-it" if model.group(2) == "it" else "")
    layer = re.search(r"layer_(\d+)", text)
    # `embedding` is a folder beside the layers'.
    if "embedding" in folder.absolute().parts:
        metadata["hook_name"] = "hook_embed"
    elif layer:
        sites = {
            "transcoder": "ln2.hook_normalized",
            "-res": "hook_resid_post",
            "resid_post": "hook_resid_post",
            "-mlp": "hook_mlp_out",
            "mlp_out": "hook_mlp_out",
            "-att": "attn.hook_z",
            "attn_out": "attn.hook_z",
        }
        site = next((site for word, site in sites.items() if word in text), None)
        if site:
            metadata["hook_name"] = f"blocks.{layer.group(1)}.{site}"
        if site == sites["transcoder"]:
            metadata["hook_name_out"] = f"blocks.{layer.group(1)}.hook_mlp_out"
    return metadata
