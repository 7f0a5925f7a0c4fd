"""Reading other people's files: torch's .pt, what .npz files hold; and what is wrong with them."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any

from sparse_sae._io.arrays import Array
from sparse_sae._io.files import MALFORMED, FormatError, kind_of, open_regular, peek_json, read_json
from sparse_sae._io.npz import read_npz
from sparse_sae._io.safetensors import read_header, read_tensors as read_safetensors, widen

__all__ = [
    "Array",
    "FormatError",
    "contents",
    "integer",
    "is_saved_sae",
    "peek_json",
    "peek_npz",
    "peek_shapes",
    "peek_torch",
    "read_json",
    "read_npz",
    "read_safetensors",
    "read_torch",
]

# What the writers of this package put into a directory, whichever format.
_SAVED = {"cfg.json", "sae_weights.safetensors", "sae.safetensors", "config.json", "ae.pt"}


def is_saved_sae(path: Path) -> bool:
    """Whether a directory holds an SAE as the writers here leave it, and nothing else: it may be replaced."""
    names = {entry.name for entry in path.iterdir()}
    return names <= _SAVED and len(names) == 2


def contents(path: Path) -> str:
    """What lies at path, for messages."""
    if not path.is_dir():
        return f"a file of {path.stat().st_size} bytes" if path.is_file() else kind_of(path)
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"a directory with {shown}" if names else "an empty directory"


def integer(config: dict[str, Any], key: str, where: Path) -> int:
    """config[key] as an int. Raises a ValueError where it is missing or something else."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        found = "nothing" if key not in config else repr(value)
        raise FormatError(f"{where}: {key!r} should be a whole number, found {found}")
    return value


def peek_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape by tensor name of a safetensors file; {} where it is none: for recognising, not for reading."""
    try:
        return {name: entry.shape for name, entry in read_header(path).tensors.items()}
    except (OSError, FormatError):
        return {}


def peek_npz(path: Path) -> set[str]:
    """Names of the arrays in a .npz file; empty where it is none."""
    try:
        with open_regular(path) as raw, zipfile.ZipFile(raw) as file:
            return {n.removesuffix(".npy") for n in file.namelist() if n.endswith(".npy")}
    except (OSError, NotImplementedError, *MALFORMED):
        return set()


def peek_torch(path: Path) -> set[str]:
    """Every string in the pickle of a torch file: key names among them. Nothing is executed, torch is not needed."""
    try:
        with open_regular(path) as raw, zipfile.ZipFile(raw) as file:
            name = next(n for n in file.namelist() if n.endswith("/data.pkl"))
            return {arg for _, arg, _ in pickletools.genops(file.read(name)) if isinstance(arg, str)}
    except (OSError, NotImplementedError, StopIteration, *MALFORMED):
        return set()


def read_torch(path: Path) -> dict[str, Any]:
    """A state dict through torch's weights-only loader: tensors as NumPy arrays, plain values as they are.

    Raises:
        ImportError: torch is missing. ValueError: the file is truncated, or holds more than tensors.
    """
    open_regular(path).close()
    try:
        import torch
    except ImportError:
        raise ImportError(f"{path}: .pt files need torch; pip install 'sparse-sae[lm]'") from None
    import pickle

    try:
        # Files of torch before 1.6 are not zip archives and cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except (pickle.UnpicklingError, OSError, *MALFORMED) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise FormatError(f"{path}: truncated, or not a file of tensors alone ({reason})") from None
    if not isinstance(state, dict):
        raise FormatError(f"{path}: expected a state dict, found a {type(state).__name__}")

    def plain(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value
        value = value.detach()
        return widen((value.float() if value.dtype == torch.bfloat16 else value).numpy())

    return {str(name): plain(value) for name, value in state.items()}
