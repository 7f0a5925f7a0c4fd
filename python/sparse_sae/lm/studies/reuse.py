"""Run the layers below a hook point once for each batch, however often what is above is run again.

An experiment runs the same prompts under many edits at one hook point. Below it nothing changes, so the
activation there is remembered and the lower layers are skipped: with the edit half way up, half the time is saved.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparse_sae.lm.model.hook_point import HookPoint
from sparse_sae.lm.model.hooks import resolve, unwrap
from sparse_sae.lm.model.model_families import FAMILIES
from sparse_sae.lm.model.prompts import Model


@contextmanager
def reuse_below(model: Model, hook: str | HookPoint, max_bytes: int = 1 << 30) -> Iterator[dict[str, int]]:
    """Skip the layers below `hook` for inputs that were run before while the context is open.

    The result is bit for bit that of the whole model, provided that whatever is attached to the model
    meanwhile is attached inside this context and at `hook` or above: an edit further down would not be seen
    when layers are skipped. Passes with inputs other than token ids, with gradients, or after which a
    key-value cache is needed (use_cache is not False) run in full.

    Args:
        model: a `LanguageModel` or a transformers model of a known family.
        hook: `blocks.L.hook_resid_post` for L ≥ 0, or `blocks.L.hook_resid_pre` for L ≥ 1.
        max_bytes: activations remembered at most; beyond that, passes are run in full.

    Yields:
        Counts, updated as passes are run: "full" and "skipped".

    >>> with reuse_below(model, "blocks.15.hook_resid_post"):  # doctest: +SKIP
    ...     first = choice_logprobs(model, prompts, [" Yes"])
    ...     with steer(model, sae, {7: 40.0}):
    ...         second = choice_logprobs(model, prompts, [" Yes"])
    """
    point = hook if isinstance(hook, HookPoint) else resolve(model, hook)
    lower = layers_below(model, point)
    if not lower:
        raise ValueError(
            f"hook {point.name!r}: only a residual stream with layers below it can be gone on from"
        )
    module = unwrap(model)
    base = getattr(module, "base_model", module)
    memory = _Memory(inspect.signature(base.forward), max_bytes)
    with ExitStack() as stack:
        stack.callback(base.register_forward_pre_hook(memory.begin, with_kwargs=True).remove)
        for block in lower:
            stack.callback(block.__dict__.pop, "forward", None)
            block.forward = memory.skipping(block, block.forward)
        stack.enter_context(point.attach(memory.at_hook))
        yield memory.counts


def layers_below(model: Model, point: HookPoint) -> list[Any]:
    """The layers that `reuse_below` can skip: none if `point` is not a residual stream above a layer."""
    module = unwrap(model)
    family = FAMILIES.get(getattr(getattr(module, "config", None), "model_type", ""))
    site = point.name.rpartition(".")[2]
    if family is None or point.layer is None or site not in ("hook_resid_post", "hook_resid_pre"):
        return []
    base = getattr(module, "base_model", module)
    return list(base.get_submodule(family.layers))[: point.layer + (site == "hook_resid_post")]


class _Memory:
    """Activations at the hook point by what the model was given."""

    def __init__(self, signature: inspect.Signature, max_bytes: int) -> None:
        self.counts = {"full": 0, "skipped": 0}
        self._signature, self._room = signature, max_bytes
        self._known: dict[tuple[bytes, ...], Tensor] = {}
        self._key: tuple[bytes, ...] | None = None
        self._tuples: dict[nn.Module, bool] = {}

    def begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a pass: what it is remembered by, or None if it must be run in full."""
        given = dict(self._signature.bind_partial(*args, **kwargs).arguments)
        given.update(given.pop("kwargs", {}))
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        before = _contents(given.get("past_key_values"))
        if (
            before is None
            or given.get("use_cache") is not False
            or torch.is_grad_enabled()
            or not set(tensors) <= {"input_ids", "attention_mask", "position_ids"}
        ):
            self._key = None
        else:
            self._key = tuple(name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors))
            self._key += (str(tensors["input_ids"].shape).encode(), before)
        self.counts["skipped" if self._key in self._known else "full"] += 1

    def skipping(self, block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """`forward` of a lower layer, or nothing at all where the activation is known."""

        def run(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._key in self._known:
                return (hidden_states,) if self._tuples[block] else hidden_states
            out = forward(hidden_states, *args, **kwargs)
            self._tuples[block] = isinstance(out, tuple)
            return out

        return run

    def at_hook(self, x: Tensor) -> Tensor | None:
        """At the hook point, before all edits there."""
        if self._key is None:
            return None
        if self._key not in self._known:
            size = x.numel() * x.element_size()
            if size <= self._room:
                self._room -= size
                self._known[self._key] = x.clone()
            return None
        return self._known[self._key]


def _contents(cache: Any) -> bytes | None:
    """What a key-value cache says of the tokens before: the keys of the first layer. None: it cannot be told."""
    if cache is None:
        return b""
    layers = getattr(cache, "layers", None)
    if type(cache).__name__ != "DynamicCache" or layers is None:
        return None
    keys = layers[0].keys if layers else None
    return b"" if keys is None else bytes(keys.contiguous().view(torch.uint8).numpy().tobytes())
