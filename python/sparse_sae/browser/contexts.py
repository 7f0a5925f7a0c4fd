"""From the entries of some latents to what a page shows of each: histogram, strongest contexts, ten intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.browser.spill import Entries, scattered

BINS = 50  # of the histogram, equally wide from 0 to the latent's maximum
TOP = 20  # strongest contexts, one a sequence
INTERVALS, EACH = 10, 5  # equally wide intervals of activation, and contexts drawn from each
BEFORE, AFTER = 20, 10  # tokens shown around a firing


class Stream(NamedTuple):
    """The token stream of a store: every token in order, those included whose rows are left out.

    Attributes:
        tokens: (n,) int32 token ids. starts: (s,) int64 where sequences begin; starts[0] is 0.
        documents: (n,) int32 number of each token's text.
    """

    tokens: Array
    starts: Array
    documents: Array

    def sequence(self, rows: Array) -> Array:
        """The number of each row's sequence."""
        return np.searchsorted(self.starts, rows, side="right") - 1


@dataclass(frozen=True)
class Contexts:
    """Contexts of several latents, those of one side by side.

    Attributes:
        latent: (c,) local number of the latent, ascending. group: (c,) int8, -1 among the strongest, else the interval.
        row: (c,) where it fires. begin, end: (c,) the rows shown. value: (c,) activation there.
        count: (c,) entries within; offset, activation: (Σ count,) places from `begin` on, and their activations.
    """

    latent: Array
    group: Array
    row: Array
    begin: Array
    end: Array
    value: Array
    count: Array
    offset: Array
    activation: Array


@dataclass(frozen=True)
class Summary:
    """Numbers of some latents (m of them).

    Attributes:
        count: (m,) firings. maximum, mean: (m,) over the firings, by magnitude; 0 where it never fires.
        histogram: (m, BINS) firings by magnitude. intervals: (m, INTERVALS) firings in each interval.
    """

    count: Array
    maximum: Array
    mean: Array
    histogram: Array
    intervals: Array


def summarise(entries: Entries, m: int) -> Summary:
    """Counts, extremes and histograms of m latents."""
    latent, size = entries.latent, np.abs(entries.value)
    count = np.bincount(latent, minlength=m)
    maximum = np.zeros(m, np.float32)
    fires = np.flatnonzero(count)
    if len(fires):
        maximum[fires] = np.maximum.reduceat(size, np.searchsorted(latent, fires))
    total = np.bincount(latent, weights=size, minlength=m)
    mean = np.divide(total, count, out=np.zeros(m), where=count > 0)
    histogram = _by_part(latent, size, maximum, m, BINS)
    intervals = _by_part(latent, size, maximum, m, INTERVALS)
    return Summary(count, maximum, mean, histogram, intervals)


def _part_of(latent: Array, size: Array, maximum: Array, parts: int) -> Array:
    return np.minimum((size / maximum[latent] * parts).astype(np.int64), parts - 1)


def _by_part(latent: Array, size: Array, maximum: Array, m: int, parts: int) -> Array:
    place = latent.astype(np.int64) * parts + _part_of(latent, size, maximum, parts)
    return np.bincount(place, minlength=m * parts).reshape(m, parts)


def contexts(entries: Entries, maximum: Array, stream: Stream, first_latent: int) -> Contexts:
    """The TOP strongest contexts of each latent, one a sequence, and EACH drawn at random from each interval.

    The draw depends on the latent's number and the row alone, so it is the same in every build.
    """
    latent, row, size = entries.latent, entries.row, np.abs(entries.value)
    sequence = stream.sequence(row)
    new = np.ones(len(latent), bool)
    new[1:] = (np.diff(latent) != 0) | (np.diff(sequence) != 0)
    starts = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    peak = np.maximum.reduceat(size, starts) if len(starts) else size
    at_peak = np.flatnonzero(size == peak[run])
    strongest = at_peak[
        np.flatnonzero(np.diff(run[at_peak], prepend=-1))
    ]  # the first place of each run's peak
    order = strongest[np.lexsort((row[strongest], -size[strongest], latent[strongest]))]
    top = order[_rank(latent[order]) < TOP]

    part = _part_of(latent, size, maximum, INTERVALS)
    by_part = np.lexsort((scattered(latent + first_latent, row), part, latent))
    drawn = by_part[_rank(latent[by_part].astype(np.int64) * INTERVALS + part[by_part]) < EACH]

    chosen = np.concatenate([top, drawn])
    group = np.concatenate([np.full(len(top), -1), part[drawn]]).astype(np.int8)
    order = np.argsort(latent[chosen], kind="stable")
    chosen, group = chosen[order], group[order]
    return _windows(entries, chosen, group, sequence[chosen], stream)


def _windows(entries: Entries, chosen: Array, group: Array, sequence: Array, stream: Stream) -> Contexts:
    n = len(stream.tokens)
    row = entries.row[chosen]
    ends = np.append(stream.starts[1:], n)
    begin = np.maximum(row - BEFORE, stream.starts[sequence])
    end = np.minimum(row + AFTER + 1, ends[sequence])
    key = entries.latent.astype(np.int64) * n + entries.row
    base = entries.latent[chosen].astype(np.int64) * n
    low, high = np.searchsorted(key, base + begin), np.searchsorted(key, base + end)
    count = high - low
    inside = np.repeat(low - np.cumsum(count) + count, count) + np.arange(count.sum())
    offset = entries.row[inside] - np.repeat(begin, count)
    return Contexts(
        entries.latent[chosen],
        group,
        row,
        begin,
        end,
        entries.value[chosen],
        count,
        offset.astype(np.uint8),
        entries.value[inside],
    )


def _rank(keys: Array) -> Array:
    """The place of each entry among those of equal key; keys are grouped."""
    new = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1)) if len(keys) else np.zeros(0, np.int64)
    lengths = np.diff(np.append(new, len(keys)))
    return np.arange(len(keys)) - np.repeat(new, lengths)
