"""One row of numbers for each text: activations and latents pooled over its tokens."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.lm.harvest.prompt_rows import prompt_rows
from sparse_sae.lm.model.engine import AnyModel, engine_of
from sparse_sae.lm.model.prompts import Prompt, token_ids


@dataclass(frozen=True)
class Features:
    """Pooled activations of n texts.

    Attributes:
        raw: (n, d_in) float32, the mean over the judged tokens.
        latents: (n, d_sae) float32, each latent's largest value on a judged token; None without an SAE.
        tokens: (n,) judged tokens.
    """

    raw: Array
    latents: Array | None
    tokens: Array

    def take(self, index: Array) -> Features:
        """The texts of these numbers."""
        latents = None if self.latents is None else self.latents[index]
        return Features(self.raw[index], latents, self.tokens[index])


def text_features(
    model: AnyModel,
    prompts: Sequence[Prompt],
    hook: str,
    sae: Any = None,
    *,
    skip: int = 1,
    batch_size: int = 8,
    memory: MutableMapping[str, tuple[Array, ...]] | None = None,
) -> Features:
    """Run texts up to a hook point and pool over their tokens, the first `skip` left out.

    Args:
        model: a `LanguageModel`, a transformers model or an `Engine`. prompts: see `token_ids`.
        sae: its latents are pooled too.
        memory: SHA-256 of a batch's tokens -> what it was pooled to. A batch that is found there is not run, so that a
            long reading which was stopped goes on; the caller answers for it that model, hook, SAE and skip are
            the same.

    Raises:
        ValueError: a text of at most `skip` tokens, which has nothing to judge; activations that are NaN or infinite.

    >>> text_features(lm, ["My parcel is late."], "blocks.15.hook_resid_post", sae)  # doctest: +SKIP
    """
    engine = engine_of(model)
    sequences = [token_ids(prompt, engine.tokenizer) for prompt in prompts]
    short = [i for i, ids in enumerate(sequences) if len(ids) <= skip]
    if short:
        raise ValueError(f"prompts: {len(short)} have at most {skip} tokens (number {short[0]} is the first)")
    memory = {} if memory is None else memory
    pooled: list[tuple[Array, ...]] = [()] * len(sequences)
    for batch in prompt_rows(engine, sequences, hook, batch_size=batch_size, known=memory):
        if batch.rows:
            each = [_pooled(np.ascontiguousarray(rows[skip:]), sae) for rows in batch.rows]
            memory[batch.sha256] = tuple(np.stack(column) for column in zip(*each, strict=True))
        for i, *columns in zip(batch.index, *memory[batch.sha256], strict=True):
            pooled[i] = tuple(columns)
    raw, *latents = (np.stack(column) for column in zip(*pooled, strict=True))
    lengths = np.array([len(ids) - skip for ids in sequences])
    return Features(raw, latents[0] if latents else None, lengths)


def _pooled(rows: Array, sae: Any) -> tuple[Array, ...]:
    """The mean of (n, d_in) rows, and each latent's largest value if there is an SAE."""
    mean = rows.mean(0, dtype=np.float64).astype(np.float32)
    if not np.isfinite(mean).all():
        raise ValueError("prompts: an activation is NaN or infinite; the model or its dtype is at fault")
    if sae is None:
        return (mean,)
    return mean, np.asarray(sae.encode(rows).max(axis=0).toarray()).reshape(-1)
