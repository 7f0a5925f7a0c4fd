"""A random order over rows on disk that needs little memory, reads large blocks and can start anywhere.

Rows lie on disk in chunks of neighbours. An epoch visits the chunks in random order, gathers as many as a
buffer holds, and shuffles the rows in the buffer. So every row is as likely at one place of the epoch as at
another; what is not fully random is company: neighbours of one chunk pass in the same buffer, with the rows
of some hundred other chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sparse_sae.data.store.format import F32, Array


def shuffled_blocks(
    sizes: Array,
    read: Callable[[Sequence[int]], F32],
    *,
    seed: int,
    epoch: int,
    skip: int,
    buffer_rows: int,
    block_rows: int,
) -> Iterator[F32]:
    """Blocks of rows in the random order of an epoch.

    Args:
        sizes: (n_chunks,) rows of each chunk.
        read: given chunk numbers in ascending order, returns their rows, (n, d).
        seed, epoch: which order.
        skip: rows to leave out at the beginning; only the buffer where it ends is read.
        buffer_rows: a buffer is closed when it has this many rows.
        block_rows: largest block to yield.
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
        if end <= skip:
            continue
        rows = read(np.sort(order[first:last]).tolist())
        permutation = np.random.default_rng([seed, epoch, number]).permutation(end - begin)
        for at in range(max(0, skip - begin), end - begin, block_rows):
            yield rows[permutation[at : at + block_rows]]
        del rows  # before the next buffer is read


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
