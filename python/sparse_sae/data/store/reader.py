"""Read a store: select rows, sample them, pass over them shuffled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparse_sae.data.picks import Pick, picked_batches, picked_blocks
from sparse_sae.data.store.buffers import store_picks
from sparse_sae.data.store.format import F32, FIRST, PADDING, Array, Dtype
from sparse_sae.data.store.index import RowIndex, Shards
from sparse_sae.data.store.manifest import find_store, read_manifest
from sparse_sae.data.store.shuffle import fixed_uniform

_KINDS = ("first", "padding", "massive")
_PICK_ROWS = 1024  # between two picks, a little of the next buffer is read


class ActivationStore:
    """Activations in a directory, as `sparse_sae.lm.capture` or `StoreWriter` leave them.

    Rows that would distort training are left out unless asked for: first positions of sequences, padding,
    and massive activations (`massive_threshold`). Everything below speaks of the rows that remain, in the
    order they were written. Nothing but the rows asked for is read into memory.

    Args:
        path: the store's directory, or a directory of one store a hook point.
        hook: which hook point, if the directory has several.
        exclude: kinds of rows to leave out, among "first", "padding", "massive".

    Attributes:
        d_in: width of the rows.
        dtype: how they are stored.
        model, hook: where they come from.
        metadata: what else the writer noted.
        statistics: over the whole store: `counts`, `mean`, `total_variance`, `norm_percentiles`, `massive`
            (the threshold), `storage_fvu` (what the stored dtype costs).

    Raises:
        FileNotFoundError: no store there.
        ValueError: an unfinished or damaged store, or several and none chosen; later, from whatever reads rows: they
            do not have the checksums of the manifest.

    >>> store = ActivationStore("activations")  # doctest: +SKIP
    >>> len(store), store.sample(1000).shape  # doctest: +SKIP
    (690112, (1000, 576))
    """

    def __init__(self, path: str | Path, hook: str | None = None, *, exclude: Sequence[str] = _KINDS) -> None:
        self.path = find_store(Path(path), hook)
        manifest = read_manifest(self.path)
        if not manifest["complete"]:
            raise ValueError(
                f"path: the store in {self.path} is not finished ({manifest['count']} rows so far); "
                "run the same capture again and it goes on from there"
            )
        self.manifest: dict[str, Any] = manifest
        self.d_in: int = manifest["d_in"]
        self.dtype: Dtype = manifest["dtype"]
        self.model: str = manifest["model"]
        self.hook: str = manifest["hook"]
        self.metadata: dict[str, Any] = manifest["metadata"]
        self.statistics: dict[str, Any] = manifest["statistics"]
        self._files = [self.path / shard["file"] for shard in manifest["shards"]]
        for file, shard in zip(self._files, manifest["shards"], strict=True):
            size = file.stat().st_size if file.exists() else None
            if size != shard["bytes"]:
                raise ValueError(
                    f"path: {file} has {size} bytes, the manifest says {shard['bytes']}: damaged"
                )
        self._shards = Shards(self.path, manifest)
        self._filters: list[Callable[[Array], Array]] = []
        self._siblings: list[ActivationStore] = []
        self._chunk_rows: int | None = None
        self._set_exclude(exclude)
        self._index = self._build()

    def __len__(self) -> int:
        return len(self._index)

    def __repr__(self) -> str:
        return (
            f"ActivationStore({len(self)} rows of {self.d_in}, {self.dtype}, "
            f"{self.hook or 'no hook'} of {self.model or 'no model'})"
        )

    @property
    def excluded(self) -> dict[str, int]:
        """How many rows of each left-out kind the whole store has; a first position is not massive too."""
        counts = self.statistics["counts"]
        return {kind: counts[kind] for kind in _KINDS if kind in self._exclude}

    @property
    def mean(self) -> F32:
        """(d_in,) mean over the usable rows of the whole store."""
        return np.asarray(self.statistics["mean"], dtype=np.float32)

    @property
    def tokens(self) -> Array:
        """(n,) int32 token id of each row."""
        return self._index.column("tokens")

    @property
    def positions(self) -> Array:
        """(n,) int32 position of each row in its sequence."""
        return self._index.column("positions")

    @property
    def documents(self) -> Array:
        """(n,) int32 number of the text each row comes from."""
        return self._index.column("documents")

    @property
    def numbers(self) -> Array:
        """(n,) int64 number of each row among all rows of the store, those left out included."""
        return self._index.numbers()

    def select(
        self, *, documents: ArrayLike | None = None, exclude: Sequence[str] | None = None
    ) -> ActivationStore:
        """The same store seen through a narrower or wider selection.

        Args:
            documents: numbers of the texts to keep; None keeps all.
            exclude: kinds of rows to leave out from now on, in place of those left out so far.
        """
        view = copy.copy(self)
        view._filters = list(self._filters)
        if documents is not None:
            wanted = np.unique(np.asarray(documents))
            view._filters.append(lambda numbers: np.isin(numbers, wanted))
        if exclude is not None:
            view._set_exclude(exclude)
        view._index = view._build()
        return view

    def split(self, held_out: float = 0.1, seed: int = 0) -> tuple[ActivationStore, ActivationStore]:
        """Training and held-out rows, divided by text: no text has rows in both.

        Args:
            held_out: share of the texts to hold out.
            seed: which texts. A text stays on its side when the store grows.
        """
        if not 0 < held_out < 1:
            raise ValueError(f"held_out: got {held_out}, expected between 0 and 1")

        def is_held_out(numbers: Array) -> Array:
            return fixed_uniform(numbers, seed) < held_out

        train, test = copy.copy(self), copy.copy(self)
        train._filters = [*self._filters, lambda numbers: ~is_held_out(numbers)]
        test._filters = [*self._filters, is_held_out]
        train._index = train._build()
        test._index = test._build()
        return train, test

    def rows(self, index: slice | ArrayLike | None = None) -> F32:
        """(n, d_in) float32 rows: all, a slice, or those of an index or mask, in the order asked for.

        Raises:
            IndexError: an index beyond the rows.
        """
        return self._index.rows(np.atleast_1d(np.arange(len(self))[_as_index(index)]))

    def sample(self, n: int, seed: int = 0) -> F32:
        """(min(n, len), d_in) float32 rows drawn without replacement, in random order."""
        if n < 1:
            raise ValueError(f"n: got {n}, expected at least 1")
        rng = np.random.default_rng(seed)
        return self.rows(rng.choice(len(self), size=min(n, len(self)), replace=False))

    def epoch(
        self,
        seed: int = 0,
        epoch: int = 0,
        skip: int = 0,
        *,
        block_rows: int = 8192,
        buffer_bytes: int = 256 << 20,
        buffer_rows: int | None = None,
    ) -> Iterator[F32]:
        """Every row once, shuffled, in float32 blocks of at most `block_rows`.

        Args:
            seed, epoch: which order; the same two give the same order.
            skip: rows to leave out at the beginning, at hardly any cost: to resume.
            block_rows: largest block.
            buffer_bytes: size, in float32, of the buffer in which rows are mixed; the order depends on it
                (`sparse_sae.data.store.shuffle` says how). Two are held, in the dtype of the store: while one
                passes, the next is read.
            buffer_rows: its size in rows instead, to have one order for `aligned` stores of several widths.
        """
        rows = buffer_rows or max(1, buffer_bytes // (4 * self.d_in))
        order = store_picks(
            [self._index], seed, epoch, skip, buffer_rows=rows, size=block_rows, endless=False
        )
        return picked_blocks(order, block_rows)

    def batches(
        self, batch_size: int, seed: int = 0, start: int = 0, *, buffer_bytes: int = 256 << 20
    ) -> Iterator[F32]:
        """Batches of exactly `batch_size` shuffled rows, epoch after epoch without end.

        Args:
            batch_size: rows of a batch.
            seed: which order.
            start: rows consumed before: `start = 7 * batch_size` goes on with the eighth batch.
            buffer_bytes: as for `epoch`.

        Raises:
            ValueError: the store has no rows.
        """
        if not len(self):
            raise ValueError("the store has no usable rows")
        yield from picked_batches(self.picks(seed, start, buffer_bytes // (4 * self.d_in)), batch_size)

    def picks(
        self, seed: int, start: int, buffer_rows: int, beside: Sequence[ActivationStore] = ()
    ) -> Iterator[Pick]:
        """Rows from the start-th on in the order of `batches`, not yet read; with those of `aligned` stores beside."""
        epoch, skip = divmod(start, len(self))
        indices = [self._index, *(store._index for store in beside)]
        return store_picks(
            indices, seed, epoch, skip, buffer_rows=max(1, buffer_rows), size=_PICK_ROWS, endless=True
        )

    def context(self, index: int, before: int = 10, after: int = 5) -> tuple[Array, int]:
        """The tokens around a row, of its own sequence, and where in them the row's token is.

        Args:
            index: a row.
            before, after: how many neighbours at most.
        """
        shard, at = self._index.locate(index)
        positions = shard["positions"]
        begin = max(0, at - min(before, int(positions[at])))
        end = at + 1
        while end < min(len(positions), at + 1 + after) and positions[end] == positions[end - 1] + 1:
            end += 1
        return np.array(shard["tokens"][begin:end]), at - begin

    def verify(self) -> None:
        """Read the whole store and compare it with its checksums, as of files that were just copied.

        Not needed before training: what is read is compared when it is first used.

        Raises:
            ValueError: a shard is not what was written.
        """
        for shard in Shards(self.path, self.manifest):
            shard.verify()

    def _set_exclude(self, exclude: Sequence[str]) -> None:
        unknown = [kind for kind in exclude if kind not in _KINDS]
        if isinstance(exclude, str) or unknown:
            raise ValueError(f"exclude: got {exclude!r}, expected a sequence of {', '.join(_KINDS)}")
        self._exclude = tuple(exclude)

    def _build(self) -> RowIndex:
        counts = [shard["rows"] for shard in self.manifest["shards"]]
        return RowIndex(self._shards, counts, self.d_in, self._keep, self._chunk_rows)

    def _keep(self, number: int, part: slice) -> Array:
        keep = self._own_keep(number, part)
        for sibling in self._siblings:
            keep &= sibling._own_keep(number, part)
        return keep

    def _own_keep(self, number: int, part: slice) -> Array:
        shard = self._shards[number]
        bits = (FIRST if "first" in self._exclude else 0) | (PADDING if "padding" in self._exclude else 0)
        keep = (shard.part("flags", part) & bits) == 0
        threshold = self.statistics["massive"]["threshold"]
        if "massive" in self._exclude and threshold is not None:
            # first positions are judged as such, whatever their norm
            keep &= (shard.part("norms", part) <= threshold) | (shard.part("flags", part) != 0)
        for keeps in self._filters:
            keep &= keeps(shard.part("documents", part))
        return np.asarray(keep)


def _as_index(index: slice | ArrayLike | None) -> Any:
    if index is None or isinstance(index, slice):
        return index or slice(None)
    array = np.asarray(index)
    return array if array.size else array.astype(np.intp)
