"""The int8 copy of an encoder that `SAE.prepare` keeps."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparse_sae import _kernels
from sparse_sae._io.arrays import Array


def keep(params: dict[str, Array], sample: Array | None, num_threads: int) -> Any:
    """What holds the copy of params["W_enc"] as long as it lives; None where no kernel would use one.

    Makes W_enc read-only, down to the array that owns its memory. Where that is no array (a mapped file, another
    library's tensor), the weights are copied first: nobody else can then change them.
    """
    w = params["W_enc"]
    if w.dtype != np.float32:
        raise TypeError(
            f"prepare: an SAE of {w.dtype}, expected float32, which is what int8 can stand in for"
        )
    if not _kernels.build_info["int8"]:
        return None
    if not _freeze(w):
        params["W_enc"] = w = w.copy()
        w.flags.writeable = False
    return _kernels.keep_int8(w, sample=sample, num_threads=num_threads)


def _freeze(array: Array) -> bool:
    """Make an array and those it is a view of read-only; False where the last is not the owner of the memory."""
    at: Any = array
    while isinstance(at, np.ndarray):
        at.flags.writeable = False
        at = at.base
    return at is None
