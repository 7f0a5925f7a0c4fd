"""How many tokens after the first telling one a monitor speaks up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.audit.observer import Monitor
from sparse_sae.lm.harvest.prompt_rows import prompt_rows
from sparse_sae.lm.model.engine import AnyModel, engine_of
from sparse_sae.lm.model.prompts import Prompt, token_ids


def onset_tokens(
    prompts: Sequence[Prompt], texts: Sequence[str], onsets: Sequence[int], tokenizer: Any
) -> Array:
    """(n,) the token of each prompt in which the telling passage of its text begins.

    Args:
        prompts: what the model is given: texts or chats, each with its own of `texts` in it, the last time it occurs.
        onsets: where the passage begins in each text, in characters.
        tokenizer: a fast tokenizer, which knows where its tokens begin.

    Raises:
        NotImplementedError: another tokenizer. ValueError: a text that does not stand in its prompt.

    >>> onset_tokens(["a parcel, late"], ["a parcel, late"], [10], lm.tokenizer)  # doctest: +SKIP
    array([3])
    """
    if not getattr(tokenizer, "is_fast", False):
        raise NotImplementedError("tokenizer: only fast ones know where in the text a token begins")
    found = []
    for prompt, text, onset in zip(prompts, texts, onsets, strict=True):
        if not 0 <= onset < len(text):
            raise ValueError(f"onset: got {onset}, expected a character of a text of {len(text)}")
        chat = not isinstance(prompt, str)
        whole: str = prompt  # type: ignore[assignment]
        if chat:
            whole = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
        kept = text.strip()  # templates strip messages
        start = whole.rfind(kept)
        if start < 0:
            raise ValueError(f"prompts: {text[:60]!r} does not stand in its prompt as it is")
        at = start + max(0, onset - (len(text) - len(text.lstrip())))
        spans = tokenizer(whole, add_special_tokens=not chat, return_offsets_mapping=True)["offset_mapping"]
        found.append(next((i for i, (_, end) in enumerate(spans) if end > at), len(spans) - 1))
    return np.array(found, np.int64)


def first_alarms(
    model: AnyModel, prompts: Sequence[Prompt], monitors: Mapping[str, Monitor], *, batch_size: int = 8
) -> dict[str, Array]:
    """For each monitor (n,) the token of each prompt at which it first speaks up, NaN where it never does.

    Args:
        monitors: name -> a monitor, all at one hook point; each prompt is a sequence of theirs, read once for all.
    """
    engine = engine_of(model)
    (hook,) = {monitor.watch.hook for monitor in monitors.values()}
    sequences = [token_ids(prompt, engine.tokenizer) for prompt in prompts]
    first = {name: np.full(len(sequences), np.nan) for name in monitors}
    for batch in prompt_rows(engine, sequences, hook, batch_size=batch_size):
        for i, found in zip(batch.index, batch.rows, strict=True):
            rows = np.ascontiguousarray(found)
            for name, monitor in monitors.items():
                events = monitor.observe(rows, sequence=("prompt", i))
                if events:
                    first[name][i] = events[0].position
    return first
