"""What the trainer needs of its data, wherever the rows come from.

A source picks (n, width) float32 rows in one order for a seed, which can be entered at any row; several hook points
side by side are one wider row (coders.py says which columns are read and which are written).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from typing import ClassVar

from sparse_sae._io.arrays import Array
from sparse_sae.data.picks import Pick, Stored, picked_batches, picked_blocks

SAMPLE_ROWS = 16384  # enough rows to estimate a mean, a scale and a geometric median
_BLOCK_ROWS = 8192


class Source(ABC):
    """What the trainer needs of its data."""

    once: bool = False  # whether the rows can be read only once
    may_wait: ClassVar[bool] = True  # whether rows are worth preparing while others are trained on

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """Columns of each part of a row."""

    @abstractmethod
    def sample(self, n: int, seed: int) -> Array:
        """Up to n rows, float32."""

    @abstractmethod
    def picks(self, seed: int, start: int) -> Iterator[Pick]:
        """Rows in training order, without end or until the data ends, from the start-th on; they are not yet read."""

    def blocks(self, seed: int, start: int) -> Iterator[Array]:
        """The same rows as float32 blocks."""
        return picked_blocks(self.picks(seed, start), _BLOCK_ROWS)


class Part(Source):
    """Some columns of a source."""

    def __init__(self, source: Source, columns: slice) -> None:
        self.source, self.columns, self.once = source, columns, source.once

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.columns.stop - self.columns.start,)

    def sample(self, n: int, seed: int) -> Array:
        return self.source.sample(n, seed)[:, self.columns]

    def picks(self, seed: int, start: int) -> Iterator[Pick]:
        for pick in self.source.picks(seed, start):
            parts: list[Stored] = []
            at = 0
            for rows, scale in pick.parts:
                width = rows.shape[1]
                first, last = max(0, self.columns.start - at), min(width, self.columns.stop - at)
                if first < last:
                    parts.append(Stored(rows[:, first:last], scale))
                at += width
            yield Pick(parts, pick.index, pick.number)


def first_rows(blocks: Iterable[Array], n: int) -> Iterator[Array]:
    """Blocks with n rows together, or fewer where there are no more; nothing is read beyond them."""
    seen = 0
    for block in blocks:
        yield block[: n - seen]
        seen += len(block)
        if seen >= n:
            return


def batches(
    source: Source, size: int, seed: int, start: int, num_threads: int = 1
) -> Generator[Array, None, None]:
    """Batches of exactly `size` rows, contiguous float32; the last rows of a finite source are left over."""
    return picked_batches(source.picks(seed, start), size, num_threads)
