"""What counts as a row of activations, and the checks every public function makes of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from sparse_sae import _kernels

Array: TypeAlias = npt.NDArray[Any]


def as_array(x: Any, name: str = "x") -> Array:
    """A NumPy array of floats; bfloat16 comes out as its bits, in uint16, which is what the kernels read.

    Accepts NumPy arrays (ml_dtypes' bfloat16 among them), torch tensors, and whatever else offers DLPack or
    `__array__`. Nothing is copied where NumPy can view it.
    """
    if hasattr(x, "detach") and hasattr(x, "cpu"):  # a torch tensor, without importing torch
        x = x.detach().cpu()
        if str(x.dtype) == "torch.bfloat16":
            import torch

            return np.asarray(x.contiguous().view(torch.int16).numpy().view(np.uint16))
        x = x.numpy()
    elif not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__"):
        x = np.from_dlpack(x)
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise TypeError(
            f"{name}: a masked array, whose mask would be lost; pass the rows that count, {name}.compressed()"
        )
    array: Array = np.asarray(x)
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16)
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(
            f"{name}: dtype {array.dtype}, expected float16, bfloat16, float32 or float64; "
            f"convert with {name}.astype('float32')"
        )
    return array


def as_rows(
    x: Any, width: int, name: str = "x", *, dtype: npt.DTypeLike = np.float32, num_threads: int = 1
) -> Array:
    """(n, width) rows of a vector, a matrix or a (…, width) stack, checked to be finite in dtype.

    Raises:
        TypeError: not floats. ValueError: wrong width, or a NaN or infinity (the row is named).
    """
    x = as_array(x, name)
    if x.ndim == 0 or x.shape[-1] != width:
        raise ValueError(f"{name}: shape {x.shape}, expected (…, {width}): the last axis is d_in")
    rows: Array = x.reshape(-1, width)
    item = rows.dtype.itemsize
    if rows.size and ((width > 1 and rows.strides[1] != item) or rows.strides[0] % item):
        rows = np.ascontiguousarray(rows)
    bad = _kernels.first_nonfinite_row(rows, num_threads=num_threads)
    if bad < 0 and rows.dtype == np.float64 and np.dtype(dtype) == np.float32 and rows.size:
        largest = np.abs(rows).max(axis=1)
        bad = int(largest.argmax()) if largest.max() > np.finfo(np.float32).max else -1
    if bad >= 0:
        raise ValueError(
            f"{name}: row {bad} holds a NaN or an infinity (as {np.dtype(dtype)}); leave such rows out, "
            f"for example {name}[numpy.isfinite({name}).all(axis=-1)]"
        )
    return rows


def to_float(rows: Array, dtype: npt.DTypeLike = np.float32) -> Array:
    """Rows from `as_array` as contiguous floats: bfloat16 bits are widened, anything else is cast."""
    if rows.dtype == np.uint16:
        rows = (rows.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(rows, dtype=dtype)
