"""What a user passed as data, opened: arrays, paths, stores, iterables, and several of them side by side."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array, as_array
from sparse_sae._io.files import open_regular, reading
from sparse_sae._io.npz import read_npz
from sparse_sae._io.safetensors import DTYPES, read_header
from sparse_sae.data.base import Source
from sparse_sae.data.sources import ArraySource, StoreSource
from sparse_sae.data.stream import StreamSource

_HOW_TO_CONVERT = {
    ".pt": "numpy.save('x.npy', torch.load(path, weights_only=True).float().numpy())",
    ".pth": "numpy.save('x.npy', torch.load(path, weights_only=True).float().numpy())",
    ".parquet": "numpy.save('x.npy', numpy.stack(pandas.read_parquet(path)['column']))",
    ".h5": "numpy.save('x.npy', h5py.File(path)['name'][:])",
    ".hdf5": "numpy.save('x.npy', h5py.File(path)['name'][:])",
    ".csv": "numpy.save('x.npy', numpy.loadtxt(path, delimiter=',', dtype='float32'))",
}
_FLOATS = ("F64", "F32", "F16", "BF16")


def open_source(data: Any) -> Source:
    """The source for what a user passed as data.

    Args:
        data: an array or memmap (…, d); a path, see `open_path`, or an `ActivationStore`; a tuple or list of any of
            these, of equal length, for transcoders and crosscoders; or an iterable of (n, d) blocks (or tuples).
    """
    parts = list(data) if isinstance(data, (tuple, list)) and data and not _is_blocks(data) else [data]
    parts = [_open_part(p) for p in parts]
    if all(isinstance(p, np.ndarray) for p in parts):
        lengths = [len(p) for p in parts]
        if len(set(lengths)) > 1:
            raise ValueError(f"data: arrays of {lengths} rows side by side, expected equal numbers")
        if not lengths[0]:
            raise ValueError("data: empty, expected (n, d_in) rows")
        return ArraySource(parts)
    if all(hasattr(p, "epoch") for p in parts):
        lengths = [len(p) for p in parts]
        if len(set(lengths)) > 1 or not lengths[0]:
            raise ValueError(f"data: stores of {lengths} usable rows, expected equal numbers above zero")
        return StoreSource(parts)
    if len(parts) == 1 and isinstance(parts[0], Iterable):
        return StreamSource(parts[0])
    raise TypeError(
        f"data: got {type(data).__name__}, expected an array, a memmap, the path of a .npy, .npz or .safetensors file "
        "or of a directory of shards, an ActivationStore, an iterable of (n, d_in) blocks, or a tuple of arrays or "
        "stores"
    )


def open_path(path: str | Path, name: str = "data") -> Any:
    """The rows in a file, or the `ActivationStore` in a directory.

    Args:
        path: a .npy file, or a .safetensors file with one tensor of floats (both are mapped, not read); a .npz file
            with one array (read into memory); or the directory of a store.
        name: of the argument, for messages.

    Raises:
        FileNotFoundError: nothing there. ValueError: a file of another kind, with how to convert it; several arrays.
    """
    path = Path(path)
    if path.is_dir() or not (path.suffix or path.exists()):
        from sparse_sae.data.store import ActivationStore

        try:
            return ActivationStore(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{name}: {error}") from None
    if not path.exists():
        raise FileNotFoundError(f"{name}: {path} does not exist")
    if path.suffix == ".npy":
        open_regular(path).close()
        with reading(path, "a complete .npy file of numbers"):
            return np.load(path, mmap_mode="r", allow_pickle=False)
    if path.suffix == ".npz":
        return _only(read_npz(path), path, name)
    if path.suffix == ".safetensors":
        return _map_safetensors(path, name)
    how = _HOW_TO_CONVERT.get(path.suffix)
    raise ValueError(
        f"{name}: {path} is a {path.suffix or 'nameless'} file, expected .npy, .npz, .safetensors or a directory of "
        "shards; " + (f"convert it once: {how}" if how else "convert it with numpy.save('x.npy', rows)")
    )


def _only(arrays: dict[str, Any], path: Path, name: str) -> Any:
    if len(arrays) != 1:
        shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in sorted(arrays.items()))
        raise ValueError(
            f"{name}: {path} holds {len(arrays)} arrays ({shapes:.200}), expected one; pass the array you mean"
        )
    return next(iter(arrays.values()))


def _map_safetensors(path: Path, name: str) -> Array:
    entry = _only(read_header(path).tensors, path, name)
    if entry.dtype not in _FLOATS:
        raise TypeError(f"{name}: {path} has dtype {entry.dtype}, expected one of {', '.join(_FLOATS)}")
    if 0 in entry.shape:
        return np.empty(entry.shape, DTYPES[entry.dtype])
    return np.memmap(path, DTYPES[entry.dtype], "r", entry.begin, entry.shape)


def _is_blocks(data: Any) -> bool:
    """A list of blocks (or tuples of blocks) to be read in turn, rather than several sources side by side."""
    return isinstance(data, list) and all(isinstance(p, tuple) or getattr(p, "ndim", 0) >= 2 for p in data)


def _open_part(part: Any) -> Any:
    if isinstance(part, (str, Path)):
        part = open_path(part)
    if isinstance(part, list) or hasattr(part, "epoch") or not hasattr(part, "shape"):
        return part
    library = type(part).__module__.partition(".")[0]
    if library in ("h5py", "zarr"):
        warnings.warn(
            f"data: a {library} data set of shape {part.shape} is read into memory as a whole; for data larger than "
            "memory write it to a .npy file, or pass an iterable of blocks of its rows",
            UserWarning,
            stacklevel=4,
        )
        part = part[...]
    # A memmap is read in another way than an array, so it stays one; bfloat16 on disk is opened as uint16.
    bits = isinstance(part, np.memmap) and part.dtype == np.uint16
    array = part if bits else as_array(part, "data")
    if array.ndim < 2 or not array.shape[-1]:
        raise ValueError(
            f"data: shape {array.shape}, expected (n, d_in), or (…, d_in) with more axes of rows"
        )
    kept = part if isinstance(part, np.memmap) and array.dtype == part.dtype else array
    return kept if kept.ndim == 2 else kept.reshape(-1, kept.shape[-1])
