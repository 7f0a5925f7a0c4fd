"""Parts of a long check on disk, so that one that was stopped goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae._io.atomic import atomic_write


class Kept(MutableMapping[int, tuple[Array, ...]]):
    """Arrays by number, a file each, in a directory that is made when the first is kept.

    Args:
        directory: where. key: SHA-256 of everything that decides the arrays; files of another key are not seen.

    >>> import tempfile
    >>> kept = Kept(Path(tempfile.mkdtemp()), "0" * 64)
    >>> kept[3] = (np.arange(2), np.ones(1))
    >>> list(kept), kept[3][0].tolist()
    ([3], [0, 1])
    """

    def __init__(self, directory: Path, key: str) -> None:
        self.directory, self.key = directory, key[:32]

    def _path(self, number: int) -> Path:
        return self.directory / f"{self.key}-{number}.npz"

    def __getitem__(self, number: int) -> tuple[Array, ...]:
        try:
            with np.load(self._path(number), allow_pickle=False) as found:
                return tuple(found[name] for name in found.files)
        except FileNotFoundError:
            raise KeyError(number) from None

    def __contains__(self, number: object) -> bool:
        return isinstance(number, int) and self._path(number).is_file()

    def __setitem__(self, number: int, arrays: tuple[Array, ...]) -> None:
        with atomic_write(self._path(number)) as file:
            np.savez(file, *arrays)

    def __delitem__(self, number: int) -> None:
        self._path(number).unlink()

    def __iter__(self) -> Iterator[int]:
        names = (path.stem.rpartition("-")[2] for path in self.directory.glob(f"{self.key}-*.npz"))
        return iter(sorted(map(int, names)))

    def __len__(self) -> int:
        return sum(1 for _ in self)
