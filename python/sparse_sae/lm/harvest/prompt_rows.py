"""The activations of each of several prompts, without padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_sae.lm.model.engine import AnyModel, engine_of
from sparse_sae.lm.model.prompts import batches


def prompt_rows(
    model: AnyModel, sequences: Sequence[Sequence[int]], hook: str, *, batch_size: int = 8
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Run token sequences up to a hook point, longest first.

    Args:
        model: a `LanguageModel`, a transformers model or an `Engine`.
        sequences: token ids (`token_ids`), each of at least one token.
        hook: the hook point, such as "blocks.15.hook_resid_post".
        batch_size: sequences in one pass.

    Yields:
        The number of a sequence, and its (tokens, d_in) float32 activations.

    Raises:
        ValueError: no such hook point, or tokens that the model does not have.

    >>> for i, rows in prompt_rows(lm, [[5, 9, 3]], "blocks.15.hook_resid_post"):  # doctest: +SKIP
    ...     print(i, rows.shape)
    0 (3, 576)
    """
    engine = engine_of(model)
    for batch in batches(sequences, batch_size):
        with torch.inference_mode():
            x = engine.read([hook], batch.ids, batch.mask)[hook].float().numpy()
        for row, i in enumerate(batch.index):
            yield i, x[row, : len(sequences[i])]
