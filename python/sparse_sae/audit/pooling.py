"""Pooled values of many sequences, one token at a time or many, by the same operations and so to the same bits."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from sparse_sae._io.arrays import Array

Pooling: TypeAlias = Literal["max", "mean", "ema", "last"]


class Pools:
    """By sequence (slot): tokens seen, pooled values, and whether they are above their thresholds.

    Args:
        pooling: see `Monitor`. ema: weight of the newest token.
        start: (L,) what pooled values begin with.
    """

    def __init__(self, pooling: Pooling, ema: float, start: Array, n: int = 0) -> None:
        self._pooling, self._ema, self._start = pooling, np.float64(ema), start
        # For one token at a time: values are widened first and numbers are arrays, as NumPy's mixing of types takes
        # longer than the sums themselves.
        self._wide = np.empty(len(start))
        self._newest, self._rest, self._seen = (
            np.array(ema, np.float64),
            np.array(1 - np.float64(ema)),
            np.zeros(()),
        )
        self.count = np.zeros(n, np.int64)
        self.pooled = np.tile(start, (n, 1))
        self.total = np.zeros((n, len(start)))
        self.above = np.zeros((n, len(start)), bool)

    def grown(self, n: int) -> Pools:
        """The same with room for n sequences."""
        new = Pools(self._pooling, self._ema, self._start, n)
        for name in _ARRAYS:
            old = getattr(self, name)
            getattr(new, name)[: len(old)] = old
        return new

    def move(self, to: Array, source: Array) -> None:
        """Sequences `to` become copies of what the sequences `source` are."""
        for name in _ARRAYS:
            value = getattr(self, name)
            value[to] = value[source]

    def one(self, slot: int, values: Array, seen: int) -> Array:
        """(L,) pooled values after one more token, which is the `seen`-th judged one; a view."""
        pooled: Array = self.pooled[slot]
        if self._pooling == "max":
            np.maximum(pooled, values, out=pooled)
        elif self._pooling == "mean":
            total = self.total[slot]
            np.copyto(self._wide, values)
            np.add(total, self._wide, out=total)
            self._seen[()] = seen
            np.divide(total, self._seen, out=pooled)
        elif self._pooling == "ema" and seen > 1:
            np.copyto(self._wide, values)
            np.multiply(self._wide, self._newest, out=self._wide)
            np.multiply(pooled, self._rest, out=pooled)
            np.add(pooled, self._wide, out=pooled)
        else:
            pooled[:] = values
        return pooled

    def several(self, slots: Array, values: Array, seen: Array) -> Array:
        """(n, L) pooled values after one more token of each of the sequences `slots`."""
        before, pooled = self.pooled[slots], values
        if self._pooling == "max":
            pooled = np.maximum(before, values)
        elif self._pooling == "mean":
            self.total[slots] += values
            pooled = self.total[slots] / seen[:, None]
        elif self._pooling == "ema":
            pooled = np.where(seen[:, None] == 1, values, before * (1 - self._ema) + self._ema * values)
        self.pooled[slots] = pooled
        return np.asarray(self.pooled[slots])

    def chunk(self, slot: int, values: Array, seen: Array) -> Array:
        """(n, L) pooled values after each of the next tokens of one sequence; the last are kept."""
        before = self.pooled[slot]
        if self._pooling == "max":
            out = np.maximum.accumulate(np.concatenate([before[None], values]))[1:]
        elif self._pooling == "mean":
            sums = np.add.accumulate(np.concatenate([self.total[slot][None], values]))[1:]
            self.total[slot] = sums[-1]
            out = sums / seen[:, None]
        elif self._pooling == "ema":
            out = np.empty(values.shape)
            for t, row in enumerate(values):
                before = out[t] = row if seen[t] == 1 else before * (1 - self._ema) + self._ema * row
        else:
            out = values.astype(np.float64)
        self.pooled[slot] = out[-1]
        return np.asarray(out)


_ARRAYS = ("count", "pooled", "total", "above")
