"""Random problems for kernels, and the float64 answers they are held against."""

from __future__ import annotations

from typing import Any

import numpy as np
from watch import Broken


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
