"""Rows picked by number out of memory or a mapped file, straight into a float32 batch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sparse_sae import _kernels
from sparse_sae._io.arrays import Array


class Stored(NamedTuple):
    """Rows as they are stored.

    Attributes:
        rows: (n, d) float16, float32, float64, int8, or bfloat16 bits in uint16.
        scale: (n,) float32, what int8 rows are multiplied by; None for the others.
    """

    rows: Array
    scale: Array | None = None

    def read(self, out: Array, index: Array, num_threads: int = 1) -> int:
        """Write rows index (m,) into out (m, d) as its floats; returns the first that is not finite, or -1."""
        rows, item = self.rows, self.rows.dtype.itemsize
        if (
            not rows.flags.aligned
            or rows.strides[0] % item
            or (rows.shape[1] > 1 and rows.strides[1] != item)
        ):
            # What the kernel cannot walk, NumPy gathers: columns apart from one another, say.
            rows, index = np.ascontiguousarray(rows[index]), np.arange(len(index))
        return _kernels.gather(out, rows, index, self.scale, num_threads=num_threads)


@dataclass(frozen=True)
class Pick:
    """Some rows, in the order in which they pass; they can be read until the next pick is asked for.

    Attributes:
        parts: what lies side by side in a row.
        index: (n,) int64, which rows of the parts.
        number: turns an entry of index into the number that the user knows the row by.
    """

    parts: Sequence[Stored]
    index: Array
    number: Callable[[int], int] = int

    @property
    def width(self) -> int:
        """Columns of a row."""
        return sum(int(part.rows.shape[1]) for part in self.parts)

    def read(self, out: Array, begin: int = 0, num_threads: int = 1) -> None:
        """Fill out (n, width) with the rows from the begin-th on.

        Raises:
            ValueError: a row holds a NaN or an infinity.
        """
        index = self.index[begin : begin + len(out)]
        at = 0
        for part in self.parts:
            end = at + part.rows.shape[1]
            bad = part.read(out[:, at:end], index, num_threads)
            if bad >= 0:
                raise ValueError(
                    f"data: row {self.number(int(index[bad]))} holds a NaN or an infinity (as float32); leave such "
                    "rows out, for example data[numpy.isfinite(data).all(axis=-1)]"
                )
            at = end


def picked_blocks(picks: Iterable[Pick], size: int) -> Iterator[Array]:
    """The rows of picks as float32 blocks of at most `size`, in new memory."""
    for pick in picks:
        for begin in range(0, len(pick.index), size):
            out = np.empty((min(size, len(pick.index) - begin), pick.width), np.float32)
            pick.read(out, begin)
            yield out


def picked_batches(picks: Iterable[Pick], size: int, num_threads: int = 1) -> Generator[Array, None, None]:
    """The rows of picks as float32 batches of exactly `size`, in new memory; what is left at the end is dropped."""
    batch: Array | None = None
    filled = 0
    for pick in picks:
        begin = 0
        while begin < len(pick.index):
            if batch is None:
                batch, filled = np.empty((size, pick.width), np.float32), 0
            take = min(size - filled, len(pick.index) - begin)
            pick.read(batch[filled : filled + take], begin, num_threads)
            begin, filled = begin + take, filled + take
            if filled == size:
                yield batch
                batch = None
