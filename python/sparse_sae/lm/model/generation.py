"""What a model answers, as text."""

from __future__ import annotations

from typing import Any

from sparse_sae.lm.model.engine import AnyModel, engine_of
from sparse_sae.lm.model.prompts import Prompt, token_ids, tokenizer_for


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
