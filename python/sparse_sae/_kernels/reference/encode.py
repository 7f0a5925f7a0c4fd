"""Affine map and selection."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparse_sae._kernels.reference.arrays import Array, csr_of, rows_of


def _pre(x: Array, w: Array, b: Array | None, center: Array | None, latents: Array | None) -> Array:
    if latents is not None:
        w, b = w[latents], None if b is None else b[latents]
    pre: Array = rows_of(x, w, center) @ w.T
    return pre if b is None else pre + b


def encode_topk(
    x: Array,
    w: Array,
    b: Array | None,
    k: int,
    *,
    center: Array | None = None,
    latents: Array | None = None,
    absolute: bool = False,
    relu: bool = True,
    simple: bool = False,
    screen: str = "auto",
    num_threads: int = 1,
) -> tuple[Array, Array, Array, int]:
    """Sort every row."""
    if k < 1:
        raise ValueError(f"k: {k}, expected at least 1")
    return _topk(x, w, b, k, center, latents, absolute, relu)


def _topk(
    x: Array,
    w: Array,
    b: Array | None,
    k: int,
    center: Array | None,
    latents: Array | None,
    absolute: bool,
    relu: bool,
) -> tuple[Array, Array, Array, int]:
    pre = _pre(x, w, b, center, latents)
    order = np.argsort(-(np.abs(pre) if absolute else pre), axis=1, kind="stable")[:, :k]  # NaN comes last
    kept = np.zeros(pre.shape, bool)
    np.put_along_axis(kept, order, True, axis=1)
    if relu:
        kept &= pre > 0
    return (*csr_of(kept, pre), 0)


def encode_topk_aux(
    x: Array,
    w: Array,
    b: Array | None,
    k: int,
    dead: Array,
    aux_k: int,
    *,
    center: Array | None = None,
    absolute: bool = False,
    relu: bool = True,
    screen: str = "auto",
    num_threads: int = 1,
) -> tuple[Array, Array, Array, Array, Array, Array, int]:
    """Two calls."""
    main = encode_topk(x, w, b, k, center=center, absolute=absolute, relu=relu)
    latents = np.flatnonzero(dead).astype(np.int32)
    aux = _topk(x, w, b, aux_k, center, latents, absolute=False, relu=False)
    return (*main[:3], aux[0], latents[aux[1]], aux[2], 0)


def encode_threshold(
    x: Array,
    w: Array,
    b: Array | None,
    threshold: Array | None,
    *,
    center: Array | None = None,
    latents: Array | None = None,
    screen: str = "auto",
    num_threads: int = 1,
) -> tuple[Array, Array, Array]:
    """Compare every pre-activation."""
    pre = _pre(x, w, b, center, latents)
    if threshold is not None and latents is not None:
        threshold = threshold[latents]
    return csr_of(pre > (0 if threshold is None else threshold), pre)


def encode_batch_topk(
    x: Array,
    w: Array,
    b: Array | None,
    total: int,
    *,
    center: Array | None = None,
    screen: str = "auto",
    num_threads: int = 1,
) -> tuple[Array, Array, Array]:
    """Sort the whole batch."""
    if total < 1:
        raise ValueError(f"total: {total}, expected at least 1")
    pre = _pre(x, w, b, center, None)
    order = np.argsort(-pre.ravel(), kind="stable")[:total]
    kept = np.zeros(pre.size, bool)
    kept[order] = True
    return csr_of(kept.reshape(pre.shape) & (pre > 0), pre)


def screens() -> list[dict[str, Any]]:
    """There is one way, so nothing to choose."""
    return []


def keep_int8(w: Array, *, sample: Array | None = None, num_threads: int = 1) -> tuple[object, int]:
    """There is nothing to speed up."""
    if w.flags.writeable:
        raise ValueError("w: writeable, expected weights that cannot change meanwhile")
    return object(), 0
