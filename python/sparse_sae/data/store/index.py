"""Where the rows of a selection lie: shards are seen as chunks of neighbouring rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae.data.picks import Stored
from sparse_sae.data.store.checks import Checks
from sparse_sae.data.store.format import F32, ROW_TYPES, Array, Shard

_CHUNK_BYTES = 256 << 10  # of float32: large enough for a disk, small enough to mix many of them
_OPEN_SHARDS = 2  # chunks are read in order, so more would only hold address space


def rows_of_chunk(d_in: int) -> int:
    """How many neighbouring rows are read together."""
    return max(16, _CHUNK_BYTES // (4 * d_in))


class Shards:
    """The shards of a store, opened when needed; each must hold what its manifest says.

    Args:
        directory: of the store.
        manifest: as `read_manifest` gives it, or the writer's own.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any]) -> None:
        listed = manifest["shards"]
        self._files = [directory / shard["file"] for shard in listed]
        self._checks = [Checks(file, shard["crc32"]) for file, shard in zip(self._files, listed, strict=True)]
        self.counts: list[int] = [shard["rows"] for shard in listed]
        self._d_in, self.dtype = manifest["d_in"], manifest["dtype"]
        self._open: dict[int, Shard] = {}

    def __getitem__(self, number: int) -> Shard:
        # Another thread may be reading too: what it closes here stays open where it is in use.
        shard = self._open.get(number)
        if shard is None:
            shard = Shard(
                self._files[number], self.counts[number], self._d_in, self.dtype, self._checks[number]
            )
            for oldest in list(self._open)[: len(self._open) + 1 - _OPEN_SHARDS]:
                self._open.pop(oldest, None)
            self._open[number] = shard
        return shard

    def __iter__(self) -> Iterator[Shard]:
        return (self[number] for number in range(len(self._files)))


class RowIndex:
    """The rows of a selection, numbered from 0 through all shards.

    Only how many rows of each chunk are selected is kept; which ones is found again when they are read.

    Args:
        shards: the shards.
        counts: rows of each.
        d_in: width of the rows.
        keep: tells for a shard (its number) and a part of it which rows are selected.
        chunk_rows: rows of a chunk; None for `rows_of_chunk(d_in)`.
    """

    def __init__(
        self,
        shards: Shards,
        counts: Sequence[int],
        d_in: int,
        keep: Callable[[int, slice], Array],
        chunk_rows: int | None = None,
    ) -> None:
        self._shards, self._d_in, self._keep = shards, d_in, keep
        rows = chunk_rows or rows_of_chunk(d_in)
        self._chunks = [
            (number, slice(begin, min(begin + rows, count)))
            for number, count in enumerate(counts)
            for begin in range(0, count, rows)
        ]
        sizes = [np.count_nonzero(keep(number, part)) for number, part in self._chunks]
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, numbers: Array) -> F32:
        """(n, d_in) rows by number, in the order given."""
        out = np.empty((len(numbers), self._d_in), dtype=np.float32)
        order = np.argsort(numbers, kind="stable")
        chunk_of = np.searchsorted(self._ends, numbers[order], side="right")
        for chunk in np.unique(chunk_of):
            places = order[chunk_of == chunk]
            shard, where = self._selected(int(chunk))
            out[places] = shard.rows(where[numbers[places] - self._start(int(chunk))])
        return out

    def memory(self, n: int) -> Stored:
        """Room for n rows as they are stored."""
        dtype = self._shards.dtype
        scale = np.empty(n, np.float32) if dtype == "int8" else None
        return Stored(np.empty((n, self._d_in), ROW_TYPES[dtype][0]), scale)

    def copy(self, chunk: int, to: Stored, at: int) -> None:
        """Copy the selected rows of a chunk, as they are stored, to the at-th place and those after it."""
        number, part = self._chunks[chunk]
        shard, size = self._shards[number], int(self.sizes[chunk])
        keep = self._keep(number, part) if size < part.stop - part.start else slice(None)
        to.rows[at : at + size] = shard.part("rows", part)[keep]
        if to.scale is not None:
            to.scale[at : at + size] = shard.part("scale", part)[keep]

    def column(self, name: str) -> Array:
        """A per-row tensor of the shards, for the selected rows."""
        parts = [np.zeros(0, dtype=np.int32)]
        for chunk in np.flatnonzero(self.sizes):
            shard, where = self._selected(int(chunk))
            parts.append(shard.part(name, where))
        return np.concatenate(parts)

    def numbers(self) -> Array:
        """(n,) int64 numbers of the selected rows among all rows of the shards."""
        starts = np.concatenate([[0], np.cumsum(self._shards.counts)])
        parts = [np.zeros(0, dtype=np.int64)]
        for chunk in np.flatnonzero(self.sizes):
            number, part = self._chunks[chunk]
            parts.append(starts[number] + part.start + np.flatnonzero(self._keep(number, part)))
        return np.concatenate(parts)

    def locate(self, number: int) -> tuple[Shard, int]:
        """The shard that holds a row, and the row's place in it."""
        if not 0 <= number < len(self):
            raise IndexError(f"index: row {number} of {len(self)}")
        chunk = int(np.searchsorted(self._ends, number, side="right"))
        shard, where = self._selected(chunk)
        return shard, int(where[number - self._start(chunk)])

    def _start(self, chunk: int) -> int:
        return int(self._ends[chunk] - self.sizes[chunk])

    def _selected(self, chunk: int) -> tuple[Shard, Array]:
        number, part = self._chunks[chunk]
        return self._shards[number], part.start + np.flatnonzero(self._keep(number, part))
