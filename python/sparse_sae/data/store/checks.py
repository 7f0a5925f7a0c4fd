"""Checksums of a shard, one for each block of its bytes, compared when the block is first used.

One checksum of a whole shard would make whoever wants a thousand rows of a store read all of it.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_sae._io.arrays import Array
from sparse_sae._io.files import FormatError

BLOCK = 256 << 10  # bytes
_DIGITS = 8  # of a CRC-32, in hexadecimal


def block_count(size: int) -> int:
    """How many blocks a file of so many bytes has."""
    return -(-size // BLOCK)


def block_checksums(content: Array) -> str:
    """The CRC-32 of every block of a file, one after the other, as hexadecimal digits.

    Args:
        content: (n,) uint8.

    >>> block_checksums(np.frombuffer(b"123456789", np.uint8))
    'cbf43926'
    """
    return "".join(f"{_crc(content, block):0{_DIGITS}x}" for block in range(block_count(len(content))))


def _crc(content: Array, block: int) -> int:
    return zlib.crc32(content[block * BLOCK : (block + 1) * BLOCK].data)


class Checks:
    """Which blocks of a file were compared with their checksums, and the comparison of the others.

    Args:
        path: the file, for the error.
        checksums: as `block_checksums` made them.
    """

    def __init__(self, path: Path, checksums: str) -> None:
        self._path, self._checksums = path, checksums
        self._good: NDArray[np.bool_] = np.zeros(len(checksums) // _DIGITS, dtype=np.bool_)

    def need(self, content: Array, begin: int, end: int) -> None:
        """Compare the blocks that hold the bytes from begin to end (not included), but for those compared before.

        Raises:
            FormatError: one is not what was written.
        """
        first, last = begin // BLOCK, block_count(end)
        if not self._good[first:last].all():
            self._compare(content, first + np.flatnonzero(~self._good[first:last]))

    def need_rows(self, content: Array, begin: int, row_bytes: int, rows: Array) -> None:
        """The same for some rows, by number, of a tensor that begins at a byte."""
        if len(rows) and not self._good.all():
            at = begin + np.asarray(rows, dtype=np.int64) * row_bytes
            # How many of the rows begin in a block, less those that ended before it.
            open_rows = np.bincount(at // BLOCK, minlength=len(self._good) + 1)
            open_rows -= np.bincount((at + row_bytes - 1) // BLOCK + 1, minlength=len(self._good) + 1)
            self._compare(content, np.flatnonzero((np.cumsum(open_rows)[:-1] > 0) & ~self._good))

    def _compare(self, content: Array, blocks: Array) -> None:
        # Two threads may compare the same block, which does no harm.
        for block in blocks.tolist():
            want = self._checksums[block * _DIGITS : (block + 1) * _DIGITS]
            found = f"{_crc(content, block):0{_DIGITS}x}"
            if found != want:
                raise FormatError(
                    f"{self._path}: bytes {block * BLOCK} to {min(len(content), (block + 1) * BLOCK) - 1} have the "
                    f"checksum {found}, the manifest says {want}: damaged; copy the shard again or capture anew"
                )
            self._good[block] = True
