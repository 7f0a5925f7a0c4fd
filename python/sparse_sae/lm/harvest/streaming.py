"""Activations straight from the model, mixed in a buffer: training without a disk stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from sparse_sae.data.store import massive_threshold
from sparse_sae.lm.harvest.reader import F32, ComputeDtype, Reader
from sparse_sae.lm.harvest.sequences import Text, Window, windows
from sparse_sae.lm.model.engine import Engine
from sparse_sae.lm.model.loading import LanguageModel


class ActivationStream:
    """Shuffled activations made as they are asked for: see `stream`.

    Attributes:
        d_in: width of the rows.
        tokens: tokens read so far.
        excluded: how many of them were left out, by kind.
    """

    def __init__(
        self,
        reader: Reader,
        hook: str,
        source: Iterator[Window],
        max_tokens: int | None,
        block_rows: int,
        buffer_bytes: int,
        seed: int,
    ) -> None:
        self.d_in = reader.widths[hook]
        self.hook = hook
        self._reader, self._source, self._max_tokens = reader, source, max_tokens
        self._block_rows, self._seed = block_rows, seed
        self._capacity = max(2, buffer_bytes // (4 * self.d_in))
        self.tokens = 0
        self.excluded = {"first": 0, "massive": 0}
        self._mixed = self._blocks_of_all()

    def __iter__(self) -> Iterator[F32]:
        return self

    def __next__(self) -> F32:
        return next(self._mixed)

    def _blocks_of_all(self) -> Iterator[F32]:
        rng = np.random.default_rng(self._seed)
        buffer = np.empty((self._capacity, self.d_in), dtype=np.float32)
        filled, threshold = 0, np.inf
        for rows in self._rows():
            rows = self._ordinary(rows, threshold)
            while len(rows):
                take = min(len(rows), self._capacity - filled)
                buffer[filled : filled + take] = rows[:take]
                rows, filled = rows[take:], filled + take
                if filled < self._capacity:
                    continue
                if np.isinf(threshold):  # the first full buffer shows what is usual
                    threshold, filled = self._clean(buffer, filled)
                    rows = self._ordinary(rows, threshold)
                rng.shuffle(buffer[:filled])
                yield from self._blocks(buffer[filled // 2 : filled])
                filled //= 2
        if np.isinf(threshold):
            threshold, filled = self._clean(buffer, filled)
        rng.shuffle(buffer[:filled])
        yield from self._blocks(buffer[:filled])

    def _rows(self) -> Iterator[F32]:
        for window in self._source:
            if self._max_tokens is not None and self.tokens >= self._max_tokens:
                return
            n = (
                window.n_tokens
                if self._max_tokens is None
                else min(window.n_tokens, self._max_tokens - self.tokens)
            )
            self.tokens += n
            first = window.column("positions")[:n] == 0
            self.excluded["first"] += int(first.sum())
            yield self._reader.read(window, n)[self.hook][~first]

    def _clean(self, buffer: F32, filled: int) -> tuple[float, int]:
        """Find the threshold in the buffer's rows, drop the massive ones; threshold and rows left."""
        threshold = massive_threshold(np.linalg.norm(buffer[:filled], axis=1))
        kept = self._ordinary(buffer[:filled], threshold)
        buffer[: len(kept)] = kept
        return threshold, len(kept)

    def _blocks(self, rows: F32) -> Iterator[F32]:
        for at in range(0, len(rows), self._block_rows):
            yield rows[at : at + self._block_rows].copy()

    def _ordinary(self, rows: F32, threshold: float) -> F32:
        massive = np.linalg.norm(rows, axis=1) > threshold
        self.excluded["massive"] += int(massive.sum())
        kept: F32 = rows[~massive]
        return kept


def stream(
    model: LanguageModel | Engine,
    texts: Iterable[Text],
    hook: str,
    *,
    max_tokens: int | None = None,
    context: int = 256,
    pack: bool = True,
    batch_tokens: int = 2048,
    compute_dtype: ComputeDtype = "auto",
    block_rows: int = 4096,
    buffer_bytes: int = 128 << 20,
    parse_special: bool | None = None,
    seed: int = 0,
) -> ActivationStream:
    """Activations for training without a disk between: an iterable of mixed (n, d_in) float32 blocks.

    Rows wait in a buffer. When it is full it is shuffled, half of it is given out, and it is filled again, so
    that neighbouring tokens leave far apart. First positions are left out, and massive activations by the
    threshold that the first full buffer shows (`massive_threshold`).

    Args:
        model, texts, max_tokens, context, pack, batch_tokens, compute_dtype, parse_special: as for `capture`.
        hook: the hook point.
        block_rows: largest block.
        buffer_bytes: memory of the buffer.
        seed: of the shuffling.

    Returns:
        An `ActivationStream`, an iterator: it gives each row once. The same call gives the same blocks.

    >>> sum(len(block) for block in stream(model, texts, "blocks.3.hook_mlp_out"))  # doctest: +SKIP
    59764
    """
    for name, value in {
        "max_tokens": max_tokens,
        "block_rows": block_rows,
        "buffer_bytes": buffer_bytes,
    }.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")
    reader = Reader(model, [hook], context=context, compute_dtype=compute_dtype)
    source = windows(
        texts,
        model.tokenizer,
        context=context,
        pack=pack,
        batch_tokens=batch_tokens,
        bos=reader.bos,
        parse_special=parse_special,
    )
    return ActivationStream(reader, hook, source, max_tokens, block_rows, buffer_bytes, seed)
