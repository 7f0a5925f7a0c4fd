"""Write activations in shards, so that a run killed at any moment goes on where its last whole shard ends."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparse_sae._arguments import one_of
from sparse_sae._io.atomic import atomic_write, clean_remains, remains_of
from sparse_sae._io.safetensors import map_bytes, write_tensors
from sparse_sae.data.store.checks import block_checksums
from sparse_sae.data.store.format import (
    FIRST,
    PADDING,
    Array,
    Dtype,
    decode_rows,
    encode_rows,
)
from sparse_sae.data.store.index import Shards
from sparse_sae.data.store.manifest import (
    FORMAT,
    NAME,
    SHARD_NAME,
    VERSION,
    checksum_on_disk,
    manifest_checksum,
    read_manifest,
)
from sparse_sae.data.store.statistics import store_statistics


class StoreWriter:
    """Appends rows to a store, new or begun earlier.

    Args:
        path: the store's directory; made if needed.
        d_in: width of the rows.
        dtype: "float32", "float16", "bfloat16" or "int8" (with a scale per row).
        model: name of the model, for the manifest.
        hook: name of the hook point, for the manifest.
        metadata: what else tells this capture from another (context length, …); JSON values.
        shard_bytes: size at which a shard is written.

    A writer on a directory that holds a store of the same description goes on after its last shard:
    `progress` is the number given with that shard's last rows, and `state` the text.

    Raises:
        ValueError: the directory holds a store of something else, or other files; later, that another writer has
            changed it in the meantime.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     writer = StoreWriter(directory, d_in=2, dtype="float32")
    ...     writer.append(np.ones((3, 2)), tokens=[5, 6, 7], positions=[0, 1, 2], documents=[0, 0, 0])
    ...     writer.finish()
    ...     writer.count
    3
    """

    def __init__(
        self,
        path: str | Path,
        d_in: int,
        dtype: Dtype = "float16",
        *,
        model: str = "",
        hook: str = "",
        metadata: dict[str, Any] | None = None,
        shard_bytes: int = 32 << 20,
    ) -> None:
        one_of("dtype", dtype, Dtype)
        if d_in < 1 or shard_bytes < 1:
            raise ValueError(f"d_in and shard_bytes: got {d_in} and {shard_bytes}, expected positive numbers")
        self.path = Path(path)
        self.d_in, self.dtype, self._shard_bytes = d_in, dtype, shard_bytes
        self._pending: list[dict[str, Array]] = []
        self._pending_bytes = 0
        self._progress, self._state = 0, ""
        described = {
            "format": FORMAT,
            "version": VERSION,
            "model": model,
            "hook": hook,
            "d_in": d_in,
            "dtype": dtype,
            "metadata": metadata or {},
        }
        self.path.mkdir(parents=True, exist_ok=True)
        # A writer killed at any moment leaves temporary files: in its very first save, nothing but one.
        ours = f"{NAME}|{SHARD_NAME.pattern}"
        clean_remains(self.path, ours)
        if os.path.lexists(self.path / NAME):
            self.manifest: dict[str, Any] = read_manifest(self.path)
            self._saved: str | None = self.manifest["crc32"]
            self._require_same(described)
        else:
            remains = {p.name for p in remains_of(self.path, ours)}
            strangers = [
                p.name
                for p in self.path.iterdir()
                if p.name not in remains and not SHARD_NAME.fullmatch(p.name)
            ]
            if strangers:
                raise ValueError(f"path: {self.path} is not empty (it holds {strangers[0]}) and not a store")
            self.manifest = {**described, "complete": False, "count": 0, "shards": []}
            self._saved = None
            self._save()
        if self.manifest["shards"]:
            last = self.manifest["shards"][-1]
            self._progress, self._state = last["progress"], last["state"]

    @property
    def count(self) -> int:
        """Rows written and waiting to be written."""
        return int(self.manifest["count"]) + sum(len(part["tokens"]) for part in self._pending)

    @property
    def complete(self) -> bool:
        """Whether `finish` was the last call."""
        return bool(self.manifest["complete"])

    @property
    def progress(self) -> int:
        """The caller's own count of what the written shards cover."""
        return int(self.manifest["shards"][-1]["progress"]) if self.manifest["shards"] else 0

    @property
    def state(self) -> str:
        """The caller's own note beside `progress`."""
        return str(self.manifest["shards"][-1]["state"]) if self.manifest["shards"] else ""

    @property
    def pending_bytes(self) -> int:
        """Bytes that the next shard would have."""
        return self._pending_bytes

    def append(
        self,
        rows: ArrayLike,
        tokens: ArrayLike,
        positions: ArrayLike,
        documents: ArrayLike,
        padding: ArrayLike | None = None,
        *,
        progress: int = 0,
        state: str = "",
    ) -> None:
        """Add rows; a shard is written when enough have come together.

        Args:
            rows: (n, d_in) finite.
            tokens: (n,) token ids.
            positions: (n,) position of each in its sequence; 0 is marked as a first position.
            documents: (n,) number of the text each comes from.
            padding: (n,) true for padding, which is marked; None for none.
            progress: how far the caller is with these rows, for resuming; never less than before.
            state: a note to find again beside `progress`.

        Raises:
            ValueError: a wrong shape, or NaN or infinity among the rows.
        """
        block = np.asarray(rows, dtype=np.float32)
        if block.ndim != 2 or block.shape[1] != self.d_in:
            raise ValueError(f"rows: got shape {block.shape}, expected (n, {self.d_in})")
        n = len(block)
        columns = {
            "tokens": np.asarray(tokens, dtype=np.int32),
            "positions": np.asarray(positions, dtype=np.int32),
            "documents": np.asarray(documents, dtype=np.int32),
        }
        pad = np.zeros(n, dtype=bool) if padding is None else np.asarray(padding, dtype=bool)
        for name, column in {**columns, "padding": pad}.items():
            if column.shape != (n,):
                raise ValueError(f"{name}: got shape {column.shape}, expected ({n},) as there are {n} rows")
        norms = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
        if not np.isfinite(norms).all():
            bad = int(np.flatnonzero(~np.isfinite(norms))[0])
            raise ValueError(
                f"rows: row {bad} of this block (token {columns['tokens'][bad]}) holds NaN or infinity; "
                "the model may need a wider compute dtype"
            )
        stored, scale = encode_rows(block, self.dtype)
        part: dict[str, Array] = {"rows": stored}
        if scale is not None:
            part["scale"] = scale
        flags = np.where(columns["positions"] == 0, FIRST, 0) | np.where(pad, PADDING, 0)
        part |= {**columns, "flags": flags.astype(np.uint8), "norms": norms.astype(np.float32)}
        if self.dtype != "float32":
            difference = block - decode_rows(stored, self.dtype, scale)
            part["errors"] = np.einsum("ij,ij->i", difference, difference).astype(np.float32)
        self._pending.append(part)
        self._pending_bytes += sum(array.nbytes for array in part.values())
        self._progress, self._state = progress, state
        if self._pending_bytes >= self._shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting as a shard."""
        if not self._pending:
            return
        self._require_alone()
        tensors = {key: np.concatenate([part[key] for part in self._pending]) for key in self._pending[0]}
        name = f"shard-{len(self.manifest['shards']):05d}.safetensors"
        write_tensors(self.path / name, tensors, bfloat16=("rows",) if self.dtype == "bfloat16" else ())
        content = map_bytes(self.path / name)
        self.manifest["shards"].append(
            {
                "file": name,
                "rows": len(tensors["tokens"]),
                "bytes": len(content),
                "crc32": block_checksums(content),
                "progress": self._progress,
                "state": self._state,
            }
        )
        self.manifest["count"] += len(tensors["tokens"])
        self.manifest["complete"] = False
        self.manifest.pop("statistics", None)
        self._pending, self._pending_bytes = [], 0
        self._save()

    def truncate(self, progress: int) -> None:
        """Forget the shards beyond `progress` (written while a sibling store's were not, before a kill)."""
        keep = [shard for shard in self.manifest["shards"] if shard["progress"] <= progress]
        if len(keep) < len(self.manifest["shards"]):
            self.manifest |= {"shards": keep, "count": sum(s["rows"] for s in keep), "complete": False}
            self._save()

    def finish(self, massive_ratio: float = 4.0, massive_spread: float = 8.0) -> None:
        """Write the last shard and the statistics: the store is complete.

        Args:
            massive_ratio: see `massive_threshold`.
            massive_spread: see `massive_threshold`.
        """
        self.flush()
        shards = Shards(self.path, self.manifest)
        self.manifest["statistics"] = store_statistics(shards, self.d_in, massive_ratio, massive_spread)
        self.manifest["complete"] = True
        self._save()

    def _require_alone(self) -> None:
        """Raise unless the manifest is as this writer left it: another's shards would be overwritten, or be lost."""
        if checksum_on_disk(self.path) != self._saved:
            raise ValueError(
                f"path: {self.path} was changed by another writer, or deleted, while this one was writing; it wrote "
                "nothing over that. Let one finish, then run the other again, which goes on from there"
            )

    def _save(self) -> None:
        self._require_alone()
        self.manifest["crc32"] = manifest_checksum(self.manifest)
        with atomic_write(self.path / NAME) as file:
            file.write((json.dumps(self.manifest, indent=1) + "\n").encode())
        self._saved = self.manifest["crc32"]

    def _require_same(self, described: dict[str, Any]) -> None:
        for key, value in described.items():
            found = self.manifest.get(key)
            if found != value:
                raise ValueError(
                    f"path: {self.path} holds a store with {key} {found!r}, not {value!r}; "
                    "give another directory or delete that one"
                )
