"""What a model answers, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sparse_sae.lm.model.engine import AnyModel, engine_of
from sparse_sae.lm.model.loading import LanguageModel
from sparse_sae.lm.model.prompts import Prompt, batches, token_ids, tokenizer_for


def generate(model: AnyModel, prompt: Prompt, *, max_new_tokens: int = 32, tokenizer: Any = None) -> str:
    """The model's greedy answer to one prompt, with whatever is attached to it (`steer`, `reconstruct`) in force.

    Beams and sampling: call a transformers model's own `generate` inside the same contexts.

    Args:
        model: a `LanguageModel`, a transformers model, or any `Engine`.
        prompt: text, token ids or chat messages.
        max_new_tokens: longest answer; shorter where the model ends it.
        tokenizer: for a bare transformers model.

    Raises:
        ValueError: an empty prompt, max_new_tokens below 1, no tokenizer to read the answer with.

    >>> with steer(model, sae, {1903: 80.0}):  # doctest: +SKIP
    ...     generate(model, [{"role": "user", "content": "Can I get a refund?"}])
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: got {max_new_tokens}, expected at least 1")
    words = tokenizer_for(model, [prompt], tokenizer)
    if words is None:
        raise ValueError("tokenizer: got none, expected one to turn the answer into text")
    new = engine_of(model).generate(token_ids(prompt, words), max_new_tokens)
    return str(words.decode(new, skip_special_tokens=True))


def answers(
    model: LanguageModel, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int = 16
) -> list[str]:
    """The model's greedy answers to several prompts, which it reads and answers a batch at a time.

    Args:
        model: a `LanguageModel`. prompts: n prompts (`token_ids` says what one may be).
        max_new_tokens: longest answer. batch_size: prompts in one pass.

    Returns:
        n texts without special tokens.

    Raises:
        ValueError: an empty prompt, a batch_size below 1, or a model whose logits are NaN, among which the largest
            would be a token all the same.

    >>> answers(model, ["The sky is", "Snow is"], 1)  # doctest: +SKIP
    [' blue', ' white']
    """
    sequences = [token_ids(prompt, model.tokenizer) for prompt in prompts]
    out = [""] * len(sequences)
    module: Any = model.model
    pad = model.tokenizer.pad_token_id
    for batch in batches(sequences, batch_size, side="left", pad=0 if pad is None else pad):
        with torch.inference_mode():
            found = module.generate(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                logits_processor=[_without_nan],
            )
        for row, i in enumerate(batch.index):
            new = found[row, batch.ids.shape[1] :]
            out[i] = str(model.tokenizer.decode(new, skip_special_tokens=True))
    return out


def _without_nan(_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """A logits processor of transformers' `generate` that changes nothing."""
    if logits.isnan().any():
        raise ValueError("model: its logits are NaN, expected numbers; the model or its dtype is at fault")
    return logits
