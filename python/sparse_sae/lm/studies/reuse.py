"""Run the layers below a hook point once for each batch, however often what is above is run again.

An experiment runs the same prompts under many edits at one hook point. Below it nothing changes, so the
activation there is remembered and the lower layers are skipped: with the edit half way up, half the time is saved.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparse_sae.lm.model.engine import Point
from sparse_sae.lm.model.hook_point import owned
from sparse_sae.lm.model.hooks import resolve, unwrap
from sparse_sae.lm.model.model_families import FAMILIES
from sparse_sae.lm.model.prompts import Model


@contextmanager
def reuse_below(model: Model, hook: str | Point, max_bytes: int = 1 << 30) -> Iterator[dict[str, int]]:
    """Skip the layers below `hook` for inputs that were run before while the context is open.

    The result is bit for bit that of the whole model, provided that whatever is attached to the model
    meanwhile is attached inside this context and at `hook` or above: an edit further down would not be seen
    when layers are skipped. Passes with inputs other than token ids, with gradients, or after which a
    key-value cache is needed (use_cache is not False), and passes of other threads, run in full.

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
    point = resolve(model, hook) if isinstance(hook, str) else hook
    lower = layers_below(model, point)
    if not lower:
        raise ValueError(
            f"hook {point.name!r}: only a residual stream with layers below it can be gone on from"
        )
    module = unwrap(model)
    base = getattr(module, "base_model", module)
    with ExitStack() as stack:
        ours, thread = stack.enter_context(owned()), threading.get_ident()

        def mine() -> bool:
            return ours() and threading.get_ident() == thread

        memory = _Memory(inspect.signature(base.forward), max_bytes, mine)
        stack.callback(base.register_forward_pre_hook(memory.begin, with_kwargs=True).remove)
        for block in lower:
            stack.enter_context(_skippable(block, memory))
        stack.enter_context(point.attach(memory.at_hook))
        yield memory.counts


def layers_below(model: Model, point: Point) -> list[Any]:
    """The layers that `reuse_below` can skip: none if `point` is not a residual stream above a layer."""
    module = unwrap(model)
    family = FAMILIES.get(getattr(getattr(module, "config", None), "model_type", ""))
    site = point.name.rpartition(".")[2]
    if family is None or point.layer is None or site not in ("hook_resid_post", "hook_resid_pre"):
        return []
    base = getattr(module, "base_model", module)
    return list(base.get_submodule(family.layers))[: point.layer + (site == "hook_resid_post")]


# layer -> the memories that may know what it would return
_ASKED: dict[nn.Module, list[_Memory]] = {}
_LOCK = threading.Lock()


@contextmanager
def _skippable(block: nn.Module, memory: _Memory) -> Iterator[None]:
    """While this is open, `block.forward` asks the memory whether to run at all."""
    with _LOCK:
        if block not in _ASKED:
            _ASKED[block] = []
            block.forward = _asking(_ASKED[block], block, block.forward)
        _ASKED[block].append(memory)
    try:
        yield
    finally:
        with _LOCK:
            _ASKED[block].remove(memory)
            if not _ASKED[block]:
                del _ASKED[block]
                block.__dict__.pop("forward", None)


def _asking(memories: list[_Memory], block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        mine = [memory for memory in tuple(memories) if memory.mine()]
        if any(memory.knows() for memory in mine):
            return (hidden_states,) if mine[0].tuples[block] else hidden_states
        out = forward(hidden_states, *args, **kwargs)
        for memory in mine:
            memory.tuples[block] = isinstance(out, tuple)
        return out

    return run


class _Memory:
    """Activations at the hook point by what the model was given."""

    def __init__(self, signature: inspect.Signature, max_bytes: int, mine: Callable[[], bool]) -> None:
        self.mine = mine  # whether the running pass is of the thread and context that this belongs to
        self.tuples: dict[nn.Module, bool] = {}  # whether a layer returns a tuple
        self.counts = {"full": 0, "skipped": 0}
        self._signature, self._room = signature, max_bytes
        self._known: dict[tuple[bytes, ...], Tensor] = {}
        self._key: tuple[bytes, ...] | None = None

    def begin(self, _module: nn.Module, args: Any, kwargs: dict[str, Any] | None = None) -> None:
        """Before a pass of the owner: what it is remembered by, or None if it must be run in full."""
        if not self.mine():
            return
        given = dict(self._signature.bind_partial(*args, **(kwargs or {})).arguments)
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

    def knows(self) -> bool:
        """Whether the activation of the running pass is remembered."""
        return self._key in self._known

    def at_hook(self, x: Tensor) -> Tensor | None:
        """At the hook point, before all edits there."""
        if self._key is None or not self.mine():
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
