"""The activations of each of several prompts, without padding."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_sae.lm.model.engine import AnyModel, engine_of
from sparse_sae.lm.model.prompts import batches


@dataclass(frozen=True)
class PromptRows:
    """Activations of a batch of sequences.

    Attributes:
        sha256: of the batch's tokens. index: numbers of its sequences.
        rows: (tokens, d_in) float32 for each of them; none where the batch was known.
    """

    sha256: str
    index: list[int]
    rows: list[NDArray[np.float32]]


def prompt_rows(
    model: AnyModel,
    sequences: Sequence[Sequence[int]],
    hook: str,
    *,
    batch_size: int = 8,
    known: Container[str] = (),
) -> Iterator[PromptRows]:
    """Run token sequences up to a hook point, a batch at a time, longest first.

    Args:
        model: a `LanguageModel`, a transformers model or an `Engine`.
        sequences: token ids (`token_ids`), each of at least one token.
        hook: the hook point, such as "blocks.15.hook_resid_post".
        batch_size: sequences in one pass.
        known: SHA-256 of batches that need not be run.

    Raises:
        ValueError: no such hook point, or tokens that the model does not have.

    >>> for batch in prompt_rows(lm, [[5, 9, 3]], "blocks.15.hook_resid_post"):  # doctest: +SKIP
    ...     print(batch.index, batch.rows[0].shape)
    [0] (3, 576)
    """
    engine = engine_of(model)
    for batch in batches(sequences, batch_size):
        rows = []
        if batch.sha256 not in known:
            with torch.inference_mode():
                x = engine.read([hook], batch.ids, batch.mask)[hook].float().numpy()
            rows = [x[row, : len(sequences[i])] for row, i in enumerate(batch.index)]
        yield PromptRows(batch.sha256, batch.index, rows)
