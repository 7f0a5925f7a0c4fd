"""circuit-tracer's transcoders: layer_5.safetensors (one layer), or W_enc_5 and W_dec_5.safetensors (cross-layer).

A cross-layer transcoder is read one source layer at a time: codes are those of its latents, and what they write
to the layers from this one up lies side by side in the output (d_out = layers · d_in), this layer's b_dec in the
first of them. The model's output at a layer is the sum of such parts over all source layers up to it.

Everything is stored a latent a row and mapped; early files have W_dec the other way round, which is copied.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae.activations import JumpReLU, ReLU
from sparse_sae.formats._build import build, matrices, take
from sparse_sae.formats._files import Array, contents, peek_shapes, read_safetensors
from sparse_sae.sae import SAE

NAME = "circuit_tracer"
EXPECTS = (
    "circuit-tracer: a file layer_N.safetensors, or W_enc_N.safetensors with W_dec_N.safetensors beside it"
)
_NAMES = {n: n for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
_THRESHOLDS = ("activation_function.threshold", "threshold")
_FILE = re.compile(r"(?:layer|W_enc|W_dec)_(\d+)\.safetensors")


def recognise(path: Path) -> bool:
    """Whether this is such a file, or a directory of them (which `read` asks to choose from)."""
    if path.is_dir():
        return any(_FILE.fullmatch(p.name) for p in path.iterdir())
    if path.suffix != ".safetensors":
        return False
    shapes = peek_shapes(path)
    latents = shapes.get("b_enc", (0,))
    single = shapes.keys() >= _NAMES.keys() and shapes["W_enc"][:1] == latents
    return bool(_FILE.fullmatch(path.name)) or (single and path.name != "sae_weights.safetensors")


def read(path: Path) -> SAE:
    """Read one layer."""
    if path.is_dir():
        raise ValueError(f"{path}: {contents(path)}: one SAE a layer; give the file of one")
    found = re.fullmatch(r"W_(?:enc|dec)_(\d+)\.safetensors", path.name)
    if found:
        return _read_cross_layer(path.parent, int(found.group(1)))
    tensors = read_safetensors(path)
    stored = next((name for name in _THRESHOLDS if name in tensors), _THRESHOLDS[0])
    names = {**_NAMES, "threshold": stored, "W_skip": "W_skip"}
    params = take(path, tensors, names, optional=("threshold", "W_skip"))
    matrices(path, params, "W_enc", "W_dec")
    d_sae, d_out, shape = params["b_enc"].size, params["b_dec"].size, params["W_dec"].shape
    if shape == (d_out, d_sae) and d_out != d_sae:
        params["W_dec"] = params["W_dec"].T
    elif shape == (d_out, d_sae):
        raise ValueError(f"{path}: {d_sae} latents and {d_out} outputs: W_dec could be either way round")
    layer = re.search(r"layer_(\d+)", path.name)
    metadata = {"layer": int(layer.group(1))} if layer else {}
    return _build(path, params, metadata)


def _read_cross_layer(folder: Path, layer: int) -> SAE:
    files = [folder / f"W_{side}_{layer}.safetensors" for side in ("enc", "dec")]
    tensors = {**read_safetensors(files[0]), **read_safetensors(files[1])}
    names = {n: f"{n}_{layer}" for n in (*_NAMES, "threshold")}
    params = take(files[0], tensors, names, optional=("threshold",))
    decoder = params["W_dec"]
    d_in = params["b_dec"].size
    if decoder.ndim != 3 or decoder.shape[2] != d_in:
        raise ValueError(
            f"{files[1]}: W_dec_{layer} has shape {decoder.shape}, expected (latents, layers, {d_in})"
        )
    params["W_dec"] = decoder.reshape(len(decoder), -1)
    bias = np.zeros(params["W_dec"].shape[1], params["b_dec"].dtype)
    bias[:d_in] = params["b_dec"]
    params["b_dec"] = bias
    metadata = {"layer": layer, "output_layers": list(range(layer, layer + decoder.shape[1]))}
    return _build(files[0], params, metadata)


def _build(where: Path, params: dict[str, Array], metadata: dict[str, Any]) -> SAE:
    threshold = params.get("threshold")
    if threshold is not None:
        flat = (
            np.broadcast_to(threshold.reshape(-1), params["b_enc"].shape)
            if threshold.size == 1
            else threshold
        )
        params["threshold"] = np.maximum(flat.reshape(-1), 0)
    activation = ReLU() if threshold is None else JumpReLU()
    return build(where, params, activation, center=False, kind="transcoder", metadata=metadata)
