"""Hook points: read or edit a model's activations by the field's names.

    blocks.L.hook_resid_pre    what layer L reads, (batch, position, d_model)
    blocks.L.hook_resid_mid    the residual stream between attention and MLP
    blocks.L.hook_resid_post   what layer L leaves, equal to hook_resid_pre of layer L + 1
    blocks.L.hook_attn_out     what attention adds to the residual stream
    blocks.L.hook_mlp_out      what the MLP adds to it
    blocks.L.attn.hook_z       the heads' outputs before the output projection, heads flattened
    blocks.L.mlp.hook_in       what the MLP reads, after its norm
    blocks.L.mlp.hook_post     the MLP's neurons before its output projection

Every other place is reached by its module path (`model.layers.3.mlp.up_proj`: what the module returns;
`model.layers.3.mlp:in`: what it is given). Names follow TransformerLens. What a family calls its modules
is one row of `sparse_sae.lm.model.model_families`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any, Literal

from torch import Tensor, nn

from sparse_sae.lm.model.hook_point import HookFunction, HookPoint
from sparse_sae.lm.model.inputs import positions_from_mask, require_known_tokens
from sparse_sae.lm.model.loading import LanguageModel
from sparse_sae.lm.model.model_families import FAMILIES, Family

_SITES = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_z",
    "mlp.hook_in",
    "mlp.hook_post",
)


def unwrap(model: LanguageModel | nn.Module) -> nn.Module:
    """The torch module of a `LanguageModel`, or the module given.

    Raises:
        TypeError: another engine, which has no gradients and no key-value cache that one could work with here.
    """
    if isinstance(model, LanguageModel):
        return model.model
    if isinstance(model, nn.Module):
        return model
    raise TypeError(
        f"model: got {type(model).__name__}, expected a LanguageModel or a torch module: this needs its gradients or "
        "its key-value cache"
    )


def base_of(module: nn.Module) -> Any:
    """The model without its output layer, or the module itself."""
    base = getattr(module, "base_model", module)
    return base if isinstance(base, nn.Module) else module


def family_of(module: nn.Module) -> Family:
    """The row of `FAMILIES` for a model.

    Raises:
        ValueError: the model's type has no row.
    """
    model_type = getattr(getattr(module, "config", None), "model_type", type(module).__name__)
    if model_type not in FAMILIES:
        raise ValueError(
            f"hook points by name are known for {', '.join(sorted(FAMILIES))}; this model is {model_type!r}. "
            "Use a module path (see model.named_modules()), such as 'model.layers.3.mlp'"
        )
    return FAMILIES[model_type]


def hook_names(model: LanguageModel | nn.Module) -> list[str]:
    """The named hook points of a model, layer by layer.

    >>> hook_names(model)[:2]  # doctest: +SKIP
    ['blocks.0.hook_resid_pre', 'blocks.0.hook_resid_mid']
    """
    module = unwrap(model)
    n_layers = len(base_of(module).get_submodule(family_of(module).layers))
    sites = [site for site in _SITES if not (site == "hook_resid_mid" and _parallel(module))]
    return [f"blocks.{layer}.{site}" for layer in range(n_layers) for site in sites]


def _parallel(module: nn.Module) -> bool:
    switch = family_of(module).parallel_if
    return bool(switch) and bool(getattr(module.config, switch, True))


def resolve(model: LanguageModel | nn.Module, name: str) -> HookPoint:
    """The hook point called `name` in `model`.

    Args:
        model: a `LanguageModel`, or a transformers model with or without its output layer.
        name: `blocks.L.…` as listed at the top of this module, or a module path, with `:in` for its input.

    Raises:
        ValueError: no such hook point, layer or module; `hook_resid_mid` where attention and MLP read the
            same residual stream side by side (GPT-NeoX, Pythia) and nothing lies between them.

    >>> resolve(model, "blocks.15.hook_resid_post").layer  # doctest: +SKIP
    15
    """
    module = unwrap(model)
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    if match is None:
        return _resolve_path(module, name)
    layer, site = int(match[1]), match[2]
    family = family_of(module)
    if site not in _SITES:
        raise ValueError(f"hook point {name!r}: {site!r} is not one of {', '.join(_SITES)}")
    layers: Any = base_of(module).get_submodule(family.layers)
    if layer >= len(layers):
        raise ValueError(f"hook point {name!r}: the model has layers 0 to {len(layers) - 1}")
    block: nn.Module = layers[layer]

    if site == "hook_resid_mid":
        if _parallel(module):
            raise ValueError(
                f"hook point {name!r}: this model adds attention and MLP to the residual stream at "
                "once, so it has no hook_resid_mid; use hook_resid_pre, hook_attn_out or hook_mlp_out"
            )
        return HookPoint(name, layer, block.get_submodule(family.mid), "input", block)
    path, side = _site_module(family, site)
    return HookPoint(name, layer, block.get_submodule(path), side)


def _site_module(family: Family, site: str) -> tuple[str, Literal["input", "output"]]:
    if site == "hook_resid_pre":
        return "", "input"
    if site == "hook_resid_post":
        return "", "output"
    if site == "hook_attn_out":
        return family.attn_out or family.attn, "output"
    if site == "hook_mlp_out":
        return family.mlp_out or family.mlp, "output"
    return {"attn.hook_z": family.z, "mlp.hook_in": family.mlp}.get(site, family.neurons), "input"


def _resolve_path(module: nn.Module, name: str) -> HookPoint:
    path, _, suffix = name.partition(":")
    if suffix not in ("", "in", "out"):
        raise ValueError(f"hook point {name!r}: after ':' comes 'in' or 'out', not {suffix!r}")
    for root in (module, base_of(module)):
        try:
            found = root.get_submodule(path) if path else None
        except AttributeError:
            continue
        if found is not None:
            number = re.search(r"\.(\d+)(?:\.|$)", path)
            return HookPoint(
                name, int(number[1]) if number else None, found, "input" if suffix == "in" else "output"
            )
    raise ValueError(
        f"no hook point or module {name!r} in this model; hook points are named like "
        "'blocks.0.hook_resid_post' (see hook_names(model)), modules as in model.named_modules()"
    )


class _AllRead(Exception):
    """Ends a forward pass when nothing more of it is wanted."""


def read_hooks(
    model: LanguageModel | nn.Module,
    hooks: Sequence[str | HookPoint],
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    **inputs: Any,
) -> dict[str, Tensor]:
    """Run the model up to the last of `hooks` and return what was there, by name.

    Layers above the last hook and the logits are not computed. Wrap it in `torch.inference_mode()` when no
    gradient is wanted. Edits attached to hook points are in force.

    Args:
        model: a `LanguageModel` or a transformers model.
        hooks: names or resolved hook points.
        input_ids: (batch, position) token ids.
        attention_mask: (batch, position), 1 for tokens and 0 for padding on either side, or None for no
            padding. Positions count tokens, unless `position_ids` are given.
        inputs: other arguments of the model's forward.

    Returns:
        name -> tensor, usually (batch, position, width).

    Raises:
        ValueError: no hooks, a hook point that the pass never reaches, or tokens that the model does not have.

    >>> read_hooks(model, ["blocks.3.hook_mlp_out"], ids)["blocks.3.hook_mlp_out"].shape  # doctest: +SKIP
    torch.Size([1, 7, 576])
    """
    points = [resolve(model, hook) if isinstance(hook, str) else hook for hook in hooks]
    if not points:
        raise ValueError("hooks is empty: name at least one hook point")
    wanted = {point.name for point in points}
    seen: dict[str, Tensor] = {}

    def reader(name: str) -> HookFunction:
        def read(x: Tensor) -> None:
            seen[name] = x
            if len(seen) == len(wanted):
                raise _AllRead

        return read

    base = base_of(unwrap(model))
    require_known_tokens(base, input_ids)
    inputs = {**positions_from_mask(base, attention_mask), **inputs}
    with ExitStack() as stack:
        for point in points:
            stack.enter_context(point.attach(reader(point.name)))
        with suppress(_AllRead):
            base(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **inputs)
    missing = sorted(wanted - set(seen))
    if missing:
        raise ValueError(f"the forward pass never reached {', '.join(missing)}")
    return seen
