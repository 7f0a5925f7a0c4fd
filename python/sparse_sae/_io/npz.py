"""Arrays in a .npz file."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae._io.files import FormatError, open_regular, reading
from sparse_sae._io.safetensors import widen

_MOST_EXPANSION = 4  # what an .npz file may hold, as a multiple of its size


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of a .npz file; nothing is unpickled, and no array is larger than its file can account for."""
    with open_regular(path) as raw, reading(path, "a complete .npz file of plain arrays"):
        if not zipfile.is_zipfile(raw):
            raise FormatError(f"{path}: not a complete .npz file of plain arrays, which is a zip archive")
        try:
            return _read(path, raw)
        except (OSError, NotImplementedError) as error:
            # A place before the beginning of the file; a way to compress that nobody uses.
            raise FormatError(
                f"{path}: not a complete .npz file of plain arrays ({error}): damaged"
            ) from None


def _read(path: Path, raw: IO[bytes]) -> dict[str, Array]:
    size = os.fstat(raw.fileno()).st_size
    with zipfile.ZipFile(raw) as archive:
        promised = sum(info.file_size for info in archive.infolist())
    # Weights hardly compress; what claims to be far larger than the file is made to fill the memory.
    if promised > _MOST_EXPANSION * size:
        raise FormatError(
            f"{path}: {size} bytes that promise {promised}, expected at most {_MOST_EXPANSION} times as many"
        )
    raw.seek(0)
    with np.load(raw, allow_pickle=False) as file:
        return {name: widen(file[name]) for name in file.files}
