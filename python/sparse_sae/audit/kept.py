"""Parts of a long check on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae._io.atomic import atomic_write


class Kept(MutableMapping[str, tuple[Array, ...]]):
    """Arrays by name, a file each, in a directory that is made when the first is kept.

    Args:
        directory: where. key: SHA-256 of everything that decides the arrays besides their names; files of another key
            are not seen.

    >>> import tempfile
    >>> kept = Kept(Path(tempfile.mkdtemp()), "0" * 64)
    >>> kept["a"] = (np.arange(2), np.ones(1))
    >>> list(kept), kept["a"][0].tolist()
    (['a'], [0, 1])
    """

    def __init__(self, directory: Path, key: str) -> None:
        self.directory, self.key = directory, key[:32]

    def _path(self, name: str) -> Path:
        return self.directory / f"{self.key}-{name}.npz"

    def __getitem__(self, name: str) -> tuple[Array, ...]:
        try:
            with np.load(self._path(name), allow_pickle=False) as found:
                return tuple(found[array] for array in found.files)
        except FileNotFoundError:
            raise KeyError(name) from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._path(name).is_file()

    def __setitem__(self, name: str, arrays: tuple[Array, ...]) -> None:
        with atomic_write(self._path(name)) as file:
            np.savez(file, *arrays)

    def __delitem__(self, name: str) -> None:
        self._path(name).unlink()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(p.stem.rpartition("-")[2] for p in self.directory.glob(f"{self.key}-*.npz")))

    def __len__(self) -> int:
        return sum(1 for _ in self)
