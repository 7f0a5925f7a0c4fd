"""One place in a model, where activations are read and replaced in the forward passes of whoever attached there."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

HookFunction: TypeAlias = Callable[[Tensor], "Tensor | None"]

# Hooks of torch belong to a module, and so to every thread that runs it. What is attached here belongs to the
# context (`contextvars`) that attached it: a hook looks up whether the running context is one of its owner's.
_IN_FORCE: ContextVar[frozenset[object]] = ContextVar("sparse_sae_hooks_in_force", default=frozenset())


@contextmanager
def owned() -> Iterator[Callable[[], bool]]:
    """A question that is true while this context is open, in the context (thread, task) that opened it only.

    Contexts copied from it (`asyncio.to_thread`, `contextvars.copy_context().run`) count as its own; a bare
    `threading.Thread` begins with an empty context and does not.
    """
    token = object()
    _IN_FORCE.set(_IN_FORCE.get() | {token})
    try:
        yield lambda: token in _IN_FORCE.get()
    finally:
        _IN_FORCE.set(_IN_FORCE.get() - {token})


class _Changes(threading.local):
    """What an edit between attention and MLP added in this thread's current pass."""

    def __init__(self) -> None:
        self.waiting: list[Tensor] = []


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
    def attach(self, fn: HookFunction) -> Iterator[None]:
        """Call `fn` with the activation on each forward pass of this thread while the context is open.

        `fn(x)` gets the tensor, usually (batch, position, width), and returns None to leave it as it is or a
        tensor of the same shape to go on with instead. Gradients flow through both. Several functions on one
        hook point run in the order attached. The hook is removed however the context is left.

        Passes that other threads or tasks run meanwhile on the same model are not touched, and do not see `fn`.
        To run the model in a thread of one's own making, hand the context on:
        `Thread(target=contextvars.copy_context().run, args=(model.generate,), kwargs=…)`. If only other threads
        passed here while the context was open, a `UserWarning` says so when it closes.

        >>> with resolve(model, "blocks.3.hook_resid_post").attach(lambda x: x * 2):  # doctest: +SKIP
        ...     model.model.generate(ids)
        """
        passes = {True: 0, False: 0}
        with owned() as ours, ExitStack() as stack:

            def in_force() -> bool:
                mine = ours()
                passes[mine] += 1
                return mine

            for handle in self._register(fn, in_force):
                stack.callback(handle.remove)
            yield
        if passes[False] and not passes[True]:
            warnings.warn(
                f"{self.name}: {passes[False]} forward passes of other threads ran while this was attached, and "
                "none of its own: an edit belongs to the thread that opened it. To run the model in another "
                "thread, start that with contextvars.copy_context().run",
                UserWarning,
                stacklevel=3,
            )

    def _register(self, fn: HookFunction, in_force: Callable[[], bool]) -> list[Any]:
        # A hook that another thread removes in the middle of this thread's pass may still be called once, and then
        # without keyword arguments: every hook asks first whether the pass is its owner's.
        if self.side == "output":
            return [
                self.module.register_forward_hook(
                    lambda _m, _args, out: self._edit_output(fn, out) if in_force() else None
                )
            ]
        if self.block is None:
            return [
                self.module.register_forward_pre_hook(
                    lambda _m, args, kwargs=None: self._edit_input(fn, args, kwargs) if in_force() else None,
                    with_kwargs=True,
                )
            ]
        # Between attention and MLP the residual stream goes two ways: into the norm, and around the MLP. What
        # an edit changes is added to the layer's output too, first of all hooks there.
        changes = _Changes()

        def edit(x: Tensor) -> Tensor | None:
            new = self._checked(fn, x)
            if new is not None:
                changes.waiting.append(new - x)
            return new

        def carry(_module: nn.Module, _args: Any, out: Any) -> Any:
            if not changes.waiting:
                return None
            change = changes.waiting.pop()
            return (out[0] + change, *out[1:]) if isinstance(out, tuple) else out + change

        def forget(_module: nn.Module, _args: Any) -> None:
            changes.waiting.clear()  # of a forward pass that was broken off

        return [
            self.block.register_forward_pre_hook(forget),
            self.module.register_forward_pre_hook(
                lambda _m, args, kwargs=None: self._edit_input(edit, args, kwargs) if in_force() else None,
                with_kwargs=True,
            ),
            self.block.register_forward_hook(carry, prepend=True),
        ]

    def _checked(self, fn: HookFunction, x: Tensor) -> Tensor | None:
        new = fn(x)
        if new is None:
            return None
        if not isinstance(new, Tensor) or new.shape != x.shape:
            came = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise ValueError(
                f"fn at {self.name} must return None or a tensor of shape {tuple(x.shape)}; got {came}"
            )
        return new.to(x.dtype)

    def _edit_output(self, fn: HookFunction, out: Any) -> Any:
        if isinstance(out, tuple):
            new = self._checked(fn, out[0])
            return None if new is None else (new, *out[1:])
        return self._checked(fn, out)

    def _edit_input(self, fn: HookFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            new = self._checked(fn, args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        key = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
        new = self._checked(fn, kwargs[key])
        return None if new is None else (args, {**kwargs, key: new})
