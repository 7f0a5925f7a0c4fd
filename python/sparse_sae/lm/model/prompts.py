"""Prompts as token ids, and token sequences as batches."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sparse_sae.lm.model.inputs import require_known_tokens
from sparse_sae.lm.model.loading import LanguageModel

Model: TypeAlias = "LanguageModel | nn.Module"
Prompt: TypeAlias = "str | Sequence[int] | Sequence[Mapping[str, str]]"


def tokenizer_for(model: Any, prompts: Sequence[Prompt], tokenizer: Any = None) -> Any:
    """The tokenizer given, or the model's own; None if all prompts are token ids and need none."""
    if tokenizer is not None:
        return tokenizer
    if not isinstance(model, nn.Module):
        return model.tokenizer
    if any(isinstance(item, str | Mapping) for prompt in prompts for item in list(prompt)[:1]):
        raise ValueError(
            "tokenizer: a bare torch module has none; give tokenizer=…, or a model of load_model()"
        )
    return None


def token_ids(prompt: Prompt, tokenizer: Any) -> list[int]:
    """Token ids of a prompt.

    Args:
        prompt: a string, in which the names of special tokens (such as <|im_start|>) are those tokens; token
            ids, taken as they are; or chat messages (`{"role": …, "content": …}`), for which the model's chat
            template is used and the assistant's turn opened.
        tokenizer: a transformers tokenizer; not used for token ids.

    Raises:
        ValueError: the prompt is empty.
    """
    items = list(prompt)
    if not items:
        raise ValueError("prompt is empty: at least one token is needed")
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    elif isinstance(items[0], Mapping):
        text = tokenizer.apply_chat_template(items, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        ids = items
    if not len(ids):
        raise ValueError(f"prompt {prompt!r} has no tokens")
    return [int(i) for i in ids]


def continuation_ids(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a text that continues a prompt: no special tokens are added.

    >>> continuation_ids(" refunds are", model.tokenizer)  # doctest: +SKIP
    [33250, 359]
    """
    ids = [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
    if not ids:
        raise ValueError(f"continuation {text!r} has no tokens")
    return ids


@dataclass(frozen=True)
class Batch:
    """Token sequences of unequal length as one rectangle: `ids`, `mask` (1 for tokens), `index` of each
    row.
    """

    ids: Tensor
    mask: Tensor
    index: list[int]

    @property
    def positions(self) -> Tensor:
        """Position ids that count tokens, not padding."""
        return (self.mask.cumsum(1) - 1).clamp(min=0)

    @property
    def sha256(self) -> str:
        """SHA-256 of ids, mask and shape: what a pass over this batch depends on."""
        digest = hashlib.sha256(repr(tuple(self.ids.shape)).encode())
        digest.update(self.ids.numpy().tobytes())
        digest.update(self.mask.numpy().tobytes())
        return digest.hexdigest()


def batches(
    sequences: Sequence[Sequence[int]], size: int, *, side: str = "right", pad: int = 0
) -> Iterator[Batch]:
    """Sequences in batches of at most `size`, longest first so that little is padded, padded on `side`."""
    if size < 1:
        raise ValueError(f"batch_size: got {size}, expected at least 1")
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), i))
    for start in range(0, len(order), size):
        index = order[start : start + size]
        width = len(sequences[index[0]])
        ids = torch.full((len(index), width), pad, dtype=torch.long)
        mask = torch.zeros((len(index), width), dtype=torch.long)
        for row, i in enumerate(index):
            n = len(sequences[i])
            where = slice(0, n) if side == "right" else slice(width - n, width)
            ids[row, where] = torch.tensor([int(t) for t in sequences[i]])
            mask[row, where] = 1
        yield Batch(ids, mask, index)


def logits_of(module: nn.Module, ids: Tensor, *, keep: int = 0, **inputs: Any) -> Any:
    """One forward pass; `keep` > 0 asks for the logits of the last positions only, where the model can."""
    require_known_tokens(module, ids)
    parameters = inspect.signature(module.forward).parameters
    if keep and "logits_to_keep" in parameters:
        inputs["logits_to_keep"] = keep
    if "position_ids" not in parameters:
        inputs.pop("position_ids", None)
    return module(input_ids=ids, **inputs)
