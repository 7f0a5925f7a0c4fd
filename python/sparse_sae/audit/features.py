"""One row of numbers for each text: activations and latents pooled over its tokens."""

from __future__ import annotations

from collections.abc import Sequence
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
) -> Features:
    """Run texts up to a hook point and pool over their tokens, the first `skip` left out.

    Args:
        model: a `LanguageModel`, a transformers model or an `Engine`. prompts: see `token_ids`.
        sae: its latents are pooled too.

    Raises:
        ValueError: a text of at most `skip` tokens, which has nothing to judge.

    >>> text_features(lm, ["My parcel is late."], "blocks.15.hook_resid_post", sae)  # doctest: +SKIP
    """
    engine = engine_of(model)
    sequences = [token_ids(prompt, engine.tokenizer) for prompt in prompts]
    short = [i for i, ids in enumerate(sequences) if len(ids) <= skip]
    if short:
        raise ValueError(f"prompts: {len(short)} have at most {skip} tokens (number {short[0]} is the first)")
    raw: list[Any] = [None] * len(sequences)
    latents: list[Any] = [None] * len(sequences)
    for i, found in prompt_rows(engine, sequences, hook, batch_size=batch_size):
        rows = np.ascontiguousarray(found[skip:])
        raw[i] = rows.mean(0, dtype=np.float64).astype(np.float32)
        if sae is not None:
            codes = sae.encode(rows).max(axis=0)
            latents[i] = np.asarray(codes.toarray()).reshape(-1)
    lengths = np.array([len(ids) - skip for ids in sequences])
    return Features(np.stack(raw), None if sae is None else np.stack(latents), lengths)
