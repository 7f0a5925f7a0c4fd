"""The seam between this package and whatever runs a model.

`Engine` says what a runtime has to offer to be captured from, steered and generated with: `capture`, `stream`, `steer`,
`steer_direction`, `reconstruct` and `generate` use nothing else. `Transformers` is the engine of torch modules; another
runtime (OpenVINO, llama.cpp) is one more class with these members, handed to the same verbs. `explain`, the studies and
circuits need gradients and key-value caches, and so a transformers model (`unwrap`).

Activations cross the seam as torch tensors on the CPU, which share memory with NumPy arrays and C buffers
(`torch.from_numpy`): an engine without torch inside pays for no copy.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from sparse_sae.lm.model.hook_point import HookFunction, HookPoint, owned
from sparse_sae.lm.model.hooks import base_of, read_hooks, resolve
from sparse_sae.lm.model.loading import LanguageModel

_STREAM_WIDE = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")


class Point(Protocol):
    """A place in a model where activations are replaced.

    Attributes:
        name: the field's name for it, such as `blocks.3.hook_resid_post`.
        layer: its layer, or None outside the layers.
    """

    @property
    def name(self) -> str: ...
    @property
    def layer(self) -> int | None: ...
    def attach(self, fn: HookFunction) -> AbstractContextManager[None]:
        """While open, call `fn` with the activation (batch, position, width) of each pass of this thread.

        `fn` returns None to leave it, or a tensor of the same shape to go on with.
        """
        ...


@dataclass(frozen=True)
class Pass:
    """Which positions a forward pass reads.

    Attributes:
        start: index of its first position in the sequence.
        tokens: how many it reads, padding counted; None where that cannot be told.
        cached: whether a later pass can go on from it, as in a generation.
    """

    start: int
    tokens: int | None
    cached: bool


@runtime_checkable
class Engine(Protocol):
    """What runs a model.

    Attributes:
        name: what to call the model in metadata, never a path.
        tokenizer: in the manner of transformers: a call gives `input_ids`; `decode`, `apply_chat_template`.
        compute_dtype: name of the dtype that a forward pass computes in.
        max_context: longest sequence in tokens, or None: no limit.
    """

    name: str
    tokenizer: Any
    compute_dtype: str
    max_context: int | None

    def point(self, hook: str) -> Point:
        """The hook point of that name. Raises ValueError: there is none."""
        ...

    def width(self, point: Point) -> int | None:
        """Width of the activation there, or None where only a pass can tell."""
        ...

    def read(
        self, hooks: Sequence[str], input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Hook point -> (batch, position, width), from one pass over (batch, position) tokens.

        What lies above the last hook point need not be computed. Raises ValueError: tokens the model does not have.
        """
        ...

    def follow(self, begin: Callable[[Pass], None]) -> AbstractContextManager[None]:
        """While open, call `begin` before each forward pass of this thread."""
        ...

    def generate(self, input_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """Greedy continuation of one prompt; ends early with the model's end token, which it includes."""
        ...


class Transformers:
    """The engine of a transformers model in this process; see `Engine` for its members.

    Args:
        module: a causal model of transformers.
    """

    max_context: int | None

    def __init__(self, module: nn.Module, tokenizer: Any = None, name: str | None = None) -> None:
        config: Any = getattr(module, "config", None)
        self.module, self.tokenizer = module, tokenizer
        self.name = str(getattr(config, "_name_or_path", "") or "") if name is None else name
        self._text = config.get_text_config() if hasattr(config, "get_text_config") else config
        self.max_context = getattr(self._text, "max_position_embeddings", None)
        parameter = next(module.parameters(), None)
        self._device = torch.device("cpu") if parameter is None else parameter.device
        self.compute_dtype = "float32" if parameter is None else str(parameter.dtype).removeprefix("torch.")

    def point(self, hook: str) -> HookPoint:
        """As `Engine.point`; module paths too."""
        return resolve(self.module, hook)

    def width(self, point: Point) -> int | None:
        """As `Engine.width`; None for a module path."""
        match = re.fullmatch(r"blocks\.\d+\.(.+)", point.name)
        if match is None or not isinstance(point, HookPoint):
            return None
        if match[1] in _STREAM_WIDE:
            return int(self._text.hidden_size)
        projection: Any = point.module
        # GPT-2's Conv1D: (in, out)
        return int(getattr(projection, "in_features", None) or projection.weight.shape[0])

    def read(
        self, hooks: Sequence[str], input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """As `Engine.read`."""
        with torch.inference_mode():
            return read_hooks(self.module, hooks, input_ids.to(self._device), attention_mask)

    @contextmanager
    def follow(self, begin: Callable[[Pass], None]) -> Iterator[None]:
        """As `Engine.follow`: the length of the key-value cache says where a pass begins."""
        base = base_of(self.module)
        signature = inspect.signature(base.forward)
        with owned() as ours:

            def before(_module: nn.Module, args: Any, kwargs: dict[str, Any] | None = None) -> None:
                if ours():
                    begin(_pass(signature.bind_partial(*args, **(kwargs or {})).arguments))

            handle = base.register_forward_pre_hook(before, with_kwargs=True)
            try:
                yield
            finally:
                handle.remove()

    def generate(self, input_ids: Sequence[int], max_new_tokens: int) -> list[int]:
        """As `Engine.generate`."""
        module: Any = self.module
        ids = torch.tensor([list(input_ids)], device=self._device)
        out = module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False
        )
        return [int(i) for i in out[0, ids.shape[1] :]]


AnyModel: TypeAlias = "LanguageModel | nn.Module | Engine"


def engine_of(model: AnyModel) -> Engine:
    """What runs `model`: an engine is its own; a `LanguageModel` or a torch module gets `Transformers`.

    Raises:
        TypeError: it is none of these; names the members of `Engine` that are missing.

    >>> engine_of(load_model()).compute_dtype  # doctest: +SKIP
    'float32'
    """
    if isinstance(model, LanguageModel):
        return Transformers(model.model, model.tokenizer, model.name)
    if isinstance(model, nn.Module):
        return Transformers(model)
    if isinstance(model, Engine):
        return model
    members = (
        "name",
        "tokenizer",
        "compute_dtype",
        "max_context",
        "point",
        "width",
        "read",
        "follow",
        "generate",
    )
    missing = [member for member in members if not hasattr(model, member)]
    raise TypeError(
        f"model: got {type(model).__name__}, expected a LanguageModel, a torch module, or an Engine (it lacks "
        f"{', '.join(missing)})"
    )


def _pass(inputs: dict[str, Any]) -> Pass:
    cache = inputs.get("past_key_values")
    ids, embeddings = inputs.get("input_ids"), inputs.get("inputs_embeds")
    tokens = ids if ids is not None else embeddings
    return Pass(
        0 if cache is None else int(cache.get_seq_length()),
        None if tokens is None else int(tokens.shape[1]),
        cache is not None,
    )
