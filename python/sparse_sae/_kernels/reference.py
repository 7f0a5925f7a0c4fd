"""The kernels in NumPy: slow, plain, and the meaning the compiled ones are tested against.

Signatures and shapes are those of `__init__.pyi`. `num_threads` is accepted for the contract's sake; NumPy has
no threads of ours to set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

Array = npt.NDArray[Any]

version = np.__version__
openmp = False
int8 = False
compiler = "numpy"
eigen = None


def _rows(x: Array, like: Array, center: Array | None) -> Array:
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    x = x.astype(like.dtype)
    return x if center is None else x - center


def _pre(x: Array, w: Array, b: Array | None, center: Array | None, latents: Array | None) -> Array:
    if latents is not None:
        w, b = w[latents], None if b is None else b[latents]
    pre: Array = _rows(x, w, center) @ w.T
    return pre if b is None else pre + b


def _csr(kept: Array, values: Array) -> tuple[Array, Array, Array]:
    """Codes from a (N, M) mask and the values below it."""
    kept = kept & (values != 0) & ~np.isnan(values)
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))]).astype(np.int32)
    return indptr, np.nonzero(kept)[1].astype(np.int32), values[kept]


def encode_topk(
    x: Array, w: Array, b: Array | None, k: int, *, center: Array | None = None, latents: Array | None = None,
    absolute: bool = False, relu: bool = True, simple: bool = False, screen: str = "auto", num_threads: int = 1,
) -> tuple[Array, Array, Array, int]:  # fmt: skip
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
    return (*_csr(kept, pre), 0)


def encode_topk_aux(
    x: Array, w: Array, b: Array | None, k: int, dead: Array, aux_k: int, *, center: Array | None = None,
    absolute: bool = False, relu: bool = True, screen: str = "auto", num_threads: int = 1,
) -> tuple[Array, Array, Array, Array, Array, Array, int]:  # fmt: skip
    """Two calls."""
    main = encode_topk(x, w, b, k, center=center, absolute=absolute, relu=relu)
    latents = np.flatnonzero(dead).astype(np.int32)
    aux = _topk(x, w, b, aux_k, center, latents, absolute=False, relu=False)
    return (*main[:3], aux[0], latents[aux[1]], aux[2], 0)


def encode_threshold(
    x: Array, w: Array, b: Array | None, threshold: Array | None, *, center: Array | None = None,
    latents: Array | None = None, screen: str = "auto", num_threads: int = 1,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Compare every pre-activation."""
    pre = _pre(x, w, b, center, latents)
    if threshold is not None and latents is not None:
        threshold = threshold[latents]
    return _csr(pre > (0 if threshold is None else threshold), pre)


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
    return _csr(kept.reshape(pre.shape) & (pre > 0), pre)


def encode_omp(
    x: Array, w: Array, k: int, *, center: Array | None = None, simple: bool = False, num_threads: int = 1
) -> tuple[Array, Array, Array]:
    """Row by row: join, refit, subtract."""
    squared = (w * w).sum(axis=1)
    wrong = np.flatnonzero((squared != 0) & ~(np.abs(squared - 1) < 1e-3))
    if not 1 <= k <= len(w):
        raise ValueError(f"k: {k}, expected 1 to {len(w)}")
    if len(wrong):
        norm = float(np.sqrt(squared[wrong[0]]))
        raise ValueError(f"w: row {wrong[0]} has norm {norm:f}, expected 1 or 0")
    rows = _rows(x, w, center)
    codes = np.zeros((len(rows), len(w)), w.dtype)
    for row, code in zip(rows, codes, strict=True):
        if not np.isfinite((row * row).sum()):
            continue
        chosen: list[int] = []
        z, residual = np.zeros(0, w.dtype), row
        while len(chosen) < k:
            gain = w @ residual
            gain[chosen] = -np.inf
            best = int(gain.argmax())
            if not gain[best] > 0:
                break
            chosen.append(best)
            z = _refit(row, w[chosen], np.append(z, w.dtype.type(0)))
            residual = row - z @ w[chosen]
        code[chosen] = z
    return _csr(codes > 0, codes)


def _refit(x: Array, atoms: Array, z: Array) -> Array:
    """min |x - z atoms|^2 over z >= 0, by coordinate descent from z."""
    gram, target = atoms @ atoms.T, atoms @ x
    tolerance = (1e-6 if z.dtype == np.float32 else 1e-12) * np.abs(target).max()
    for _ in range(200):
        before = z.copy()
        for i in range(len(z) - 1, -1, -1):
            z[i] = max(0, z[i] + (target[i] - gram[i] @ z) / gram[i, i])
        if np.abs(z - before).max() <= tolerance:
            break
    return z


def _matrix(indptr: Array, indices: Array, values: Array, n_latents: int) -> Any:
    return sparse.csr_array((values, indices, indptr), shape=(len(indptr) - 1, n_latents))


def decode(
    indptr: Array, indices: Array, values: Array, w: Array, bias: Array | None = None, *, num_threads: int = 1
) -> Array:
    """Sparse times dense."""
    out: Array = _matrix(indptr, indices, values, len(w)) @ w
    return out if bias is None else out + bias


def code_grad(indptr: Array, indices: Array, grad: Array, w: Array, *, num_threads: int = 1) -> Array:
    """One inner product an entry."""
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    out: Array = np.einsum("ed,ed->e", grad[rows], w[indices])
    return out


def decode_residual(
    indptr: Array, indices: Array, values: Array, w: Array, target: Array, *, num_threads: int = 1
) -> tuple[Array, Array, Array]:
    """Decode, subtract, project."""
    residual = decode(indptr, indices, values, w) - target
    return residual, code_grad(indptr, indices, residual, w), (residual**2).sum(axis=1)


def matmul_nt(x: Array, w: Array, *, num_threads: int = 1) -> Array:
    """x @ w.T"""
    out: Array = x @ w.T
    return out


def weight_grad(
    indptr: Array, indices: Array, values: Array, dense: Array, n_latents: int, *, num_threads: int = 1
) -> Array:
    """Transposed sparse times dense, the rows of dense repeated as often as the codes need them."""
    n_rows = len(indptr) - 1
    out: Array = _matrix(indptr, indices, values, n_latents).T @ dense[np.arange(n_rows) % max(len(dense), 1)]
    return out


def latent_sums(
    indptr: Array, indices: Array, values: Array, n_latents: int, *, num_threads: int = 1
) -> Array:
    """Column sums."""
    return np.bincount(indices, weights=values, minlength=n_latents).astype(values.dtype)


def _without_parallel(grad: Array, w: Array) -> Array:
    left: Array = grad - (grad * w).sum(axis=1, keepdims=True) * w
    return left


def adam_rows(
    w: Array, m: Array, v: Array, grad: Array, *, lr: float, beta1: float, beta2: float, eps: float, step: int,
    unit_norm: bool = False, scale: float = 1.0, num_threads: int = 1,
) -> None:  # fmt: skip
    """Kingma & Ba 2015, algorithm 1."""
    if unit_norm:
        grad = _without_parallel(grad, w)
    grad = grad * w.dtype.type(scale)
    m[:] = beta1 * m + (1 - beta1) * grad
    v[:] = beta2 * v + (1 - beta2) * grad**2
    w -= lr / (1 - beta1**step) * m / (np.sqrt(v / (1 - beta2**step)) + eps)
    if unit_norm:
        length = np.linalg.norm(w, axis=1, keepdims=True)
        w /= np.where(length > 0, length, 1)


def _gradient(update: dict[str, Any], indptr: Array, indices: Array, n_latents: int) -> Array:
    grad = weight_grad(indptr, indices, update["values"], update["dense"], n_latents)
    if update.get("along") is not None:
        grad = grad + update["along"][:, None] * update["w"]
    if update.get("outer") is not None:
        grad = grad + update["outer"][:, None] * update["common"]
    return grad


def update_rows(
    updates: list[dict[str, Any]], indptr: Array, indices: Array, n_latents: int, *, lr: float, beta1: float,
    beta2: float, eps: float, step: int, scale: float = 1.0, num_threads: int = 1,
) -> None:  # fmt: skip
    """One gradient matrix after the other."""
    for u in updates:
        grad = _gradient(u, indptr, indices, n_latents)
        adam_rows(
            u["w"], u["m"], u["v"], grad, lr=lr, beta1=beta1, beta2=beta2, eps=eps, step=step,
            unit_norm=bool(u.get("unit_norm")), scale=scale,
        )  # fmt: skip


def grad_squared_norm(
    updates: list[dict[str, Any]], indptr: Array, indices: Array, n_latents: int, *, num_threads: int = 1
) -> float:
    """Sum of squares."""
    total = 0.0
    for u in updates:
        grad = _gradient(u, indptr, indices, n_latents)
        if u.get("unit_norm"):
            grad = _without_parallel(grad, u["w"])
        total += float((grad.astype(np.float64) ** 2).sum())
    return total


def first_nonfinite_row(x: Array, *, num_threads: int = 1) -> int:
    """Look at every row."""
    bad = ~np.isfinite(_rows(x, x if x.dtype == np.float64 else np.empty(0, np.float32), None)).all(axis=1)
    return int(np.argmax(bad)) if bad.any() else -1


def screens() -> list[dict[str, Any]]:
    """There is one way, so nothing to choose."""
    return []


def keep_int8(w: Array, *, sample: Array | None = None, num_threads: int = 1) -> tuple[object, int]:
    """There is nothing to speed up."""
    if w.flags.writeable:
        raise ValueError("w: writeable, expected weights that cannot change meanwhile")
    return object(), 0


def gather(
    out: Array, x: Array, index: Array, scale: Array | None = None, *, center: Array | None = None,
    factor: Array | None = None, num_threads: int = 1,
) -> int:  # fmt: skip
    """Index, then one whole array after the other."""
    if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(x):
        raise IndexError(f"index: rows {index.min()} to {index.max()}, expected 0 to {len(x) - 1}")
    with np.errstate(over="ignore"):
        rows = _rows(x[index], out, None)
    if scale is not None:
        rows *= scale[index][:, None].astype(out.dtype)
    if center is not None:
        rows -= center
    if factor is not None:
        rows *= factor
    out[...] = rows
    bad = ~np.isfinite(rows).all(axis=1)
    return int(np.argmax(bad)) if bad.any() else -1
