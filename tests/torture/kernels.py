"""Kernels on random shapes and values, at every level this CPU has, held against plain float64 products.

Values are ordinary, small integers (all ties), huge, tiny, or sprinkled with NaN, infinities and denormals. Whatever
they are, the fast way gives the bits of the simple one and of any number of threads; where they are finite, the codes
are those of the float64 oracle up to the rounding of a dot product.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from watch import Broken

from sparse_sae import _kernels

LEVELS = _kernels.loadable_levels()
SIZES = [0, 1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33, 48, 64, 97, 130, 260]


def values(rng: np.random.Generator, kind: str, dtype: Any, *shape: int) -> Any:
    a = rng.standard_normal(shape)
    if kind == "integers":
        a = rng.integers(-2, 3, shape).astype(np.float64)
    elif kind == "huge":
        a *= 10.0 ** rng.uniform(0, 17)
    elif kind == "tiny":
        a *= 10.0 ** rng.uniform(-44, 0)
    elif kind == "outliers":
        a *= np.where(rng.random(shape) < 0.02, 1e4, 1)
    elif kind == "special" and a.size:
        special = np.array([np.nan, np.inf, -np.inf, 1e-42, -0.0, 3e38])
        a = np.where(rng.random(shape) < 0.01, rng.choice(special, shape), a)
    with np.errstate(over="ignore"):
        return a.astype(dtype)


def same(one: Any, other: Any, what: str, *, other_code: bool = False) -> None:
    """To the bit. Results of two pieces of code may hold different NaNs: of two that are added, a processor keeps the
    sign and payload of its first operand, and which one that is, is the compiler's choice each time it inlines."""
    for a, b in zip(one[:3], other[:3], strict=True):
        if other_code and a.dtype.kind == "f":
            a, b = (np.where(np.isnan(v), v.dtype.type(np.nan), v) for v in (a, b))
        if a.dtype != b.dtype or a.tobytes() != b.tobytes():
            raise Broken(f"{what}: not the same bits")


def pick(rng: np.random.Generator, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


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
        part = pick(rng, [topk, threshold, batch_topk, products, update])
        part(rng, kernels, x, w, b, center, threads, f"{level} {np.dtype(dtype)} {kind} N {n} D {d} M {m}")
    return f"{part.__name__} at {level}"


def oracle(x: Any, w: Any, b: Any, center: Any) -> tuple[Any, Any]:
    """Pre-activations in float64 and how far rounding may take those of w's own type from them."""
    rows = x.astype(np.float64) - (0 if center is None else center.astype(np.float64))
    wide = w.astype(np.float64)
    bias = np.zeros(len(w)) if b is None else b.astype(np.float64)
    info = np.finfo(w.dtype)
    size = np.abs(x).astype(np.float64) + (0 if center is None else np.abs(center.astype(np.float64)))
    reach = size @ np.abs(wide).T + np.abs(bias)
    tolerance = (w.shape[1] + 8) * (float(info.eps) * reach + float(info.tiny))
    tolerance = np.where(reach < float(info.max) / 8, tolerance, np.inf)  # sums may overflow on the way
    return rows @ wide.T + bias, tolerance


def dense(codes: Any, m: int) -> Any:
    out = np.full((len(codes[0]) - 1, m), np.nan)
    rows = np.repeat(np.arange(len(out)), np.diff(codes[0]))
    out[rows, codes[1]] = codes[2]
    return out


def check_values(codes: Any, pre: Any, tolerance: Any, what: str) -> Any:
    """The mask of what was chosen, after looking at its values and its order."""
    got = dense(codes, pre.shape[1])
    chosen = ~np.isnan(got)
    if chosen.sum() != len(codes[1]) or not (np.isnan(codes[2]).sum() == 0):
        raise Broken(f"{what}: a latent twice, or NaN among the codes")
    known = chosen & np.isfinite(pre) & np.isfinite(tolerance)
    if not (np.abs(got - pre)[known] <= tolerance[known]).all():
        raise Broken(f"{what}: a value is farther from the oracle than rounding explains")
    return chosen


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


def codes_of(rng: Any, n: int, m: int, dtype: Any, kind: str) -> tuple[Any, Any, Any]:
    mask = rng.random((n, m)) < pick(rng, [0.0, 0.02, 0.2, 1.0])
    indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int32)
    indices = np.nonzero(mask)[1].astype(np.int32)
    return indptr, indices, values(rng, kind, dtype, len(indices))


def close(got: Any, want: Any, reach: Any, terms: int, what: str) -> None:
    info = np.finfo(got.dtype)
    tolerance = (terms + 8) * (float(info.eps) * reach + float(info.tiny))
    sure = np.isfinite(want) & (reach < float(info.max) / 8)
    if not (np.abs(got - want)[sure] <= tolerance[sure]).all():
        raise Broken(f"{what}: farther from the oracle than rounding explains")


def products(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    n, m = len(x), len(w)
    indptr, indices, z = codes_of(rng, n, m, w.dtype, "ordinary")
    z64 = np.nan_to_num(dense((indptr, indices, z), m), nan=0.0)
    wide, rows = w.astype(np.float64), x.astype(np.float64)
    finite = bool(np.isfinite(wide).all() and np.isfinite(rows).all())
    for run, want, reach, terms in [
        (lambda t: kernels.decode(indptr, indices, z, w, num_threads=t), z64 @ wide, abs(z64) @ abs(wide), m),
        (lambda t: kernels.matmul_nt(x, w, num_threads=t), rows @ wide.T, abs(rows) @ abs(wide).T, w.shape[1]),
        (
            lambda t: kernels.weight_grad(indptr, indices, z, x, m, num_threads=t) if n else w * 0,
            z64.T @ rows if n else wide * 0, abs(z64).T @ abs(rows) if n else abs(wide) * 0, max(1, n),
        ),
    ]:  # fmt: skip
        got = run(threads)
        if got.tobytes() != run(1).tobytes():
            raise Broken(f"products {what}: {threads} threads give other bits")
        if finite:
            close(got, want, reach, terms, f"products {what}")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if kernels.first_nonfinite_row(x, num_threads=threads) != (bad[0] if len(bad) else -1):
        raise Broken(f"first_nonfinite_row {what}")


def update(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    n, m = len(x), len(w)
    indptr, indices, z = codes_of(rng, n, m, w.dtype, "ordinary")
    if not n:
        return
    how: Any = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": int(rng.integers(1, 100))}
    unit = bool(rng.random() < 0.5)
    w0, m0, v0 = w.copy(), np.zeros_like(w), np.zeros_like(w)
    w1, m1, v1 = w.copy(), np.zeros_like(w), np.zeros_like(w)
    grad = kernels.weight_grad(indptr, indices, z, x, m, num_threads=threads)
    kernels.adam_rows(w0, m0, v0, grad, **how, unit_norm=unit)
    one = {"w": w1, "m": m1, "v": v1, "values": z, "dense": x, "unit_norm": unit}
    again = {**one, "w": w.copy(), "m": np.zeros_like(w), "v": np.zeros_like(w)}
    kernels.update_rows([one], indptr, indices, m, **how, num_threads=threads)
    kernels.update_rows([again], indptr, indices, m, **how, num_threads=1)
    same((w1, m1, v1), (again["w"], again["m"], again["v"]), f"update_rows {what} {threads=}")
    same((w0, m0, v0), (w1, m1, v1), f"update_rows beside weight_grad and adam_rows {what}", other_code=True)
