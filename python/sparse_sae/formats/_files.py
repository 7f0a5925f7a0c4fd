"""Reading other people's files: safetensors mapped into memory, npz, torch's .pt; and what is wrong with them."""

from __future__ import annotations

import json
import mmap
import pickletools
import zipfile
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip
_MAX_HEADER = 100_000_000  # the safetensors format's own limit


def contents(path: Path) -> str:
    """What lies at path, for messages."""
    if not path.is_dir():
        return f"a file of {path.stat().st_size} bytes"
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"a directory with {shown}" if names else "an empty directory"


def peek_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; {} where there is none: for recognising, not for reading."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises a ValueError that says what is wrong with the file."""
    if not path.is_file():
        raise ValueError(f"{path}: missing; it lies beside the weights, copy it too")
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); the file is truncated or foreign") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value


def integer(config: dict[str, Any], key: str, where: Path) -> int:
    """config[key] as an int. Raises a ValueError where it is missing or something else."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        found = "nothing" if key not in config else repr(value)
        raise ValueError(f"{where}: {key!r} should be a whole number, found {found}")
    return value


def safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The entries of a safetensors file (dtype, shape, data_offsets by name) and where its data begins.

    Raises a ValueError for a file that is truncated or no safetensors file at all.
    """
    if not path.is_file():
        raise ValueError(f"{path}: missing; copy it beside its configuration")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, _MAX_HEADER):
            raise ValueError(f"{path}: not a safetensors file, or cut off in its header ({size} bytes)")
        try:
            entries = json.loads(file.read(length))
            entries.pop("__metadata__", None)
            end = max((e["data_offsets"][1] for e in entries.values()), default=0)
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path}: not a safetensors file ({error})") from None
    if 8 + length + end > size:
        raise ValueError(
            f"{path}: cut off: {size} bytes, its header promises {8 + length + end}; copy or download it again"
        )
    return entries, 8 + length


def peek_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape by tensor name of a safetensors file; {} where it is none: for recognising, not for reading."""
    try:
        entries, _ = safetensors_header(path)
        return {name: tuple(e["shape"]) for name, e in entries.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def read_safetensors(path: Path) -> dict[str, Array]:
    """All tensors of a safetensors file.

    float32, float64 and integers are views of the file mapped into memory (copy-on-write: the file is never
    changed), so pages are read when used and can be dropped again. float16 and bfloat16 are widened to float32.
    """
    entries, start = safetensors_header(path)
    with path.open("rb") as file:
        # An empty mapping is an error, so the header is mapped too.
        raw = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
    tensors = {}
    for name, entry in entries.items():
        if entry.get("dtype") not in _DTYPES:
            raise ValueError(f"{path}: {name} has dtype {entry.get('dtype')}, expected {', '.join(_DTYPES)}")
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        begin, end = entry["data_offsets"]
        if end - begin != dtype.itemsize * int(np.prod(entry["shape"], dtype=np.int64)):
            raise ValueError(
                f"{path}: {name} has {end - begin} bytes, its shape {entry['shape']} needs others"
            )
        value = raw[start + begin : start + end].view(dtype).reshape(entry["shape"])
        tensors[name] = widen(value, bfloat16=entry["dtype"] == "BF16")
    return tensors


def widen(value: Array, *, bfloat16: bool = False) -> Array:
    """float32 for float16 and for bfloat16 bits; anything else, aligned, as it is."""
    if bfloat16:
        return (value.astype(np.uint32) << 16).view(np.float32)
    if value.dtype == np.float16:
        return value.astype(np.float32)
    return np.require(value, requirements="A")


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of a .npz file; nothing is unpickled."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: not a complete .npz file of plain arrays, which is a zip archive")
    try:
        # np.load leaves a file it opened itself open where it is no complete archive.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: widen(file[name]) for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a complete .npz file of plain arrays ({error})") from None


def peek_npz(path: Path) -> set[str]:
    """Names of the arrays in a .npz file; empty where it is none."""
    try:
        with zipfile.ZipFile(path) as file:
            return {n.removesuffix(".npy") for n in file.namelist() if n.endswith(".npy")}
    except (OSError, zipfile.BadZipFile):
        return set()


def peek_torch(path: Path) -> set[str]:
    """Every string in the pickle of a torch file: key names among them. Nothing is executed, torch is not needed."""
    try:
        with zipfile.ZipFile(path) as file:
            name = next(n for n in file.namelist() if n.endswith("/data.pkl"))
            return {arg for _, arg, _ in pickletools.genops(file.read(name)) if isinstance(arg, str)}
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        return set()


def read_torch(path: Path) -> dict[str, Any]:
    """A state dict through torch's weights-only loader: tensors as NumPy arrays, plain values as they are.

    Raises:
        ImportError: torch is missing. ValueError: the file is truncated, or holds more than tensors.
    """
    if not path.is_file():
        raise ValueError(f"{path}: missing; copy it beside its configuration")
    try:
        import torch
    except ImportError:
        raise ImportError(f"{path}: .pt files need torch; pip install 'sparse-sae[lm]'") from None
    import pickle

    try:
        # Files of torch before 1.6 are not zip archives and cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{path}: truncated, or not a file of tensors alone ({reason})") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected a state dict, found a {type(state).__name__}")

    def plain(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value
        value = value.detach()
        return widen((value.float() if value.dtype == torch.bfloat16 else value).numpy())

    return {str(name): plain(value) for name, value in state.items()}
