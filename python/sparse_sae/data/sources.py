"""Where training rows come from. One order of rows for a seed, which can be entered at any row.

A source yields (n, width) float32 blocks; several hook points side by side are one wider row (coders.py says
which columns are read and which are written).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .._io.arrays import Array, as_array, as_rows, to_float

SAMPLE_ROWS = 16384  # enough rows to estimate a mean, a scale and a geometric median
_CHUNK_ROWS = 256


class Source(Protocol):
    """What the trainer needs of its data."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each part of a row."""

    def sample(self, n: int, seed: int) -> Array:
        """Up to n rows, float32."""

    def blocks(self, seed: int, start: int) -> Iterator[Array]:
        """Blocks of rows in training order, without end or until the data ends, from the start-th row on."""


class ArraySource:
    """One or several arrays or memmaps of equal length, shuffled anew every epoch.

    An array on disk is read in pieces of neighbouring rows, which are then mixed in a buffer: an epoch still
    visits every row once.
    """

    def __init__(self, arrays: Sequence[Array], buffer_bytes: int = 256 << 20) -> None:
        self.arrays = arrays
        self.buffer_bytes = buffer_bytes

    @property
    def widths(self) -> tuple[int, ...]:
        """See `Source`."""
        return tuple(int(a.shape[1]) for a in self.arrays)

    def _rows(self, index: Array) -> Array:
        return np.concatenate([to_float(a[index]) for a in self.arrays], axis=1)

    def sample(self, n: int, seed: int) -> Array:
        """See `Source`."""
        total = len(self.arrays[0])
        rng = np.random.default_rng([seed, 1])
        index = np.sort(rng.choice(total, size=min(n, total), replace=False))
        return self._checked(self._rows(index))

    def blocks(self, seed: int, start: int) -> Iterator[Array]:
        """See `Source`."""
        from .store.shuffle import shuffled_blocks

        total = len(self.arrays[0])
        on_disk = any(isinstance(a, np.memmap) for a in self.arrays)
        chunk = _CHUNK_ROWS if on_disk else 1
        sizes = np.full(-(-total // chunk), chunk, dtype=np.int64)
        sizes[-1] = total - chunk * (len(sizes) - 1)

        def read(chunks: Sequence[int]) -> Array:
            starts = np.asarray(chunks, dtype=np.int64) * chunk
            return self._rows((starts[:, None] + np.arange(chunk)).ravel()[: sizes[list(chunks)].sum()])

        epoch, skip = divmod(start, total)
        row_bytes = 4 * sum(self.widths)
        while True:
            blocks = shuffled_blocks(
                sizes, read, seed=seed, epoch=epoch, skip=skip,
                buffer_rows=max(1, self.buffer_bytes // row_bytes), block_rows=8192,
            )  # fmt: skip
            for block in blocks:
                yield self._checked(block)
            epoch, skip = epoch + 1, 0

    @staticmethod
    def _checked(rows: Array) -> Array:
        return as_rows(rows, rows.shape[1], "data")


class StoreSource:
    """One or several `ActivationStore`s of the same tokens, shuffled alike."""

    def __init__(self, stores: Sequence[Any]) -> None:
        from .store import aligned

        self.stores = aligned(stores) if len(stores) > 1 else stores

    @property
    def widths(self) -> tuple[int, ...]:
        """See `Source`."""
        return tuple(int(s.d_in) for s in self.stores)

    def sample(self, n: int, seed: int) -> Array:
        """See `Source`."""
        return np.concatenate([s.sample(n, seed) for s in self.stores], axis=1)

    def blocks(self, seed: int, start: int) -> Iterator[Array]:
        """See `Source`."""
        epoch, skip = divmod(start, len(self.stores[0]))
        # Equal buffers in rows make equal orders, whatever the widths.
        buffer_rows = (256 << 20) // (4 * max(self.widths))
        while True:
            parts = [s.epoch(seed, epoch, skip, buffer_rows=buffer_rows) for s in self.stores]
            for blocks in zip(*parts, strict=True):
                yield np.concatenate(blocks, axis=1) if len(blocks) > 1 else blocks[0]
            epoch, skip = epoch + 1, 0


class StreamSource:
    """Blocks from any iterable, in its order, mixed in a buffer; an iterator is read once, a list again and again."""

    def __init__(self, blocks: Iterable[Any], mixing_rows: int = 16384) -> None:
        self.iterable = blocks
        self.mixing_rows = mixing_rows
        self._once = iter(blocks) if iter(blocks) is blocks else None
        self._head: list[Array] = []
        self._peek(1)

    @property
    def once(self) -> bool:
        """Whether the rows can be read only once."""
        return self._once is not None

    def _fresh(self) -> Iterator[Array]:
        for block in self.iterable if self._once is None else self._once:
            parts = block if isinstance(block, tuple) else (block,)
            rows = [to_float(as_rows(p, as_array(p, "data").shape[-1], "data")) for p in parts]
            if any(len(r) != len(rows[0]) for r in rows):
                raise ValueError(
                    f"data: blocks of {[len(r) for r in rows]} rows side by side, expected equal numbers"
                )
            self.__dict__.setdefault("_widths", tuple(r.shape[1] for r in rows))
            if tuple(r.shape[1] for r in rows) != self._widths:
                raise ValueError(f"data: a block of widths {[r.shape[1] for r in rows]} after {self._widths}")
            yield np.concatenate(rows, axis=1) if len(rows) > 1 else rows[0]

    def _peek(self, n: int) -> None:
        """Read ahead until n rows are at hand; what is read is not lost to `blocks`."""
        have = sum(map(len, self._head))
        if have >= n:
            return
        if self._once is None:
            self._head = []
            have = 0
        for block in self._fresh():
            self._head.append(block)
            have += len(block)
            if have >= n:
                return
        if not have:
            raise ValueError("data: the iterable yielded no rows; expected (n, d_in) blocks")

    @property
    def widths(self) -> tuple[int, ...]:
        """See `Source`."""
        widths: tuple[int, ...] = self.__dict__["_widths"]
        return widths

    _widths = property(lambda self: self.__dict__["_widths"])

    def sample(self, n: int, seed: int) -> Array:
        """See `Source`."""
        self._peek(n)
        return np.concatenate(self._head)[:n]

    def _in_order(self) -> Iterator[Array]:
        if self._once is not None:
            head, self._head = self._head, []
            yield from head
            yield from self._fresh()
            return
        while True:
            yield from self._fresh()

    def blocks(self, seed: int, start: int) -> Iterator[Array]:
        """See `Source`. Starting later reads, and passes over, what comes before."""
        passed = 0
        for number, rows in enumerate(_regrouped(self._in_order(), self.mixing_rows)):
            mixed = rows[np.random.default_rng([seed, number]).permutation(len(rows))]
            if passed + len(mixed) > start:
                yield mixed[max(0, start - passed) :]
            passed += len(mixed)


def _regrouped(blocks: Iterable[Array], n: int) -> Iterator[Array]:
    held: list[Array] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block)
        while count >= n:
            rows = np.concatenate(held)
            yield rows[:n]
            held, count = [rows[n:]], count - n
    if count:
        yield np.concatenate(held)


def batches(source: Source, size: int, seed: int, start: int) -> Iterator[Array]:
    """Batches of exactly `size` rows, contiguous float32; the last rows of a finite source are left over."""
    yield from (b for b in _regrouped(source.blocks(seed, start), size) if len(b) == size)


def open_source(data: Any) -> Source:
    """The source for what a user passed as data.

    Args:
        data: an array or memmap (n, d); a directory of shards or an `ActivationStore`; a tuple or list of any of
            these, of equal length, for transcoders and crosscoders; or an iterable of (n, d) blocks (or tuples).
    """
    parts = list(data) if isinstance(data, (tuple, list)) and data and not _is_blocks(data) else [data]
    parts = [_open_part(p) for p in parts]
    if all(isinstance(p, np.ndarray) for p in parts):
        lengths = [len(p) for p in parts]
        if len(set(lengths)) > 1:
            raise ValueError(f"data: arrays of {lengths} rows side by side, expected equal numbers")
        if not lengths[0]:
            raise ValueError("data: empty, expected (n, d_in) rows")
        return ArraySource(parts)
    if all(hasattr(p, "epoch") for p in parts):
        lengths = [len(p) for p in parts]
        if len(set(lengths)) > 1 or not lengths[0]:
            raise ValueError(f"data: stores of {lengths} usable rows, expected equal numbers above zero")
        return StoreSource(parts)
    if len(parts) == 1 and isinstance(parts[0], Iterable):
        return StreamSource(parts[0])
    raise TypeError(
        f"data: got {type(data).__name__}, expected an array, a memmap, a directory of shards, an ActivationStore, "
        "an iterable of (n, d_in) blocks, or a tuple of arrays or stores"
    )


def _is_blocks(data: Any) -> bool:
    """A list of blocks (or tuples of blocks) to be read in turn, rather than several sources side by side."""
    return isinstance(data, list) and all(isinstance(p, tuple) or getattr(p, "ndim", 0) == 2 for p in data)


def _open_part(part: Any) -> Any:
    if isinstance(part, (str, Path)):
        from .store import ActivationStore

        return ActivationStore(part)
    if isinstance(part, list) or hasattr(part, "epoch"):
        return part
    if hasattr(part, "shape"):
        # A memmap is read in another way than an array, so it stays one; bfloat16 on disk is opened as uint16.
        bits = isinstance(part, np.memmap) and part.dtype == np.uint16
        array = part if bits else as_array(part, "data")
        if array.ndim != 2:
            raise ValueError(f"data: shape {array.shape}, expected (n, d_in)")
        return part if isinstance(part, np.memmap) and array.dtype == part.dtype else array
    return part
