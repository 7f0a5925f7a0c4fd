"""SAELens' directory: cfg.json, sae_weights.safetensors. Also this package's own format.

What SAELens has no word for (the exact architecture, a crosscoder's sources) lies under cfg.json's
metadata.sparse_sae, where SAELens keeps it and ignores it. W_enc is (d_in, d_sae) there, a latent a column.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .._io import atomic_directory, write_json, write_tensors
from ..architectures import Architecture, TopK, from_config
from ..sae import SAE
from ..transforms import Transform

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
_NORMALISATION = {"none": "none", "token_norm": "constant_norm_rescale", "layer_norm": "layer_norm"}


def write(sae: SAE, path: Path) -> None:
    """Write the directory; raises ValueError for a transform that should have been folded."""
    kind = sae.transform.kind
    if kind not in _NORMALISATION:
        raise ValueError(f"transform: {kind!r} must be folded into the weights before saving")
    tensors = dict(sae.params)
    tensors["W_enc"] = tensors["W_enc"].T
    own = {"architecture": sae.architecture.config(), "sources": list(sae.sources)}
    config: dict[str, Any] = {
        "architecture": _saelens_name(sae),
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": _NORMALISATION[kind],
        "reshape_activations": "none",
        "metadata": {**sae.metadata, "sparse_sae": own},
    }
    if "k" in sae.architecture.config():
        config["k"] = sae.architecture.config()["k"]
    if sae.is_transcoder:
        config["d_out"] = sae.d_out
    with atomic_directory(path) as fresh:
        write_json(fresh / CONFIG, config)
        write_tensors(fresh / WEIGHTS, tensors)


def _saelens_name(sae: SAE) -> str:
    name = {"topk": "topk"}.get(sae.architecture.name, sae.architecture.name)
    if sae.is_transcoder:
        return "skip_transcoder" if "W_skip" in sae.params else "transcoder"
    return name


def read(path: Path) -> SAE:
    """Read such a directory."""
    config = _read_config(path)
    tensors = _read_tensors(path / WEIGHTS)
    own = config.get("metadata", {}).get("sparse_sae", {})
    missing = {"W_enc", "W_dec", "b_dec"} - tensors.keys()
    if missing:
        raise ValueError(f"{path / WEIGHTS}: no {', '.join(sorted(missing))}; found {', '.join(sorted(tensors))}")
    tensors["W_enc"] = np.ascontiguousarray(tensors["W_enc"].T)
    normalisation = {v: k for k, v in _NORMALISATION.items()}.get(config.get("normalize_activations", "none"))
    if normalisation is None:
        raise NotImplementedError(f"{path}: normalize_activations {config['normalize_activations']!r} is not read yet")
    metadata = {k: v for k, v in config.get("metadata", {}).items() if k != "sparse_sae"}
    return SAE(
        tensors,
        from_config(own["architecture"]) if own else _architecture(config, path),
        apply_b_dec_to_input=config.get("apply_b_dec_to_input", True),
        transform=Transform(normalisation),
        sources=own.get("sources", ()),
        metadata=metadata,
    )


def _architecture(config: dict[str, Any], path: Path) -> Architecture:
    if config.get("architecture") == "topk":
        return TopK(k=int(config["k"]))
    raise NotImplementedError(f"{path}: SAELens architecture {config.get('architecture')!r} is not read yet")


def _read_config(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        found = ", ".join(sorted(p.name for p in path.iterdir())) if path.is_dir() else "a file"
        raise ValueError(f"{path}: expected a directory with {CONFIG} and {WEIGHTS}, found {found or 'nothing'}")
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); the file is truncated or foreign") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(config).__name__}")
    return config


def _read_tensors(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not file.is_file():
        raise ValueError(f"{file}: missing; copy it beside {CONFIG}")
    try:
        return dict(load_file(file))
    except SafetensorError as error:
        raise ValueError(f"{file}: not a complete safetensors file ({error}); copy or download it again") from None
