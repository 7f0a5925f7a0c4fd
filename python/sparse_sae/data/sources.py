"""Where training rows come from: arrays, files and stores; `stream.py` has iterables, `opening.py` tells which."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.data.base import SAMPLE_ROWS, Part, Source, batches
from sparse_sae.data.picks import Pick, Stored
from sparse_sae.data.store.shuffle import Held, Pool, pass_through, pools, row_numbers
from sparse_sae.data.stream import StreamSource

__all__ = [
    "SAMPLE_ROWS",
    "ArraySource",
    "Part",
    "Source",
    "StoreSource",
    "StreamSource",
    "batches",
]

_CHUNK_ROWS = 256
_PICK_ROWS = 1024  # of what lies on a disk: between two picks, a little more is read ahead


class ArraySource(Source):
    """One or several arrays or memmaps of equal length, shuffled anew every epoch.

    Rows are read where they lie. Those of an array on disk pass in pools of pieces of neighbouring rows, so that the
    pieces of the next pool can be asked for while one passes: an epoch still visits every row once.
    """

    def __init__(self, arrays: Sequence[Array], buffer_bytes: int = 256 << 20) -> None:
        self.arrays = arrays
        self.buffer_bytes = buffer_bytes

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(int(a.shape[1]) for a in self.arrays)

    def sample(self, n: int, seed: int) -> Array:
        total = len(self.arrays[0])
        rng = np.random.default_rng([seed, 1])
        index = np.sort(rng.choice(total, size=min(n, total), replace=False))
        out = np.empty((len(index), sum(self.widths)), np.float32)
        Pick(_views(self.arrays), index).read(out)
        return out

    def picks(self, seed: int, start: int) -> Iterator[Pick]:
        total = len(self.arrays[0])
        mapped = [a for a in self.arrays if isinstance(a, np.memmap)]
        chunk = _CHUNK_ROWS if mapped else 1
        sizes = np.full(-(-total // chunk), chunk, dtype=np.int64)
        sizes[-1] = total - chunk * (len(sizes) - 1)
        buffer_rows = max(1, self.buffer_bytes // (4 * sum(self.widths)))
        epoch, skip = divmod(start, total)
        order = chain.from_iterable(
            pools(sizes, seed, e, skip if e == epoch else 0, buffer_rows) for e in count(epoch)
        )
        parts = _views(self.arrays)
        return pass_through(order, lambda pool: _InPlace(parts, mapped, sizes, pool), _PICK_ROWS)


def _views(arrays: Sequence[Array]) -> list[Stored]:
    return [Stored(np.asarray(a)) for a in arrays]


class _InPlace(Held):
    """The rows of a pool where they lie; of mapped files, their pages are asked for before they are read."""

    def __init__(self, parts: Sequence[Stored], mapped: Sequence[Any], sizes: Array, pool: Pool) -> None:
        self.parts, self.index = parts, row_numbers(sizes, pool.chunks)[pool.permutation]
        self._mapped, self._sizes, self._chunks = mapped, sizes, pool.chunks
        self._asked = 0

    def load(self, share: float) -> None:
        """Ask the system for the pages of the next chunks; it reads them while we go on."""
        end = min(len(self._chunks), int(np.ceil(share * len(self._chunks)))) if self._mapped else 0
        for array in self._mapped:
            for chunk in self._chunks[self._asked : end]:
                _will_need(array, int(chunk) * int(self._sizes[0]), int(self._sizes[chunk]))
        self._asked = max(self._asked, end)


def _will_need(array: Any, first: int, count: int) -> None:
    """Advice only: where it cannot be given, rows are read when they are needed."""
    file = getattr(array, "_mmap", None)
    if file is None or not hasattr(mmap, "MADV_WILLNEED") or array.strides[0] <= 0:
        return
    base = np.frombuffer(file, np.uint8).ctypes.data
    begin = array.ctypes.data - base + first * array.strides[0]
    aligned = begin - begin % mmap.PAGESIZE
    file.madvise(mmap.MADV_WILLNEED, aligned, min(begin + count * array.strides[0], len(file)) - aligned)


class StoreSource(Source):
    """One or several `ActivationStore`s of the same tokens, shuffled alike."""

    def __init__(self, stores: Sequence[Any]) -> None:
        from sparse_sae.data.store import aligned

        self.stores = aligned(stores) if len(stores) > 1 else stores

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(int(s.d_in) for s in self.stores)

    def sample(self, n: int, seed: int) -> Array:
        return np.concatenate([s.sample(n, seed) for s in self.stores], axis=1)

    def picks(self, seed: int, start: int) -> Iterator[Pick]:
        first, *beside = self.stores
        # Equal buffers in rows make equal orders, whatever the widths.
        picks: Iterator[Pick] = first.picks(seed, start, (256 << 20) // (4 * max(self.widths)), beside)
        return picks
