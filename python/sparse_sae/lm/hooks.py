"""Hook points: read or edit a model's activations by the field's names.

    blocks.L.hook_resid_pre    what layer L reads, (batch, position, d_model)
    blocks.L.hook_resid_mid    the residual stream between attention and MLP
    blocks.L.hook_resid_post   what layer L leaves, equal to hook_resid_pre of layer L + 1
    blocks.L.hook_attn_out     what attention adds to the residual stream
    blocks.L.hook_mlp_out      what the MLP adds to it
    blocks.L.attn.hook_z       the heads' outputs before the output projection, heads flattened
    blocks.L.mlp.hook_post     the MLP's neurons before its output projection

Every other place is reached by its module path (`model.layers.3.mlp.up_proj`: what the module returns;
`model.layers.3.mlp:in`: what it is given). Names follow TransformerLens. What a family calls its modules
is one row of `sparse_sae.lm.families`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from sparse_sae.lm.families import FAMILIES, Family
from sparse_sae.lm.models import LanguageModel

Edit = Callable[[Tensor], Tensor | None]


_SITES = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_z",
    "mlp.hook_post",
)


@dataclass(frozen=True, eq=False)
class HookPoint:
    """A place in a model where activations can be read and replaced.

    Attributes:
        name: the name it was asked for by.
        layer: its layer, or None for a module path outside the layers.
        module: the module whose input or output it is.
        side: "input" or "output" of `module`.
        block: for `hook_resid_mid` only: the layer, whose output carries the edit on (see `attach`).
    """

    name: str
    layer: int | None
    module: nn.Module
    side: Literal["input", "output"]
    block: nn.Module | None = None

    @contextmanager
    def attach(self, fn: Edit) -> Iterator[None]:
        """Call `fn` with the activation on each forward pass while the context is open.

        `fn(x)` gets the tensor, usually (batch, position, width), and returns None to leave it as it is or a
        tensor of the same shape to go on with instead. Gradients flow through both. Several functions on one
        hook point run in the order attached. The hook is removed however the context is left.

        >>> with resolve(model, "blocks.3.hook_resid_post").attach(lambda x: x * 2):  # doctest: +SKIP
        ...     model.model.generate(ids)
        """
        with ExitStack() as stack:
            for handle in self._register(fn):
                stack.callback(handle.remove)
            yield

    def _register(self, fn: Edit) -> list[Any]:
        if self.side == "output":
            return [self.module.register_forward_hook(lambda _m, _args, out: self._edit_output(fn, out))]
        if self.block is None:
            return [
                self.module.register_forward_pre_hook(
                    lambda _m, args, kwargs: self._edit_input(fn, args, kwargs), with_kwargs=True
                )
            ]
        # Between attention and MLP the residual stream goes two ways: into the norm, and around the MLP. What
        # an edit changes is added to the layer's output too, first of all hooks there.
        changes: list[Tensor] = []

        def edit(x: Tensor) -> Tensor | None:
            new = self._checked(fn, x)
            if new is not None:
                changes.append(new - x)
            return new

        def carry(_module: nn.Module, _args: Any, out: Any) -> Any:
            if not changes:
                return None
            change = changes.pop()
            return (out[0] + change, *out[1:]) if isinstance(out, tuple) else out + change

        def forget(_module: nn.Module, _args: Any) -> None:
            changes.clear()  # of a forward pass that was broken off

        return [
            self.block.register_forward_pre_hook(forget),
            self.module.register_forward_pre_hook(
                lambda _m, args, kwargs: self._edit_input(edit, args, kwargs), with_kwargs=True
            ),
            self.block.register_forward_hook(carry, prepend=True),
        ]

    def _checked(self, fn: Edit, x: Tensor) -> Tensor | None:
        new = fn(x)
        if new is None:
            return None
        if not isinstance(new, Tensor) or new.shape != x.shape:
            came = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ValueError(
                f"fn at {self.name} must return None or a tensor of shape {tuple(x.shape)}; got {came}"
            )
        return new.to(x.dtype)

    def _edit_output(self, fn: Edit, out: Any) -> Any:
        if isinstance(out, tuple):
            new = self._checked(fn, out[0])
            return None if new is None else (new, *out[1:])
        return self._checked(fn, out)

    def _edit_input(self, fn: Edit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = self._checked(fn, args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        key = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        new = self._checked(fn, kwargs[key])
        return None if new is None else (args, {**kwargs, key: new})


def unwrap(model: LanguageModel | nn.Module) -> nn.Module:
    """The torch module of a `LanguageModel`, or the module given."""
    if isinstance(model, LanguageModel):
        return model.model
    if isinstance(model, nn.Module):
        return model
    raise TypeError(f"model must be a LanguageModel or a torch module, got {type(model).__name__}")


def _base(module: nn.Module) -> Any:
    base = getattr(module, "base_model", module)
    return base if isinstance(base, nn.Module) else module


def _family(module: nn.Module) -> Family:
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
    n_layers = len(_base(module).get_submodule(_family(module).layers))
    sites = [site for site in _SITES if not (site == "hook_resid_mid" and _parallel(module))]
    return [f"blocks.{layer}.{site}" for layer in range(n_layers) for site in sites]


def _parallel(module: nn.Module) -> bool:
    config = getattr(module, "config", None)
    neox = getattr(config, "model_type", "") == "gpt_neox"
    return neox and bool(getattr(config, "use_parallel_residual", True))


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
    family = _family(module)
    if site not in _SITES:
        raise ValueError(f"hook point {name!r}: {site!r} is not one of {', '.join(_SITES)}")
    layers: Any = _base(module).get_submodule(family.layers)
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
    return (family.z if site == "attn.hook_z" else family.neurons), "input"


def _resolve_path(module: nn.Module, name: str) -> HookPoint:
    path, _, suffix = name.partition(":")
    if suffix not in ("", "in", "out"):
        raise ValueError(f"hook point {name!r}: after ':' comes 'in' or 'out', not {suffix!r}")
    for root in (module, _base(module)):
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
        attention_mask: (batch, position), 1 for tokens and 0 for padding, or None for no padding.
        inputs: other arguments of the model's forward.

    Returns:
        name -> tensor, usually (batch, position, width).

    >>> read_hooks(model, ["blocks.3.hook_mlp_out"], ids)["blocks.3.hook_mlp_out"].shape  # doctest: +SKIP
    torch.Size([1, 7, 576])
    """
    points = [resolve(model, hook) if isinstance(hook, str) else hook for hook in hooks]
    if not points:
        raise ValueError("hooks is empty: name at least one hook point")
    wanted = {point.name for point in points}
    seen: dict[str, Tensor] = {}

    def reader(name: str) -> Edit:
        def read(x: Tensor) -> None:
            seen[name] = x
            if len(seen) == len(wanted):
                raise _AllRead

        return read

    with ExitStack() as stack:
        for point in points:
            stack.enter_context(point.attach(reader(point.name)))
        with suppress(_AllRead):
            base = _base(unwrap(model))
            base(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **inputs)
    missing = sorted(wanted - set(seen))
    if missing:
        raise ValueError(f"the forward pass never reached {', '.join(missing)}")
    return seen
