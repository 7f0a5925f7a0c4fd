"""Kernels on random shapes and values, at every level this CPU has, held against plain float64 products.

Values are ordinary, small integers (all ties), huge, tiny, or sprinkled with NaN, infinities and denormals. Whatever
they are, the fast way gives the bits of the simple one and of any number of threads; where they are finite, the codes
are those of the float64 oracle up to the rounding of a dot product.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from products import gather, products, residual, squared_norm, update
from values import check_values, dense, oracle, pick, same, values
from watch import Broken

from sparse_sae import _kernels

LEVELS = _kernels.loadable_levels()
SIZES = [0, 1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33, 48, 64, 97, 130, 260]


def case(rng: np.random.Generator, scratch: Path) -> str:
    level, dtype = pick(rng, LEVELS), pick(rng, [np.float32, np.float64])
    kernels = _kernels.load(level)
    kind = pick(rng, ["ordinary", "ordinary", "integers", "huge", "tiny", "outliers", "special"])
    n, d, m = pick(rng, SIZES), max(1, pick(rng, SIZES)), max(1, pick(rng, [*SIZES, 400, 1500]))
    x, w = values(rng, kind, dtype, n, d), values(rng, kind, dtype, m, d)
    b = values(rng, kind, dtype, m) if rng.random() < 0.7 else None
    center = values(rng, kind, dtype, d) if rng.random() < 0.5 else None
    threads = int(rng.integers(2, 9))
    with np.errstate(all="ignore"):
        part = pick(rng, PARTS)
        part(rng, kernels, x, w, b, center, threads, f"{level} {np.dtype(dtype)} {kind} N {n} D {d} M {m}")
    return f"{part.__name__} at {level}"


def topk(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    k = min(int(pick(rng, [1, 2, 8, 32, len(w)])), len(w))
    absolute, relu = bool(rng.random() < 0.2), bool(rng.random() < 0.7)
    options = {"center": center, "absolute": absolute, "relu": relu}
    what = f"encode_topk {what} k {k} {absolute=} {relu=}"
    want = kernels.encode_topk(x, w, b, k, simple=True, **options)
    screens = ["auto", "float"] + (["int8"] if w.dtype == np.float32 and not absolute else [])
    for screen in screens:
        got = kernels.encode_topk(x, w, b, k, screen=screen, num_threads=threads, **options)
        same(got, want, f"{what} {screen=} {threads=}")
    pre, tolerance = oracle(x, w, b, center)
    chosen = check_values(want, pre, tolerance, what)
    key = np.abs(pre) if absolute else pre
    for n in np.flatnonzero(np.isfinite(pre).all(axis=1) & np.isfinite(tolerance).all(axis=1)):
        # A latent that was left although it is above the k-th largest by more than rounding would be wrong.
        cut = np.sort(key[n])[-k]
        missed = (key[n] > cut + 2 * tolerance[n].max()) & ~chosen[n]
        missed &= (pre[n] if relu else np.abs(pre[n])) > tolerance[n]  # zeros are dropped
        if missed.any() or (key[n][chosen[n]] < cut - 2 * tolerance[n].max()).any() or chosen[n].sum() > k:
            raise Broken(f"{what}: row {n} has another choice than the oracle")


def threshold(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    limit = values(rng, "ordinary", w.dtype, len(w)) * 3 if rng.random() < 0.6 else None
    want = kernels.encode_threshold(x, w, b, limit, center=center)
    for screen in ["float"] + (["int8"] if w.dtype == np.float32 else []):
        got = kernels.encode_threshold(x, w, b, limit, center=center, screen=screen, num_threads=threads)
        same(got, want, f"encode_threshold {what} {screen=} {threads=}")
    pre, tolerance = oracle(x, w, b, center)
    chosen = check_values(want, pre, tolerance, f"encode_threshold {what}")
    over = pre - (0 if limit is None else limit.astype(np.float64))
    sure = np.isfinite(pre) & np.isfinite(tolerance) & (np.abs(over) > tolerance) & (np.abs(pre) > tolerance)
    if (chosen[sure] != (over > 0)[sure]).any():
        raise Broken(f"encode_threshold {what}: another choice than the oracle")


def batch_topk(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    total = int(pick(rng, [1, 5, max(1, len(x)), 4 * len(x) + 1, x.shape[0] * len(w) + 3]))
    want = kernels.encode_batch_topk(x, w, b, total, center=center)
    for several in (2, threads):
        got = kernels.encode_batch_topk(x, w, b, total, center=center, num_threads=several)
        same(got, want, f"encode_batch_topk {what} {total=} num_threads={several}")
    pre, tolerance = oracle(x, w, b, center)
    chosen = check_values(want, pre, tolerance, f"encode_batch_topk {what}")
    if not (np.isfinite(pre).all() and np.isfinite(tolerance).all()) or not pre.size:
        return
    slack = 2 * tolerance.max()
    cut = max(0.0, np.sort(pre, axis=None)[-min(total, pre.size)])
    if (~chosen & (pre > cut + slack)).any() or (chosen & (pre < cut - slack)).any() or chosen.sum() > total:
        raise Broken(f"encode_batch_topk {what} {total=}: another choice than the oracle")


def topk_aux(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    m = len(w)
    dead = rng.random(m) < pick(rng, [0.05, 0.5, 1.0])
    dead[int(rng.integers(m))] = True
    k, aux_k = (min(int(pick(rng, [1, 4, 32, most])), most) for most in (m, int(dead.sum())))
    what = f"encode_topk_aux {what} k {k} aux_k {aux_k} dead {dead.sum()}"
    for screen in ["float"] + (["int8"] if w.dtype == np.float32 else []):
        options: Any = {"center": center, "screen": screen}
        got = kernels.encode_topk_aux(x, w, b, k, dead, aux_k, num_threads=threads, **options)
        one = kernels.encode_topk_aux(x, w, b, k, dead, aux_k, num_threads=1, **options)
        same(got[:3], one[:3], f"{what} {screen=} {threads=}")
        same(got[3:6], one[3:6], f"{what} {screen=} {threads=}, the auxiliary ones")
        same(
            got,
            kernels.encode_topk(x, w, b, k, simple=True, center=center),
            f"{what} {screen=}, the main ones",
        )
        pre, tolerance = oracle(x, w, b, center)
        chosen = check_values(got[3:6], pre, tolerance, what)
        if chosen[:, ~dead].any() or (chosen.sum(axis=1) > aux_k).any():
            raise Broken(f"{what}: a latent that is not dead, or too many")
        key = np.where(dead, pre, -np.inf)
        for n in np.flatnonzero(np.isfinite(pre).all(axis=1) & np.isfinite(tolerance).all(axis=1)):
            cut, slack = np.sort(key[n])[-aux_k], 2 * tolerance[n].max()
            missed = (key[n] > cut + slack) & ~chosen[n] & (np.abs(pre[n]) > tolerance[n])
            if missed.any() or (key[n][chosen[n]] < cut - slack).any():
                raise Broken(f"{what}: row {n} has another choice than the oracle")


def kept(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    """Selections by a copy of the weights in int8 that is kept between calls."""
    if w.dtype != np.float32:
        return
    w = w.copy()
    k = min(int(pick(rng, [1, 2, 8, 32])), len(w))
    limit = values(rng, "ordinary", w.dtype, len(w)) * 3 if rng.random() < 0.6 else None
    options: Any = {"center": center, "relu": bool(rng.random() < 0.7)}
    want = kernels.encode_topk(x, w, b, k, simple=True, **options)
    over = kernels.encode_threshold(x, w, b, limit, center=center, screen="float")
    w.flags.writeable = False
    handle, _ = kernels.keep_int8(w, sample=pick(rng, [None, x]), num_threads=threads)
    for screen in ("auto", "int8"):
        got = kernels.encode_topk(x, w, b, k, screen=screen, num_threads=threads, **options)
        same(got, want, f"encode_topk from a kept copy {what} k {k} {screen=} {threads=}")
        got = kernels.encode_threshold(x, w, b, limit, center=center, screen=screen, num_threads=threads)
        same(got, over, f"encode_threshold from a kept copy {what} {screen=} {threads=}")
    del handle


def omp(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    with np.errstate(all="ignore"):
        wide = np.nan_to_num(w.astype(np.float64), nan=1.0, posinf=1.0, neginf=-1.0)
        wide /= np.abs(wide).max(axis=1, keepdims=True) + (np.abs(wide).max(axis=1, keepdims=True) == 0)
        length = np.linalg.norm(wide, axis=1, keepdims=True)
        atoms = np.where(length > 0, wide / np.where(length > 0, length, 1), 0).astype(w.dtype)
    k = min(int(pick(rng, [1, 2, 6])), len(w))
    what = f"encode_omp {what} k {k}"
    want = kernels.encode_omp(x, atoms, k, center=center, simple=True)
    same(kernels.encode_omp(x, atoms, k, center=center, num_threads=threads), want, f"{what} {threads=}")
    if (np.diff(want[0]) > k).any() or not (want[2] > 0).all():
        raise Broken(f"{what}: more than k codes, or one that is not positive")
    rows = x.astype(np.float64) - (0 if center is None else center.astype(np.float64))
    before = np.linalg.norm(rows, axis=1)
    left = np.linalg.norm(
        np.nan_to_num(dense(want, len(w)), nan=0.0) @ atoms.astype(np.float64) - rows, axis=1
    )
    sure = np.isfinite(before) & (before < np.sqrt(float(np.finfo(w.dtype).max)) / 8)
    slack = 1e-3 * (before if center is None else before + np.linalg.norm(center.astype(np.float64)))
    if not (left <= before + slack + float(np.finfo(w.dtype).tiny))[sure].all():
        raise Broken(f"{what}: the codes reconstruct worse than none")


def lasso(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    """Both ways of the lasso and of hard thresholding, over atoms like those of `omp`."""
    with np.errstate(all="ignore"):
        wide = np.nan_to_num(w.astype(np.float64), nan=1.0, posinf=1.0, neginf=-1.0)
        wide /= np.abs(wide).max(axis=1, keepdims=True) + (np.abs(wide).max(axis=1, keepdims=True) == 0)
        length = np.linalg.norm(wide, axis=1, keepdims=True)
        atoms = np.where(length > 0, wide / np.where(length > 0, length, 1), 0).astype(w.dtype)
    penalty, rounds = float(pick(rng, [1e-3, 0.3, 3.0])), int(pick(rng, [0, 1]))
    how = {"rounds": rounds, "center": center}
    want = kernels.encode_lasso(x, atoms, penalty, simple=True, **how)
    got = kernels.encode_lasso(x, atoms, penalty, num_threads=threads, **how)
    same(got, want, f"encode_lasso {what} {penalty=} {rounds=} {threads=}")
    if not (want[2] > 0).all() or not (want[3] >= 0).all():
        raise Broken(f"encode_lasso {what}: a code that is not positive, or a gap below zero")
    k, step = min(int(pick(rng, [1, 6])), len(w)), float(pick(rng, [1.0, 0.5, 1 / len(w)]))
    want = kernels.encode_iht(x, atoms, k, step=step, n_steps=12, center=center, simple=True)
    got = kernels.encode_iht(x, atoms, k, step=step, n_steps=12, center=center, num_threads=threads)
    same(got, want, f"encode_iht {what} {k=} {step=} {threads=}")


PARTS = [
    topk,
    threshold,
    batch_topk,
    topk_aux,
    kept,
    omp,
    lasso,
    products,
    residual,
    squared_norm,
    update,
    gather,
]
