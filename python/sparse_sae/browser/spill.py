"""Codes of a store on disk, latent by latent: what the browser's file is made from, and where a build goes on.

Rows are encoded once. Every million entries or so become a segment: a safetensors file of the codes as CSC, so that
the entries of a range of latents are one slice of each segment. Segments appear whole or not at all, so those that are
there after a kill are good, and the next build goes on behind the last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array, vstack

from sparse_sae._io.arrays import Array
from sparse_sae._io.files import FormatError
from sparse_sae._io.safetensors import map_tensors, write_tensors

SEGMENT_ENTRIES = 1 << 20
BLOCK_ROWS = 4096
_NAME = re.compile(r"codes-(\d{12})-(\d{12})\.safetensors")


def scattered(key: int | Array, row: Array) -> Array:
    """A pseudo-random number of 64 bits for each row (the finaliser of splitmix64), the same in every build."""
    x = (np.asarray(key).astype(np.uint64) << np.uint64(40)) ^ row.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    mixed: Array = x ^ (x >> np.uint64(31))
    return mixed


class Entries(NamedTuple):
    """Entries of some latents, by latent, and by row in each.

    `latent` counts from the first of them, `row` is that of the token stream, `value` is never zero.
    """

    latent: Array
    row: Array
    value: Array


class Spill:
    """The segments in a directory.

    Args:
        directory: where they are; it exists.
        d_sae: number of latents.
    """

    def __init__(self, directory: Path, d_sae: int) -> None:
        self.directory, self.d_sae = directory, d_sae
        self._segments: list[dict[str, Array]] = []
        self.rows_done = 0
        for path in sorted(directory.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found is None:
                continue
            if int(found[1]) != self.rows_done:
                raise FormatError(f"{path}: begins at row {int(found[1])}, expected {self.rows_done}")
            self._open(path)
            self.rows_done = int(found[2])

    def _open(self, path: Path) -> None:
        tensors = map_tensors(path)
        if set(tensors) != {"indptr", "row", "value"} or len(tensors["indptr"]) != self.d_sae + 1:
            raise FormatError(f"{path}: not codes of {self.d_sae} latents; delete {self.directory}")
        self._segments.append(tensors)

    def append(self, codes: csr_array, numbers: Array) -> None:
        """Add the codes (n, d_sae) of the next n rows, whose places in the token stream are `numbers` (n,)."""
        by_latent = codes.tocsc()
        end = self.rows_done + len(numbers)
        path = self.directory / f"codes-{self.rows_done:012d}-{end:012d}.safetensors"
        write_tensors(
            path,
            {
                "indptr": by_latent.indptr.astype(np.int64),
                "row": np.asarray(numbers)[by_latent.indices].astype(np.int32),
                "value": by_latent.data.astype(np.float32),
            },
        )
        self._open(path)
        self.rows_done = end

    @property
    def counts(self) -> Array:
        """(d_sae,) int64, entries of each latent."""
        total = np.zeros(self.d_sae, np.int64)
        for segment in self._segments:
            total += np.diff(segment["indptr"])
        return total

    def entries(self, begin: int, end: int) -> Entries:
        """All entries of the latents begin … end - 1."""
        latents, rows, values = [], [], []
        for segment in self._segments:
            pointers = segment["indptr"][begin : end + 1]
            part = slice(int(pointers[0]), int(pointers[-1]))
            latents.append(np.repeat(np.arange(end - begin, dtype=np.int32), np.diff(pointers)))
            rows.append(segment["row"][part])
            values.append(segment["value"][part])
        if not latents:
            return Entries(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))
        latent = np.concatenate(latents)
        order = np.argsort(latent, kind="stable")  # segments come by row, so rows stay ascending
        return Entries(latent[order], np.concatenate(rows)[order], np.concatenate(values)[order])

    def groups(self, limit: int) -> Iterator[tuple[int, int, Entries]]:
        """Ranges of latents with at most `limit` entries each (or one latent), with their entries."""
        ends = np.cumsum(self.counts)
        begin = 0
        while begin < self.d_sae:
            before = int(ends[begin - 1]) if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, before + limit, side="right")))
            end = min(end, begin + 4096, self.d_sae)
            yield begin, end, self.entries(begin, end)
            begin = end

    def sample(self, rows: int, seed: int = 0) -> tuple[csr_array, int]:
        """Which latents fire on (about) so many of the rows, drawn at random: (n, d_sae) of ones, and n."""
        share = min(1.0, rows / max(1, self.rows_done))
        indices, lengths = [], [np.zeros(1, np.int64)]
        for segment in self._segments:
            chosen = scattered(seed, segment["row"]) * 2.0**-64 <= share
            seen, place = np.unique(segment["row"][chosen], return_inverse=True)
            latent = np.repeat(np.arange(self.d_sae, dtype=np.int32), np.diff(segment["indptr"]))[chosen]
            indices.append(latent[np.argsort(place, kind="stable")])  # by row, and by latent in each
            lengths.append(np.bincount(place, minlength=len(seen)))
        joined = np.concatenate(indices) if indices else np.zeros(0, np.int32)
        indices.clear()  # before the values, which need as much memory again
        indptr = np.cumsum(np.concatenate(lengths))
        n = len(indptr) - 1
        ones = np.ones(len(joined), np.float32)
        return csr_array((ones, joined, indptr.astype(np.int32)), shape=(n, self.d_sae)), n


def encode_to(
    spill: Spill, sae: Any, store: Any, numbers: Array, progress: Callable[[int, int], None] | None = None
) -> None:
    """Encode the rows of a store that are not in `spill` yet; `numbers` (n,) are their places in the stream."""
    pending: list[csr_array] = []
    begin = start = spill.rows_done
    total = len(store)
    while start < total:
        end = min(start + BLOCK_ROWS, total)
        pending.append(sae.encode(store.rows(slice(start, end))))
        start = end
        if sum(part.nnz for part in pending) >= SEGMENT_ENTRIES or end == total:
            spill.append(csr_array(vstack(pending)), numbers[begin:end])
            pending, begin = [], end
        if progress is not None:
            progress(end, total)
