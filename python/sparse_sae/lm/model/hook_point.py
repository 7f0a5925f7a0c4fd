"""One place in a model, where activations are read and replaced in every forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor | None]


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
