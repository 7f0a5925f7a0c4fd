"""A random order over rows on disk that needs little memory, reads large blocks and can start anywhere.

Rows lie on disk in chunks of neighbours. An epoch visits the chunks in random order, gathers as many as a
buffer holds, and shuffles the rows in the buffer. So every row is as likely at one place of the epoch as at
another; what is not fully random is company: neighbours of one chunk pass in the same buffer, with the rows
of some hundred other chunks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sparse_sae.data.picks import Pick, Stored
from sparse_sae.data.store.format import Array


@dataclass(frozen=True)
class Pool:
    """Chunks whose rows are mixed with each other.

    Attributes:
        chunks: their numbers, ascending.
        permutation: (n,) the order in which their rows pass, counted through the chunks.
        skip: rows that are passed over at the beginning.
    """

    chunks: Array
    permutation: Array
    skip: int


def pools(sizes: Array, seed: int, epoch: int, skip: int, buffer_rows: int) -> Iterator[Pool]:
    """The random order of an epoch.

    Args:
        sizes: (n_chunks,) rows of each chunk.
        seed, epoch: which order.
        skip: rows to leave out at the beginning; pools before the one where it ends are left out.
        buffer_rows: a pool is closed when it has this many rows.
    """
    chunks = np.flatnonzero(sizes)
    order = chunks[np.random.default_rng([seed, epoch]).permutation(len(chunks))]
    ends = np.cumsum(sizes[order], dtype=np.int64)
    starts = ends - sizes[order]
    buffer_of = starts // buffer_rows
    firsts = np.flatnonzero(np.diff(buffer_of, prepend=-1))
    lasts = np.append(firsts, len(order))[1:]
    for number, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        begin, end = int(starts[first]), int(ends[last - 1])
        if end > skip:
            permutation = np.random.default_rng([seed, epoch, number]).permutation(end - begin)
            yield Pool(np.sort(order[first:last]), permutation, max(0, skip - begin))


def row_numbers(sizes: Array, chunks: Array) -> Array:
    """(n,) numbers, through all chunks, of the rows of these chunks.

    >>> row_numbers(np.array([2, 3, 1]), np.array([0, 2]))
    array([0, 1, 5])
    """
    of = sizes[chunks]
    shift = (np.cumsum(sizes) - sizes)[chunks] - (np.cumsum(of) - of)
    return np.asarray(np.repeat(shift, of) + np.arange(of.sum()))


class Held(ABC):
    """The rows of a pool, at hand once `load` has been asked for all of them.

    Attributes:
        parts: where they are.
        index: (n,) rows of the parts, in the order in which they pass.
    """

    parts: Sequence[Stored]
    index: Array

    def number(self, row: int) -> int:
        """What the user knows a row of the parts by."""
        return row

    @abstractmethod
    def load(self, share: float) -> None:
        """See that at least this share of the rows is at hand."""


def pass_through(order: Iterable[Pool], hold: Callable[[Pool], Held], size: int) -> Iterator[Pick]:
    """The rows of pools in their order, `size` at a time; while a pool passes, the next is loaded by and by.

    Args:
        order: the pools, one epoch or many.
        hold: says where the rows of a pool are; two pools are held at a time.
        size: rows of a pick.
    """
    coming = iter(order)
    pool = next(coming, None)
    held = hold(pool) if pool else None
    while pool is not None and held is not None:
        held.load(1.0)
        pool_after = next(coming, None)
        held_after = hold(pool_after) if pool_after else None
        total = len(pool.permutation)
        for at in range(pool.skip, total, size):
            yield Pick(held.parts, held.index[at : at + size], held.number)
            if held_after is not None:
                held_after.load((at + size - pool.skip) / (total - pool.skip))
        pool, held = pool_after, held_after


def fixed_uniform(numbers: Array, seed: int) -> Array:
    """A number in [0, 1) for each integer, fixed by it and the seed (splitmix64).

    >>> fixed_uniform(np.array([0, 1, 2]), seed=0).round(3)
    array([0.883, 0.567, 0.591])
    """
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.asarray(z / np.float64(2**64))
