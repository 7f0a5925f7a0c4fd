"""What a forward pass is given, checked before it runs: tokens that the model has, positions that skip padding."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn


def require_known_tokens(module: nn.Module, input_ids: Tensor) -> None:
    """Refuse token ids that the model has no embedding for, where torch would say "index out of range".

    Raises:
        ValueError: names the first such token and the size of the vocabulary.
    """
    embeddings: Any = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
    size = getattr(embeddings, "num_embeddings", None)
    if size is None or not input_ids.numel():
        return
    wrong = ((input_ids < 0) | (input_ids >= size)).nonzero()
    if len(wrong):
        row, position = (int(i) for i in wrong[0][-2:])
        raise ValueError(
            f"input_ids: token {int(input_ids[row, position])} of row {row} at position {position}, expected 0 to "
            f"{size - 1}: the tokens are not of this model's tokenizer"
        )


def positions_from_mask(module: nn.Module, attention_mask: Tensor | None) -> dict[str, Tensor]:
    """`position_ids` that count tokens and not padding, for a batch padded on the left; else nothing.

    A model with learned positions (GPT-2) otherwise reads the first token of a short row as if it stood late in the
    text. `generate` does the same by itself.
    """
    if attention_mask is None or attention_mask.ndim != 2 or bool(attention_mask[:, 0].all()):
        return {}
    if "position_ids" not in inspect.signature(module.forward).parameters:
        return {}
    return {"position_ids": (attention_mask.long().cumsum(1) - 1).clamp(min=0)}
