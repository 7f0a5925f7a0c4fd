"""Gradients of weights, latent by latent, and Adam on rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparse_sae._kernels.reference.arrays import Array, matrix_of


def weight_grad(
    indptr: Array, indices: Array, values: Array, dense: Array, n_latents: int, *, num_threads: int = 1
) -> Array:
    """Transposed sparse times dense, the rows of dense repeated as often as the codes need them."""
    n_rows = len(indptr) - 1
    out: Array = (
        matrix_of(indptr, indices, values, n_latents).T @ dense[np.arange(n_rows) % max(len(dense), 1)]
    )
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
    w: Array,
    m: Array,
    v: Array,
    grad: Array,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    unit_norm: bool = False,
    scale: float = 1.0,
    num_threads: int = 1,
) -> None:
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
    updates: list[dict[str, Any]],
    indptr: Array,
    indices: Array,
    n_latents: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
    scale: float = 1.0,
    num_threads: int = 1,
) -> None:
    """One gradient matrix after the other."""
    for u in updates:
        grad = _gradient(u, indptr, indices, n_latents)
        adam_rows(
            u["w"],
            u["m"],
            u["v"],
            grad,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            step=step,
            unit_norm=bool(u.get("unit_norm")),
            scale=scale,
        )


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
