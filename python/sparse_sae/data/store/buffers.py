"""The rows of a pool of chunks, held in memory as they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, count

import numpy as np

from sparse_sae.data.picks import Pick
from sparse_sae.data.store.index import RowIndex
from sparse_sae.data.store.shuffle import Held, Pool, pass_through, pools, row_numbers


class Chunks(Held):
    """The rows of chunks of one or several stores, read when `load` asks for them.

    Args:
        indices: of stores whose chunks are alike, side by side.
        pool: which chunks.
        before: what is held so far; where it is of the same chunks, its rows are used and nothing is read.
    """

    def __init__(self, indices: Sequence[RowIndex], pool: Pool, before: Chunks | None) -> None:
        self.indices, self.pool, self.index = indices, pool, pool.permutation
        sizes = indices[0].sizes[pool.chunks]
        self._starts, self._rows = np.cumsum(sizes) - sizes, int(sizes.sum())
        if before is not None and np.array_equal(before.pool.chunks, pool.chunks):
            self.parts, self._loaded = before.parts, len(pool.chunks)
            return
        self.parts = [index.memory(self._rows) for index in indices]
        self._loaded = 0

    def number(self, row: int) -> int:
        """The number in the store of a row by its place here."""
        return int(row_numbers(self.indices[0].sizes, self.pool.chunks)[row])

    def load(self, share: float) -> None:
        """Read chunks until this share of the rows is here."""
        while self._loaded < len(self._starts) and self._starts[self._loaded] < share * self._rows:
            for index, part in zip(self.indices, self.parts, strict=True):
                index.copy(int(self.pool.chunks[self._loaded]), part, int(self._starts[self._loaded]))
            self._loaded += 1


def store_picks(
    indices: Sequence[RowIndex],
    seed: int,
    epoch: int,
    skip: int,
    *,
    buffer_rows: int,
    size: int,
    endless: bool,
) -> Iterator[Pick]:
    """Every row of stores side by side once, shuffled; endless: epoch after epoch."""
    sizes = indices[0].sizes
    epochs = count(epoch) if endless else [epoch]
    order = chain.from_iterable(pools(sizes, seed, e, skip if e == epoch else 0, buffer_rows) for e in epochs)
    held: Chunks | None = None

    def hold(pool: Pool) -> Chunks:
        nonlocal held
        held = Chunks(indices, pool, held)
        return held

    return pass_through(order, hold, size)
