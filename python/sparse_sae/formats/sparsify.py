"""EleutherAI's sparsify: cfg.json and sae.safetensors. Both weight matrices are stored a latent a row, and mapped.

W_dec is (num_latents, d_in), unlike torch's decoder.weight. The input is centred by b_dec unless `transcode`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.atomic import atomic_directory, write_json
from sparse_sae._io.safetensors import checked, write_tensors
from sparse_sae.activations import AbsTopK, Activation, GroupMax, TopK
from sparse_sae.formats._build import build, matrices, take
from sparse_sae.formats._files import integer, is_saved_sae, peek_json, read_json, read_safetensors
from sparse_sae.sae import SAE

NAME = "sparsify"
EXPECTS = "sparsify: a directory (one hook point's) with cfg.json and sae.safetensors"
WEIGHTS, CONFIG = "sae.safetensors", "cfg.json"
_NAMES = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "W_dec": "W_dec",
    "b_dec": "b_dec",
    "W_skip": "W_skip",
}


def recognise(path: Path) -> bool:
    """Whether this looks like sparsify's directory, complete or not."""
    if not path.is_dir():
        return False
    config = peek_json(path / CONFIG)
    return (path / WEIGHTS).is_file() or ("expansion_factor" in config and "d_sae" not in config)


def read(path: Path) -> SAE:
    """Read such a directory."""
    where = path / CONFIG
    config = read_json(where)
    k = integer(config, "k", where)
    activation = config.get("activation", "topk")
    known: dict[str, Activation] = {"topk": TopK(k=k), "groupmax": GroupMax(k=k)}
    if activation not in known:
        raise NotImplementedError(
            f"{where}: activation {activation!r} is not read, only 'topk' and 'groupmax'"
        )
    # Versions before 1.1 could keep the largest by magnitude, signed.
    chosen = AbsTopK(k=k) if config.get("signed") else known[activation]
    params = take(path / WEIGHTS, read_safetensors(path / WEIGHTS), _NAMES, optional=("W_skip",))
    matrices(path / WEIGHTS, params, "W_enc", "W_dec")
    if config.get("skip_connection", False) != ("W_skip" in params):
        raise ValueError(
            f"{where}: skip_connection is {config.get('skip_connection')}, W_skip in the weights says else"
        )
    sae = build(
        path / WEIGHTS,
        params,
        chosen,
        center=not config.get("transcode", False),
        kind="transcoder" if config.get("transcode", False) else None,
        metadata=_metadata(path),
    )
    # Numbers before they are multiplied: a text times 2^31 is one of many gigabytes.
    d_in = integer(config, "d_in", where) if "d_in" in config else sae.d_in
    latents = sae.d_sae
    if config.get("num_latents"):
        latents = integer(config, "num_latents", where)
    elif "expansion_factor" in config:
        latents = d_in * integer(config, "expansion_factor", where)
    if (d_in, latents) != (sae.d_in, sae.d_sae):
        raise ValueError(
            f"{where}: {d_in} inputs and {latents} latents, the weights say {sae.d_in} and {sae.d_sae}: of two SAEs"
        )
    return sae


def write(sae: SAE, path: Path) -> None:
    """Write what `SparseCoder.load_from_disk` opens. Raises a ValueError for what sparsify cannot hold."""
    names = {"topk": "topk", "groupmax": "groupmax"}
    name = sae.activation.name
    if name not in names or not sae.transform.is_identity:
        raise ValueError(
            f"format 'sparsify': holds TopK and GroupMax SAEs without a transform of their input, this is {sae!r}"
        )
    if sae.d_in != sae.d_out:
        raise ValueError(f"format 'sparsify': needs d_in = d_out, got {sae.d_in} and {sae.d_out}")
    skip = "W_skip" in sae.params
    config: dict[str, Any] = {
        "activation": names[name],
        "expansion_factor": sae.d_sae // sae.d_in,
        "normalize_decoder": bool(np.allclose(np.linalg.norm(sae.W_dec, axis=1), 1, atol=1e-3)),
        "num_latents": sae.d_sae,
        "k": sae.activation.config()["k"],
        "multi_topk": False,
        "skip_connection": skip,
        "transcode": not sae.apply_b_dec_to_input,
        "d_in": sae.d_in,
    }
    with atomic_directory(path, ours=is_saved_sae) as fresh:
        write_json(fresh / CONFIG, config)
        tensors = {_NAMES[name]: value for name, value in sae.params.items()}
        write_tensors(fresh / WEIGHTS, tensors, checked(tensors))


def _metadata(path: Path) -> dict[str, Any]:
    """The folder's name is the module's; the run's config.json lies one above."""
    run = peek_json(path.parent / "config.json")
    metadata = {"model_name": run.get("model"), "dataset_path": run.get("dataset")}
    layer = re.fullmatch(r"layers[._](\d+)", path.name)
    if layer:
        metadata["hook_name"] = f"blocks.{layer.group(1)}.hook_resid_post"
    elif path.name == "embed_tokens":
        metadata["hook_name"] = "hook_embed"
    elif path.name.startswith("layers"):
        metadata["hf_hook_name"] = path.name
    return {k: v for k, v in metadata.items() if v}
