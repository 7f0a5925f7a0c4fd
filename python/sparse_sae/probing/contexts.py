"""Where a latent fires most: tokens among their neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sparse_sae.data.store import ActivationStore
    from sparse_sae.sae import SAE


@dataclass(frozen=True)
class Context:
    """A token on which a latent fires, among its neighbours.

    Attributes:
        value: the latent's activation. row: the row of the store.
        tokens: token ids around it, of its own sequence. at: which of them is the token.
    """

    value: float
    row: int
    tokens: tuple[int, ...]
    at: int

    def text(self, tokenizer: Any) -> str:
        """The words, with the token between double square brackets."""
        parts = self.tokens[: self.at], self.tokens[self.at : self.at + 1], self.tokens[self.at + 1 :]
        before, token, after = (tokenizer.decode(list(part)) for part in parts)
        return " ".join(f"{before}[[{token}]]{after}".split())


def top_contexts(
    sae: SAE, store: ActivationStore, latents: Sequence[int], n: int = 10, *, before: int = 10, after: int = 5
) -> dict[int, list[Context]]:
    """Where each latent fires most: latent -> its n strongest tokens in context, strongest first.

    Reads the whole store once, in blocks. A latent that fires on fewer tokens has fewer; ties go to the earlier row.

    Args:
        latents: which latents, distinct.
        before, after: how many neighbours of the token are kept.
    """
    columns = [int(latent) for latent in latents]
    best = np.full((n, len(columns)), -np.inf)
    rows = np.zeros((n, len(columns)), np.int64)
    for start, codes in _blocks_of_codes(sae, store):
        values = np.concatenate([best, codes.tocsc()[:, columns].toarray()])
        numbers = np.concatenate(
            [rows, np.tile(np.arange(start, start + codes.shape[0])[:, None], len(columns))]
        )
        order = np.argsort(-values, axis=0, kind="stable")[:n]
        best, rows = np.take_along_axis(values, order, 0), np.take_along_axis(numbers, order, 0)
    found: dict[int, list[Context]] = {}
    for column, latent in enumerate(columns):
        found[latent] = []
        for value, row in zip(best[:, column].tolist(), rows[:, column].tolist(), strict=True):
            if value > 0:
                tokens, at = store.context(row, before, after)
                found[latent].append(Context(value, row, tuple(tokens.tolist()), at))
    return found


def _blocks_of_codes(sae: SAE, store: ActivationStore, size: int = 8192) -> Iterator[tuple[int, Any]]:
    for start in range(0, len(store), size):
        yield start, sae.encode(store.rows(slice(start, start + size)))
