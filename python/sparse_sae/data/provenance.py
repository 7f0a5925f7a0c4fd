"""Which model and hook point data comes from, and whether an SAE is of the same."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sparse_sae.coders import Coder


def provenance(source: Any, coder: Coder, part: int | None = None) -> dict[str, Any]:
    """What stores, or an activation stream, say of where their rows come from, as an SAE's metadata.

    Args:
        source: a `StoreSource`, or another source, which says nothing unless its blocks have `model` and `hook`.
        part: only this one of several stores.

    Returns:
        `model_name`, `hook_name`, for a transcoder `hook_name_out`, for a crosscoder `hook_names`; what is known.
    """
    parts: Sequence[Any] = getattr(source, "stores", None) or [getattr(source, "iterable", None)]
    if part is not None:
        parts = parts[part : part + 1]
    models = {name for name in (_text(p, "model") for p in parts) if name}
    hooks = [_text(p, "hook") for p in parts]
    found: dict[str, Any] = {"model_name": models.pop()} if len(models) == 1 else {}
    if not hooks or not all(hooks):
        return found
    found["hook_name"] = hooks[0]
    if coder.kind == "transcoder" and len(hooks) > 1:
        found["hook_name_out"] = hooks[1]
    elif len(hooks) > 1:
        found["hook_names"] = hooks
    return found


def mismatches(metadata: Mapping[str, Any], data: Any, hook_field: str = "hook_name") -> list[str]:
    """What an SAE's metadata and a store say differently of model and hook point, a sentence each.

    >>> from types import SimpleNamespace
    >>> store = SimpleNamespace(model="openai-community/GPT2", hook="blocks.1.hook_resid_post")
    >>> mismatches({"model_name": "gpt2", "hook_name": "blocks.5.hook_resid_post"}, store)
    ["hook point 'blocks.5.hook_resid_post', and the data is of 'blocks.1.hook_resid_post'"]
    """
    found = []
    for name, field, attribute, plain in (
        ("model", "model_name", "model", short_model),
        ("hook point", hook_field, "hook", canonical_hook),
    ):
        mine, theirs = metadata.get(field), _text(data, attribute)
        if isinstance(mine, str) and mine and theirs and plain(mine) != plain(theirs):
            found.append(f"{name} {mine!r}, and the data is of {theirs!r}")
    return found


def short_model(name: str) -> str:
    """A model's name without its owner and case; TransformerLens calls GPT-2 gpt2-small."""
    short = name.rstrip("/").rpartition("/")[2].lower()
    return "gpt2" if short == "gpt2-small" else short


def canonical_hook(hook: str) -> str:
    """One name for one place: what layer L leaves is what layer L + 1 reads."""
    match = re.fullmatch(r"blocks\.([1-9]\d*)\.hook_resid_pre", hook)
    return f"blocks.{int(match[1]) - 1}.hook_resid_post" if match else hook


def _text(value: Any, name: str) -> str:
    found = getattr(value, name, "")
    return found if isinstance(found, str) else ""
