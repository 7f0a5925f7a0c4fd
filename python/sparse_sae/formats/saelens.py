"""SAELens' directory: cfg.json and sae_weights.safetensors. Also this package's own format.

Written as SAELens 6 writes it; read from any version. What SAELens has no word for (an activation's
hyperparameters, a crosscoder's sources) lies under cfg.json's metadata.sparse_sae, where SAELens keeps it and
ignores it. W_enc is (d_in, d_sae) there, a latent a column, so W_enc is copied when it is read; W_dec is mapped.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae import architectures
from sparse_sae._io.atomic import atomic_directory, write_json
from sparse_sae._io.safetensors import checked, write_tensors
from sparse_sae.activations import AbsTopK, Activation, Gate, JumpReLU, ReLU, TopK, from_config
from sparse_sae.formats._build import build, fold_decoder_norm, matrices, take, transposed
from sparse_sae.formats._files import Array, integer, is_saved_sae, peek_json, read_json, read_safetensors
from sparse_sae.formats._saelens_config import current
from sparse_sae.sae import SAE
from sparse_sae.transforms import Normalize, Transform

NAME = "saelens"
EXPECTS = "SAELens: a directory with cfg.json and sae_weights.safetensors"
WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
# SAELens reads files without a version, or from before 6, by the rules of old configurations.
VERSION = "6.54.12"

_NORMALISATION: dict[Normalize, str] = {
    "none": "none",
    "token_norm": "constant_norm_rescale",
    "layer_norm": "layer_norm",
}
# What SAELens leaves to the caller: it computes on inputs that were scaled or whitened before.
_OUTSIDE = {
    "expected_average_only_in": "scaled to an average norm of √d_in",
    "covariance_whitening": "whitened with the statistics of the training data",
}
_NAMES = {"topk": "topk", "abstopk": "abstopk", "jumprelu": "jumprelu", "relu": "standard", "gated": "gated"}
_NOT_READ = {
    "temporal": "its codes depend on earlier tokens",
    "matching_pursuit": "its codes come from a greedy pursuit; sparse_sae.pursuit encodes with such a W_dec",
}


def recognise(path: Path) -> bool:
    """Whether this looks like SAELens' directory, complete or not."""
    if not path.is_dir():
        return False
    if (path / WEIGHTS).is_file():
        return (path / CONFIG).is_file() or not (path / "config.json").is_file()
    return "d_sae" in peek_json(path / CONFIG)


def write(sae: SAE, path: Path) -> None:
    """Write the directory, whole or not at all.

    SAELens opens it where it has such an SAE; what it has not (a TopK transcoder) it refuses by name.
    Raises a ValueError for a transform that should have been folded.
    """
    kind = sae.transform.kind
    if kind not in _NORMALISATION:
        raise ValueError(f"transform: {kind!r} must be folded into the weights before saving")
    name = saelens_name(sae)
    tensors: dict[str, Array] = dict(sae.params)
    tensors["W_enc"] = transposed(tensors["W_enc"])
    if sae.activation.name == "gated":  # a gated transcoder has no name of its own there
        tensors["b_gate"] = tensors.pop("b_enc")
    hyperparameters = sae.activation.config()
    metadata = {**sae.metadata, "sae_lens_version": VERSION}
    reshape = metadata.pop("reshape_activations", "none")
    metadata["sparse_sae"] = {"activation": hyperparameters, "sources": list(sae.sources), "kind": sae.kind}
    config: dict[str, Any] = {
        "architecture": name,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": _NORMALISATION[kind],
        "reshape_activations": reshape,
        "metadata": metadata,
    }
    if hyperparameters.get("k") is not None:
        config["k"] = hyperparameters["k"]
    if name.endswith("transcoder"):
        config["d_out"] = sae.d_out
    with atomic_directory(path, ours=is_saved_sae) as fresh:
        write_json(fresh / CONFIG, config)
        write_tensors(fresh / WEIGHTS, tensors, checked(tensors))


def saelens_name(sae: SAE) -> str:
    """What SAELens calls this; a name it does not know where it has nothing that computes the same."""
    base = _NAMES.get(sae.activation.name, f"sparse_sae_{sae.activation.name}")
    skip = "W_skip" in sae.params
    if not sae.is_transcoder:
        return base
    if sae.apply_b_dec_to_input:  # SAELens' transcoders do not centre
        return f"sparse_sae_{base}_centred" + ("_skip_transcoder" if skip else "_transcoder")
    prefix = {"standard": "", "jumprelu": "jumprelu_"}.get(base, f"sparse_sae_{base}_")
    return prefix + ("skip_transcoder" if skip else "transcoder")


def read(path: Path) -> SAE:
    """Read such a directory."""
    where = path / CONFIG
    config = current(read_json(where), where)
    tensors = read_safetensors(path / WEIGHTS)
    metadata = config.get("metadata") or {}
    own = metadata.get("sparse_sae") or {}
    name = str(config.get("architecture", "standard"))
    if name in _NOT_READ:
        raise NotImplementedError(f"{where}: SAELens architecture {name!r} is not read: {_NOT_READ[name]}")
    named = _own(own, name, config, where)
    activation, extra = (named, ()) if named is not None else _activation(name, config, where)
    params = _params(path / WEIGHTS, tensors, activation, name, own=named is not None, extra=extra)
    if config.get("rescale_acts_by_decoder_norm"):
        # Pre-activations are weighed by |W_dec| before the selection, codes divided by it before decoding.
        fold_decoder_norm(params)
    if "finetuning_scaling_factor" in params:
        params["W_dec"] = params["W_dec"] * params.pop("finetuning_scaling_factor")[:, None]
    return _checked(
        build(
            path,
            params,
            activation,
            center=bool(config.get("apply_b_dec_to_input", True))
            and ("transcoder" not in name or "_centred" in name),
            kind=_kind(own, name),
            transform=_transform(config, name, where),
            sources=tuple(own.get("sources", ())),
            metadata=_metadata(config),
        ),
        config,
        where,
    )


def _kind(own: dict[str, Any], name: str) -> str | None:
    """What this package has written; else by SAELens' name, or what widths and sources say."""
    return str(own["kind"]) if "kind" in own else "transcoder" if "transcoder" in name else None


def _own(own: dict[str, Any], name: str, config: dict[str, Any], where: Path) -> Activation | None:
    """What this package wrote; None where SAELens has since written the directory again with other settings."""
    if not own:
        return None
    try:
        if "activation" in own:
            activation = from_config(own["activation"])
        else:  # before activations were told apart from how they are trained
            activation = architectures.from_config(own["architecture"]).activation
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{where}: metadata.sparse_sae is not of this version or damaged: {error}") from None
    known = _NAMES.get(activation.name)
    same = (
        known is None or known in name or (known == "standard" and name in ("transcoder", "skip_transcoder"))
    )
    return activation if same and activation.config().get("k") == config.get("k") else None


def _activation(name: str, config: dict[str, Any], where: Path) -> tuple[Activation, tuple[str, ...]]:
    """The activation, and the tensors it has beside W_enc, W_dec, b_enc and b_dec."""
    plain = name.removesuffix("transcoder").removesuffix("_").removesuffix("skip").removesuffix("_")
    if plain in ("", "standard"):
        return ReLU(), ()
    if plain == "topk":
        return TopK(k=integer(config, "k", where)), ()
    if plain == "abstopk":
        return AbsTopK(k=integer(config, "k", where)), ()
    if plain == "gated":
        return Gate(), ("b_gate", "b_mag", "r_mag")
    if plain == "jumprelu":
        return JumpReLU(), ("threshold",)
    if plain in ("batchtopk", "matryoshka_batchtopk"):  # checkpoints of a run; finished ones say jumprelu
        return JumpReLU(), ("topk_threshold",)
    raise NotImplementedError(
        f"{where}: SAELens architecture {name!r} is not read; sparse_sae may be older than it"
    )


def _params(
    where: Path,
    tensors: dict[str, Array],
    activation: Activation,
    name: str,
    *,
    own: bool,
    extra: tuple[str, ...],
) -> dict[str, Array]:
    if "log_threshold" in tensors and "threshold" in extra:
        tensors["threshold"] = np.exp(tensors.pop("log_threshold"))
    scale = tensors.pop("scaling_factor", None)
    names = ["W_enc", "W_dec", "b_enc", "b_dec", *extra]
    if own:
        gated = activation.name == "gated"
        names = [*tensors, *({"W_enc", "W_dec", "b_dec", "b_gate" if gated else "b_enc"} - tensors.keys())]
        extra = ("b_gate",) if gated else ()
    if "b_gate" in extra:
        names.remove("b_gate")
    if "skip" in name:
        names.append("W_skip")
    theirs = {n: n for n in names}
    if "b_gate" in extra:
        theirs["b_enc"] = "b_gate"
    params = take(where, tensors, theirs)
    matrices(where, params, "W_enc", "W_dec")
    params["W_enc"] = transposed(params["W_enc"])
    if "topk_threshold" in params:
        params["threshold"] = np.full(
            len(params["W_enc"]), params.pop("topk_threshold"), params["W_enc"].dtype
        )
    if "threshold" in params:
        # ReLU comes first, so a negative threshold lets through what zero does.
        params["threshold"] = np.maximum(params["threshold"], 0)
    if scale is not None and not np.allclose(scale, 1):
        params["finetuning_scaling_factor"] = scale
    return params


def _transform(config: dict[str, Any], name: str, where: Path) -> Transform:
    mode = str(config.get("normalize_activations") or "none")
    if mode in _OUTSIDE:
        warnings.warn(
            f"{where}: normalize_activations is {mode!r}: this SAE expects activations {_OUTSIDE[mode]}, and the file "
            "does not say by which numbers; do that before encode, as with SAELens",
            UserWarning,
            stacklevel=2,
        )
        return Transform()
    kind = next((kind for kind, name in _NORMALISATION.items() if name == mode), None)
    if kind is None:
        raise NotImplementedError(f"{where}: normalize_activations {mode!r} is not read")
    if kind != "none" and "transcoder" in name:
        raise NotImplementedError(f"{where}: a transcoder with normalize_activations {mode!r} is not read")
    return Transform(kind)


def _metadata(config: dict[str, Any]) -> dict[str, Any]:
    metadata = {k: v for k, v in (config.get("metadata") or {}).items() if k != "sparse_sae"}
    if config.get("reshape_activations", "none") != "none":
        metadata["reshape_activations"] = config["reshape_activations"]
    return metadata


def _checked(sae: SAE, config: dict[str, Any], where: Path) -> SAE:
    found = {"d_in": sae.d_in, "d_sae": sae.d_sae, "d_out": sae.d_out}
    for key, value in found.items():
        if config.get(key, value) != value:
            raise ValueError(
                f"{where}: {key} is {config[key]}, the weights say {value}; they are of two SAEs"
            )
    return sae
