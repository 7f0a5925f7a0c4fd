"""SAELens' configurations from before version 6, in the words of version 6."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
# What version 6 keeps under "metadata".
_METADATA = (
    "model_name",
    "hook_name",
    "hook_name_out",
    "hook_head_index",
    "hook_head_index_out",
    "hf_hook_name",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "prepend_bos",
    "exclude_special_tokens",
    "neuronpedia_id",
    "context_size",
    "seqpos_slice",
    "dataset_path",
    "sae_lens_version",
    "sae_lens_training_version",
)


def current(config: dict[str, Any], where: Path) -> dict[str, Any]:
    """The configuration as version 6 would write it; a new one is returned as it is.

    >>> old = {"hook_point": "blocks.0.attn.hook_z", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 8}}
    >>> new = current(old, Path("cfg.json"))
    >>> new["architecture"], new["k"], new["reshape_activations"], new["metadata"]["hook_name"]
    ('topk', 8, 'hook_z', 'blocks.0.attn.hook_z')
    """
    metadata = config.get("metadata")
    version = config.get("sae_lens_version") or (metadata or {}).get("sae_lens_version")
    major = re.match(r"\d+", str(version or ""))
    if major and int(major.group()) >= 6:
        return config
    new = {_RENAMED.get(key, key): value for key, value in config.items()}
    activation = new.get("activation_fn") or "relu"
    if activation == "topk":
        new["architecture"] = "topk"
        new["k"] = (new.get("activation_fn_kwargs") or {}).get("k", new.get("k"))
    elif activation != "relu":
        raise NotImplementedError(
            f"{where}: activation_fn {activation!r} is not read, only 'relu' and 'topk'"
        )
    new.setdefault("architecture", "standard")
    new.setdefault("apply_b_dec_to_input", True)
    new.setdefault("reshape_activations", "hook_z" if "hook_z" in str(new.get("hook_name")) else "none")
    if isinstance(new.get("normalize_activations"), bool):
        new["normalize_activations"] = "expected_average_only_in" if new["normalize_activations"] else "none"
    new["metadata"] = {**(metadata or {}), **{k: new[k] for k in _METADATA if k in new}}
    return new
