"""The safetensors format: one parser of headers, one reader, one writer.

A file is 8 bytes of length (little-endian), that many bytes of JSON, and the data. The JSON names each tensor's dtype,
shape and place; tensors lie side by side and fill the data whole, without a gap or an overlap
(https://huggingface.co/docs/safetensors). So what a file can make a reader allocate is bounded by its size, and is
known before anything is read.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae._io.atomic import atomic_write
from sparse_sae._io.files import FormatError, open_regular

# NumPy has no bfloat16: its bits are the upper halves of float32 words.
DTYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "BOOL": np.bool_,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
}
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items() if name != "BF16"}
# The format allows 100 MB; parsed, that can be 2 GB. A hundred bytes a tensor are enough for thousands of them.
_MAX_HEADER = 4 << 20
_CHECKSUM = "sparse_sae.crc32"


class Entry(NamedTuple):
    """One tensor: its dtype as the format calls it, its shape, and its first and last byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Header(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The tensors of a file by name, checked against each other and the file's size; no data is read.

    Raises:
        FormatError: missing, cut off, malformed, or tensors that overlap or leave gaps.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
            raise FormatError(f"{path}: not a safetensors file, or cut off in its header ({size} bytes)")
        text = file.read(length)
    try:
        header = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError, MemoryError) as error:
        raise FormatError(f"{path}: not a safetensors file: its header is no JSON ({error})") from None
    if not isinstance(header, dict):
        raise FormatError(f"{path}: not a safetensors file: its header is a {type(header).__name__}")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise FormatError(
            f"{path}: not a safetensors file: __metadata__ is {metadata!r:.80}, expected texts by name"
        )
    tensors = {name: _entry(path, name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for name, entry in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if entry.begin != end:
            what = "overlaps the tensor before it" if entry.begin < end else "leaves a gap before it"
            raise FormatError(f"{path}: not a safetensors file: {name} {what}")
        end = entry.end
    if end > size:
        raise FormatError(
            f"{path}: cut off: {size} bytes, its header promises {end}; copy or download it again"
        )
    if end < size:
        raise FormatError(f"{path}: {size} bytes, its header promises {end}; the file is damaged or foreign")
    return Header(tensors, metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name twice")
    return result


def _entry(path: Path, name: str, entry: Any, start: int) -> Entry:
    """One entry of a header. A dtype this package cannot read is refused here, whoever wants it or not."""
    found = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = found.get("dtype"), found.get("shape"), found.get("data_offsets")
    whole = all(
        isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)
        for numbers in (shape, offsets)
    )
    if not isinstance(dtype, str) or not whole or len(offsets) != 2:  # type: ignore[arg-type]
        raise FormatError(
            f"{path}: not a safetensors file: {name} is {entry!r:.120}, expected dtype, shape and data_offsets"
        )
    assert isinstance(shape, list) and isinstance(offsets, list)
    if dtype not in DTYPES:
        raise FormatError(f"{path}: {name} has dtype {dtype}, expected {', '.join(DTYPES)}")
    begin, end = offsets
    needed = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    if end - begin != needed:
        raise FormatError(
            f"{path}: {name} has {end - begin} bytes, its shape {shape} of {dtype} needs {needed}"
        )
    return Entry(dtype, tuple(shape), start + begin, start + end)


def map_tensors(path: Path, header: Header | None = None) -> dict[str, Array]:
    """All tensors as views of the file mapped into memory, as they are stored (bfloat16 as its bits, in uint16).

    Copy-on-write: the file is never changed, and pages are read when they are used.
    """
    return tensor_views(map_bytes(path), header or read_header(path))


def map_bytes(path: Path) -> Array:
    """A file that is not empty, header and all, as (n,) uint8 mapped into memory copy-on-write."""
    with open_regular(path) as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)


def tensor_views(raw: Array, header: Header) -> dict[str, Array]:
    """The tensors in the bytes of a whole file, without a copy."""
    return {
        name: raw[entry.begin : entry.end].view(DTYPES[entry.dtype]).reshape(entry.shape)
        for name, entry in header.tensors.items()
    }


def read_tensors(path: Path) -> dict[str, Array]:
    """All tensors: float32, float64 and integers mapped, float16 and bfloat16 widened to float32 in new memory.

    Raises:
        FormatError: the file is malformed, or not what the checksum says that `checked` left in it.
    """
    header = read_header(path)
    tensors = map_tensors(path, header)
    expected = header.metadata.get(_CHECKSUM)
    if expected is not None and expected != (found := checksum(tensors)):
        raise FormatError(
            f"{path}: its tensors' checksum is {found}, and was {expected} when they were written; the file is "
            "damaged, copy or download it again"
        )
    return {
        name: widen(value, bfloat16=header.tensors[name].dtype == "BF16") for name, value in tensors.items()
    }


def checked(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Metadata for `write_tensors` by which `read_tensors` finds a flipped bit.

    It lies in the tensors' own file, so that a program that writes other tensors in its place takes it away.
    """
    return {_CHECKSUM: checksum(tensors)}


def checksum(tensors: Mapping[str, Any], text: str = "") -> str:
    """CRC-32 of names, dtypes, shapes and bytes of all tensors, and of a text: a flipped bit anywhere changes it."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        crc = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def widen(value: Array, *, bfloat16: bool = False) -> Array:
    """float32 for float16 and for bfloat16 bits; anything else, aligned, as it is."""
    if bfloat16:
        words: Array = np.left_shift(value, 16, dtype=np.uint32)
        return words.view(np.float32)
    if value.dtype == np.float16:
        return value.astype(np.float32)
    return np.require(value, requirements="A")


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    *,
    bfloat16: tuple[str, ...] = (),
) -> None:
    """Write arrays as one file, whole or not at all; copied where they are not contiguous.

    Args:
        path: the file.
        tensors: arrays by name, of a dtype among `DTYPES`.
        metadata: texts by name.
        bfloat16: which of them, in uint16, hold the bits of bfloat16.
    """
    arrays = {name: np.asarray(value) for name, value in tensors.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    # Larger items first, as the format's own writer has it: every tensor is then aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    for name in order:
        array = arrays[name]
        dtype = "BF16" if name in bfloat16 else _NAMES.get(array.dtype)
        if dtype is None:
            raise TypeError(f"{name}: dtype {array.dtype}, expected one that a safetensors file can hold")
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in order:
            if arrays[name].size:
                file.write(np.ascontiguousarray(arrays[name]).data)
