"""Codes by pursuit: orthogonal matching pursuit row by row; the lasso and iterative hard thresholding by gradient
steps on all rows at once."""

from __future__ import annotations

import numpy as np

from sparse_sae._kernels.reference.arrays import Array, csr_of, rows_of


def encode_omp(
    x: Array, w: Array, k: int, *, center: Array | None = None, simple: bool = False, num_threads: int = 1
) -> tuple[Array, Array, Array]:
    """Row by row: join, refit, subtract."""
    if not 1 <= k <= len(w):
        raise ValueError(f"k: {k}, expected 1 to {len(w)}")
    rows, _ = _checked(x, w, center)
    codes = np.zeros((len(rows), len(w)), w.dtype)
    for row, code in zip(rows, codes, strict=True):
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
    return csr_of(codes > 0, codes)


def _refit(x: Array, atoms: Array, z: Array, sweeps: int = 200) -> Array:
    """min |x - z atoms|^2 over z >= 0, by coordinate descent from z."""
    gram, target = atoms @ atoms.T, atoms @ x
    tolerance = (1e-6 if z.dtype == np.float32 else 1e-12) * np.abs(target).max()
    for _ in range(sweeps):
        before = z.copy()
        for i in range(len(z) - 1, -1, -1):
            z[i] = max(0, z[i] + (target[i] - gram[i] @ z) / gram[i, i])
        if np.abs(z - before).max() <= tolerance:
            break
    return z


def encode_lasso(
    x: Array,
    w: Array,
    penalty: float,
    *,
    rounds: int = 0,
    tolerance: float = 1e-5,
    center: Array | None = None,
    simple: bool = False,
    num_threads: int = 1,
) -> tuple[Array, Array, Array, Array]:
    """FISTA (Beck & Teboulle 2009), begun again where momentum leads astray (O'Donoghue & Candes 2015), until the
    duality gap of every row is small enough."""
    if not 0 < penalty < np.inf:
        raise ValueError(f"penalty: {penalty:f}, expected a finite number above 0")
    if rounds < 0 or not tolerance >= 0:
        raise ValueError(f"rounds: {rounds}, tolerance: {tolerance}, expected at least 0")
    rows, finite = _checked(x, w, center)
    v = penalty / 4
    z = np.zeros((len(rows), len(w)), w.dtype)
    gaps = np.zeros(len(rows), w.dtype)
    if z.size:
        z, gaps = _fista(rows, w, np.full_like(z, penalty), tolerance, z)
    for _ in range(rounds if z.size else 0):
        z, gaps = _fista(rows, w, (penalty * v / (v + z)).astype(w.dtype), tolerance, z)
    rounding = (1e-7 if w.dtype == np.float32 else 1e-15) * np.abs(rows @ w.T).max(
        axis=1, initial=0, keepdims=True
    )
    return (*csr_of((z > rounding) & finite[:, None], z), np.where(finite, gaps, 0).astype(w.dtype))


def _fista(x: Array, w: Array, price: Array, tolerance: float, z: Array) -> tuple[Array, Array]:
    """min 1/2 |x - z w|^2 + sum price z over z >= 0 from z, and the gaps over |x|^2 / 2."""
    gram, target = w @ w.T, x @ w.T
    step = 1 / max(float(np.linalg.eigvalsh(gram)[-1]), 1e-30)
    half = np.maximum((x * x).sum(axis=1) / 2, np.finfo(w.dtype).tiny)
    y, t = z, np.ones((len(x), 1))
    gap = np.zeros(len(x), w.dtype)
    for i in range(20_000):
        if i % 20 == 0:
            left = x - z @ w
            products = left @ w.T
            feasible = np.where(products > price, price / np.where(products > price, products, 1), 1)
            s = feasible.min(axis=1)
            gap = (
                (left * left).sum(axis=1) * (1 - s) ** 2 / 2
                + (z * (price - s[:, None] * products)).sum(axis=1)
            ) / half
            if (gap <= tolerance).all():
                break
        new = np.maximum(y - step * (y @ gram - target + price), 0)
        astray = ((y - new) * (new - z)).sum(axis=1, keepdims=True) > 0
        t = np.where(astray, 1, t)
        t_new = (1 + np.sqrt(1 + 4 * t * t)) / 2
        y = (new + np.where(astray, 0, (t - 1) / t_new) * (new - z)).astype(w.dtype)
        z, t = new.astype(w.dtype), t_new
    return z, np.maximum(gap, 0)


def encode_iht(
    x: Array,
    w: Array,
    k: int,
    *,
    step: float,
    n_steps: int = 60,
    center: Array | None = None,
    simple: bool = False,
    num_threads: int = 1,
) -> tuple[Array, Array, Array]:
    """A gradient step, keep the k largest positive elements, again; then a refit on these."""
    if not 1 <= k <= len(w):
        raise ValueError(f"k: {k}, expected 1 to {len(w)}")
    if n_steps < 1:
        raise ValueError(f"n_steps: {n_steps}, expected at least 1")
    if not 0 < step <= 1:
        raise ValueError(f"step: {step:f}, expected above 0, at most 1")
    rows, finite = _checked(x, w, center)
    z = before = np.zeros((len(rows), len(w)), w.dtype)
    for i in range(n_steps):
        ahead = z + w.dtype.type(i / (i + 3)) * (z - before)
        score = np.maximum(ahead + w.dtype.type(step) * ((rows - ahead @ w) @ w.T), 0)
        chosen = np.argsort(-score, axis=1, kind="stable")[:, :k]
        before, z = z, np.zeros_like(z)
        np.put_along_axis(z, chosen, np.take_along_axis(score, chosen, axis=1), axis=1)
    for row, code in zip(rows, z, strict=True):
        support = np.flatnonzero(code)
        if len(support):
            code[support] = _refit(row, w[support], code[support], sweeps=1000)
    return csr_of((z > 0) & finite[:, None], z)


def _checked(x: Array, w: Array, center: Array | None) -> tuple[Array, Array]:
    """The rows, those that are not finite as zeros, and which are finite."""
    squared = (w * w).sum(axis=1)
    wrong = np.flatnonzero((squared != 0) & ~(np.abs(squared - 1) < 1e-3))
    if len(wrong):
        norm = float(np.sqrt(squared[wrong[0]]))
        raise ValueError(f"w: row {wrong[0]} has norm {norm:f}, expected 1 or 0")
    rows = rows_of(x, w, center)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite((rows * rows).sum(axis=1))
    return np.where(finite[:, None], rows, 0).astype(w.dtype), finite
