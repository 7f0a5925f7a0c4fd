"""saprmarks' dictionary_learning: config.json and ae.pt, read through torch's weights-only loader.

Encodings are those of `load_dictionary(path)` and the class's own `encode`. BatchTopK and Matryoshka classes use
their global threshold there; it starts at -1, so one saved before about step 1000 keeps every positive
pre-activation. decoder.weight, a latent a column, is copied, and so is W_enc where there is one.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.atomic import atomic_directory, write_json
from sparse_sae.activations import Activation, Gate, JumpReLU, ReLU, TopK
from sparse_sae.formats._build import (
    build,
    center_into_bias,
    fold_decoder_norm,
    layer_of,
    matrices,
    take,
    transposed,
)
from sparse_sae.formats._files import Array, integer, is_saved_sae, peek_json, read_json, read_torch
from sparse_sae.sae import SAE

NAME = "dictionary_learning"
EXPECTS = 'dictionary_learning: a directory with config.json (which has a "trainer") and ae.pt'
WEIGHTS, CONFIG = "ae.pt", "config.json"

_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
_PLAIN = {n: n for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
# class -> ours: theirs
_TENSORS: dict[str, dict[str, str]] = {
    "AutoEncoder": {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "bias"},
    "AutoEncoderNew": {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "decoder.bias"},
    "AutoEncoderTopK": {
        **_LINEAR,
        "b_enc": "encoder.bias",
        "b_dec": "b_dec",
        "k": "k",
        "threshold": "threshold",
    },
    "BatchTopKSAE": {
        **_LINEAR,
        "b_enc": "encoder.bias",
        "b_dec": "b_dec",
        "k": "k",
        "threshold": "threshold",
    },
    "MatryoshkaBatchTopKSAE": {**_PLAIN, "k": "k", "threshold": "threshold", "group_sizes": "group_sizes"},
    "JumpReluAutoEncoder": {**_PLAIN, "threshold": "threshold"},
    "GatedAutoEncoder": {
        **_LINEAR,
        "b_enc": "gate_bias",
        "b_mag": "mag_bias",
        "r_mag": "r_mag",
        "b_dec": "decoder_bias",
    },
}
_UNCENTERED = ("AutoEncoderNew", "JumpReluAutoEncoder")
# Which class holds an activation when written, and who trains such a class there.
_CLASSES = {
    "topk": "AutoEncoderTopK",
    "jumprelu": "JumpReluAutoEncoder",
    "relu": "AutoEncoder",
    "gated": "GatedAutoEncoder",
}
_TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainerAprilUpdate",
    "AutoEncoderTopK": "TopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
    "GatedAutoEncoder": "GatedSAETrainer",
}


def recognise(path: Path) -> bool:
    """Whether this looks like such a directory, complete or not."""
    return path.is_dir() and ((path / WEIGHTS).is_file() or "trainer" in peek_json(path / CONFIG))


def read(path: Path) -> SAE:
    """Read such a directory."""
    where, file = path / CONFIG, path / WEIGHTS
    config = read_json(where)
    trainer = config.get("trainer")
    name = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or name not in _TENSORS:
        raise ValueError(f"{where}: trainer.dict_class is {name!r}, expected one of {', '.join(_TENSORS)}")
    tensors = read_torch(file)
    # Releases before 0.1 had neither threshold nor group_sizes.
    optional = ("threshold",) if name == "AutoEncoderTopK" else ()
    params = take(file, tensors, _TENSORS[name], optional=optional)
    matrices(file, params, "W_enc", "W_dec")
    if "encoder.weight" in tensors:
        params["W_dec"] = transposed(params["W_dec"])
    else:
        params["W_enc"] = transposed(params["W_enc"])
    if name == "AutoEncoder":
        # load_dictionary normalises this class's decoder, and only this one's.
        fold_decoder_norm(params)
    metadata = _metadata(config, trainer)
    sizes = params.pop("group_sizes", None)
    if sizes is not None:
        metadata["group_sizes"] = [int(s) for s in sizes]
    activation = _activation(name, trainer, params, file)
    sae = build(file, params, activation, center=name not in _UNCENTERED, metadata=metadata)
    for key, value in (("activation_dim", sae.d_in), ("dict_size", sae.d_sae)):
        if trainer.get(key, value) != value:
            raise ValueError(
                f"{where}: {key} is {trainer[key]}, the weights say {value}; they are of two SAEs"
            )
    return sae


def _activation(name: str, trainer: dict[str, Any], params: dict[str, Array], where: Path) -> Activation:
    stored = params.pop("k", None)
    k = int(stored) if stored is not None else 0
    if "k" in trainer and stored is not None and integer(trainer, "k", where) != k:
        raise ValueError(f"{where}: k is {k}, {CONFIG} says {trainer['k']}; they are of two SAEs")
    if name == "AutoEncoderTopK":
        params.pop("threshold", None)  # its encode does not use it
        return TopK(k=k)
    if name == "GatedAutoEncoder":
        return Gate()
    if "threshold" not in params:
        return ReLU()
    threshold = params["threshold"]
    if threshold.ndim == 0 and threshold < 0:
        warnings.warn(
            f"{where}: threshold is {float(threshold)}: saved before dictionary_learning had estimated it, so every "
            f"positive pre-activation is active instead of {k} on average, there as here",
            UserWarning,
            stacklevel=4,
        )
    # ReLU comes first, so a negative threshold lets through what zero does.
    params["threshold"] = np.maximum(np.broadcast_to(threshold, params["b_enc"].shape), 0).astype(np.float32)
    return JumpReLU()


def _metadata(config: dict[str, Any], trainer: dict[str, Any]) -> dict[str, Any]:
    buffer = config.get("buffer")
    found = {
        "model_name": trainer.get("lm_name"),
        "hf_hook_name": trainer.get("submodule_name"),
        "layer": trainer.get("layer"),
        "context_size": buffer.get("ctx_len") if isinstance(buffer, dict) else None,
    }
    return {k: v for k, v in found.items() if v is not None}


def write(sae: SAE, path: Path) -> None:
    """Write what `load_dictionary` opens, with equal encodings; needs torch.

    TopK, JumpReLU, ReLU and Gated SAEs. Where the class has it the other way round, the centring of the input is
    moved into the encoder's bias, which is exact but for rounding.
    """
    name = _CLASSES.get(sae.activation.name)
    if name is None or "W_skip" in sae.params or not sae.transform.is_identity or sae.d_in != sae.d_out:
        raise ValueError(
            "format 'dictionary_learning': holds TopK, JumpReLU, ReLU and Gated SAEs with d_in = d_out, without a skip "
            f"or a transform of their input; this is {sae!r}"
        )
    if name == "AutoEncoder" and not np.allclose(np.linalg.norm(sae.W_dec, axis=1), 1, atol=1e-4):
        name = "AutoEncoderNew"  # the other class would be normalised when it is read
    try:
        import torch
    except ImportError:
        raise ImportError(
            "format 'dictionary_learning': .pt files need torch; pip install 'sparse-sae[lm]'"
        ) from None
    params = dict(sae.params)
    centered = name not in _UNCENTERED
    if centered != sae.apply_b_dec_to_input:
        shift = center_into_bias(params) * (1 if centered else -1)
        params["b_enc"] = params["b_enc"] + shift
        if "b_mag" in params:
            params["b_mag"] = params["b_mag"] + shift * np.exp(params["r_mag"])
    column = "W_dec" if "encoder.weight" in _TENSORS[name].values() else "W_enc"  # stored a latent a column
    params[column] = params[column].T
    k = sae.activation.config().get("k")
    if name == "AutoEncoderTopK":
        params |= {"k": np.asarray(k, np.int32), "threshold": np.asarray(-1.0)}
    state = {}
    for ours, theirs in _TENSORS[name].items():
        dtype = np.int32 if ours == "k" else np.float32
        state[theirs] = torch.from_numpy(np.array(params[ours], dtype, order="C"))
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_directory(path, ours=is_saved_sae) as fresh:
        write_json(fresh / CONFIG, _config(sae, name, k))
        (fresh / WEIGHTS).write_bytes(content.getbuffer())


def _config(sae: SAE, name: str, k: int | None) -> dict[str, Any]:
    hook = str(sae.metadata.get("hook_name", ""))
    trainer: dict[str, Any] = {
        "trainer_class": _TRAINERS[name],
        "dict_class": name,
        "activation_dim": sae.d_in,
        "dict_size": sae.d_sae,
        "layer": sae.metadata.get("layer", layer_of(hook)),
        "lm_name": str(sae.metadata.get("model_name", "")),
        "submodule_name": sae.metadata.get("hf_hook_name") or hook or None,
    }
    if k is not None:
        trainer["k"] = k
    return {
        "trainer": trainer,
        "buffer": {"d_submodule": sae.d_in, "ctx_len": sae.metadata.get("context_size")},
    }
