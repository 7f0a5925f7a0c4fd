"""How rows become bytes and back, and the safetensors files that hold them."""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparse_sae._io.files import atomic_write

F32 = NDArray[np.float32]
Array = NDArray[Any]
Dtype = Literal["float32", "float16", "bfloat16", "int8"]

# how the stored rows are held in NumPy (it has no bfloat16: the upper halves of float32 words), and their
# name in a safetensors header
ROW_TYPES: dict[str, tuple[Any, str]] = {
    "float32": (np.float32, "F32"),
    "float16": (np.float16, "F16"),
    "bfloat16": (np.uint16, "BF16"),
    "int8": (np.int8, "I8"),
}
_HEADER_TYPES: dict[str, Any] = {name: dtype for dtype, name in ROW_TYPES.values()} | {
    "I32": np.int32,
    "U8": np.uint8,
}

FIRST, PADDING = 1, 2  # bits of `flags`


def encode_rows(rows: F32, dtype: Dtype) -> tuple[Array, F32 | None]:
    """Rows as they are stored, and their scales if dtype is int8.

    Args:
        rows: (n, d) finite float32.
        dtype: what to store.

    Raises:
        ValueError: a value is too large for float16.

    >>> rows, scale = encode_rows(np.array([[1.0, -2.0]], dtype=np.float32), "int8")
    >>> rows
    array([[  64, -127]], dtype=int8)
    """
    if dtype == "float32":
        return np.ascontiguousarray(rows), None
    if dtype == "float16":
        if rows.size and np.abs(rows).max() > np.finfo(np.float16).max:
            raise ValueError(
                f"dtype: the activations reach {np.abs(rows).max():.4g}, beyond float16; "
                "use dtype='bfloat16' or 'float32'"
            )
        return rows.astype(np.float16), None
    if dtype == "bfloat16":
        words = np.ascontiguousarray(rows).view(np.uint32)
        rounded = (
            words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
        )  # to nearest, ties to even
        return (rounded >> np.uint32(16)).astype(np.uint16), None
    scale = np.abs(rows).max(axis=1, initial=0.0).astype(np.float32) / np.float32(127)
    safe = np.where(scale > 0, scale, np.float32(1))
    return np.rint(rows / safe[:, None]).astype(np.int8), scale


def decode_rows(stored: Array, dtype: Dtype, scale: F32 | None = None) -> F32:
    """The float32 rows of what `encode_rows` made, in new memory.

    >>> decode_rows(np.array([[0x3F80, 0xC000]], dtype=np.uint16), "bfloat16")
    array([[ 1., -2.]], dtype=float32)
    """
    if dtype == "bfloat16":
        words: NDArray[np.uint32] = stored.astype(np.uint32) << np.uint32(16)
        return words.view(np.float32)
    rows: F32 = stored.astype(np.float32)
    if dtype == "int8":
        if scale is None:
            raise ValueError("scale: int8 rows need their scales")
        rows *= scale[:, None]
    return rows


def write_shard(path: Path, tensors: dict[str, Array], row_type: str) -> None:
    """Write arrays as one safetensors file; `rows` is declared as `row_type`, the others as what they are."""
    names = {np.dtype(dtype): name for name, dtype in _HEADER_TYPES.items() if name != "BF16"}
    header: dict[str, Any] = {}
    offset = 0
    for key, array in tensors.items():
        name = row_type if key == "rows" else names[array.dtype]
        header[key] = {
            "dtype": name,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).data)


class Shard:
    """The tensors of one shard file, memory-mapped: `shard["rows"]` reads nothing before it is used.

    Raises:
        ValueError: the file is shorter than its header says, or no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= size - 8:
                raise ValueError(f"{path} is not a safetensors file, or a truncated one")
            header = json.loads(file.read(length))
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._tensors: dict[str, tuple[Any, list[int], int]] = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            if 8 + length + end > size:
                raise ValueError(f"{path} is truncated: {name} ends at byte {8 + length + end} of {size}")
            self._tensors[name] = (_HEADER_TYPES[entry["dtype"]], entry["shape"], 8 + length + begin)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Array:
        dtype, shape, offset = self._tensors[name]
        return np.frombuffer(self._map, dtype, math.prod(shape), offset).reshape(shape)

    def rows(self, dtype: Dtype, index: slice | Array = slice(None)) -> F32:
        """Decoded float32 rows of a slice or index array."""
        return decode_rows(self["rows"][index], dtype, self["scale"][index] if "scale" in self else None)


def find_store(path: Path, hook: str | None) -> Path:
    """The directory with the manifest: `path`, or a folder in it of one hook point."""
    if hook is not None and (path / hook / "manifest.json").is_file():
        return path / hook
    if (path / "manifest.json").is_file():
        found = json.loads((path / "manifest.json").read_text()).get("hook")
        if hook not in (None, found):
            raise ValueError(f"hook: the store in {path} is of {found!r}, not {hook!r}")
        return path
    inside = sorted(p.parent.name for p in path.glob("*/manifest.json"))
    if len(inside) == 1 and hook is None:
        return path / inside[0]
    if inside:
        raise ValueError(f"hook: choose one of {', '.join(inside)} in {path}, got {hook!r}")
    raise FileNotFoundError(f"path: there is no activation store in {path} (no manifest.json)")
