"""How rows become bytes and back, and what a shard file holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparse_sae._io.files import FormatError
from sparse_sae._io.safetensors import map_bytes, read_header, tensor_views
from sparse_sae.data.store.checks import Checks

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


class Shard:
    """The tensors of one shard file, memory-mapped: nothing is read before it is used, and then checked.

    Args:
        path: the file.
        n_rows, d_in, dtype: what the manifest says of it.
        checks: its checksums.

    Raises:
        FormatError: no complete safetensors file, or not what the manifest says; later, when what is asked for does
            not have its checksum.
    """

    def __init__(self, path: Path, n_rows: int, d_in: int, dtype: Dtype, checks: Checks) -> None:
        header = read_header(path)
        expected = shard_layout(n_rows, d_in, dtype)
        found = {name: (entry.dtype, entry.shape) for name, entry in header.tensors.items()}
        for name, layout in expected.items():
            if found.get(name) != layout:
                raise FormatError(
                    f"{path}: {name} is {found.get(name, 'missing')}, the manifest says {layout}: of two stores"
                )
        self._content, self._checks, self._entries = map_bytes(path), checks, header.tensors
        self._tensors = tensor_views(self._content, header)
        self._dtype: Dtype = dtype
        checks.need(self._content, 0, min(entry.begin for entry in header.tensors.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Array:
        """A whole tensor."""
        entry = self._entries[name]
        self._checks.need(self._content, entry.begin, entry.end)
        return self._tensors[name]

    def part(self, name: str, index: slice | Array) -> Array:
        """What a tensor has for the rows of a slice (of step 1) or an array of row numbers."""
        entry, tensor = self._entries[name], self._tensors[name]
        row_bytes = tensor.dtype.itemsize * math.prod(tensor.shape[1:])
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(tensor))
            self._checks.need(self._content, entry.begin + start * row_bytes, entry.begin + stop * row_bytes)
        else:
            self._checks.need_rows(self._content, entry.begin, row_bytes, index)
        return tensor[index]

    def rows(self, index: slice | Array = slice(None)) -> F32:
        """Decoded float32 rows of a slice or an array of row numbers."""
        scale = self.part("scale", index) if "scale" in self else None
        return decode_rows(self.part("rows", index), self._dtype, scale)

    def verify(self) -> None:
        """Compare every block of the file."""
        self._checks.need(self._content, 0, len(self._content))


def shard_layout(n_rows: int, d_in: int, dtype: Dtype) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each tensor of a shard, as its header has them.

    >>> shard_layout(5, 3, "int8")["rows"], shard_layout(5, 3, "int8")["scale"]
    (('I8', (5, 3)), ('F32', (5,)))
    """
    columns = {"tokens": "I32", "positions": "I32", "documents": "I32", "flags": "U8", "norms": "F32"}
    if dtype != "float32":
        columns["errors"] = "F32"
    if dtype == "int8":
        columns["scale"] = "F32"
    return {"rows": (ROW_TYPES[dtype][1], (n_rows, d_in))} | {k: (v, (n_rows,)) for k, v in columns.items()}
