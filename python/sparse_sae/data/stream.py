"""Rows that come in blocks from an iterable, once or again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from sparse_sae._io.arrays import Array, as_array
from sparse_sae.data.base import Source
from sparse_sae.data.picks import Pick, Stored


class StreamSource(Source):
    """Blocks from any iterable, in its order, mixed in a buffer; an iterator is read once, a list again and again.

    Rows are copied before the next block is asked for: who yields them may use the memory again. Blocks are taken
    in the thread that trains, and no earlier than their rows are needed.
    """

    may_wait: ClassVar[bool] = False

    def __init__(self, blocks: Iterable[Any], mixing_rows: int = 16384) -> None:
        self.iterable = blocks
        self.mixing_rows = mixing_rows
        self._once = iter(blocks) if iter(blocks) is blocks else None
        self.once = self._once is not None
        self._widths: tuple[int, ...] | None = None
        self._head: list[Array] = []
        self._peek(1)

    def _fresh(self) -> Iterator[Pick]:
        for block in self.iterable if self._once is None else self._once:
            parts = [as_array(p, "data") for p in (block if isinstance(block, tuple) else (block,))]
            parts = [p.reshape(-1, p.shape[-1]) if p.ndim else p[None, None] for p in parts]
            if any(len(p) != len(parts[0]) for p in parts):
                raise ValueError(
                    f"data: blocks of {[len(p) for p in parts]} rows side by side, expected equal numbers"
                )
            widths = tuple(int(p.shape[1]) for p in parts)
            if widths != (self._widths or widths):
                raise ValueError(f"data: a block of widths {list(widths)} after {self._widths}")
            self._widths = widths
            yield Pick([Stored(p) for p in parts], np.arange(len(parts[0])))

    def _peek(self, n: int) -> None:
        """Read ahead until n rows are at hand; what is read is not lost to `picks`."""
        have = sum(map(len, self._head))
        if have >= n:
            return
        if not self.once:
            self._head = []
            have = 0
        for block in self._fresh():
            # An iterator does not give the rest of a block again.
            own = np.empty(
                (len(block.index) if self.once else min(len(block.index), n - have), block.width), np.float32
            )
            block.read(own)
            self._head.append(own)
            have += len(own)
            if have >= n:
                return
        if not have:
            raise ValueError("data: the iterable yielded no rows; expected (n, d_in) blocks")

    @property
    def widths(self) -> tuple[int, ...]:
        assert self._widths is not None
        return self._widths

    def sample(self, n: int, seed: int) -> Array:
        self._peek(n)
        return np.concatenate(self._head)[:n]

    def _in_order(self) -> Iterator[Pick]:
        if self.once:
            head, self._head = self._head, []
            yield from (Pick([Stored(rows)], np.arange(len(rows))) for rows in head)
            yield from self._fresh()
            return
        while True:
            yield from self._fresh()

    def _mixed(self) -> Iterator[Array]:
        """Rows in their order, mixing_rows at a time, in new memory."""
        rows = np.empty((self.mixing_rows, sum(self.widths)), np.float32)
        filled = 0
        for block in self._in_order():
            begin = 0
            while begin < len(block.index):
                take = min(self.mixing_rows - filled, len(block.index) - begin)
                block.read(rows[filled : filled + take], begin)
                begin, filled = begin + take, filled + take
                if filled == self.mixing_rows:
                    yield rows
                    rows, filled = np.empty_like(rows), 0
        if filled:
            yield rows[:filled]

    def picks(self, seed: int, start: int) -> Iterator[Pick]:
        # Starting later reads, and passes over, what comes before.
        passed = 0
        for number, rows in enumerate(self._mixed()):
            order = np.random.default_rng([seed, number]).permutation(len(rows))
            if passed + len(rows) > start:
                yield Pick([Stored(rows)], order[max(0, start - passed) :])
            passed += len(rows)
