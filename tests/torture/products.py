"""Sums over codes, updates of weights, and rows that are gathered: part of the attack on kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from values import close, codes_of, dense, pick, same
from watch import Broken


def products(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    n, m = len(x), len(w)
    indptr, indices, z = codes_of(rng, n, m, w.dtype, "ordinary")
    z64 = np.nan_to_num(dense((indptr, indices, z), m), nan=0.0)
    wide, rows = w.astype(np.float64), x.astype(np.float64)
    finite = bool(np.isfinite(wide).all() and np.isfinite(rows).all())
    for run, want, reach, terms in [
        (lambda t: kernels.decode(indptr, indices, z, w, num_threads=t), z64 @ wide, abs(z64) @ abs(wide), m),
        (
            lambda t: kernels.matmul_nt(x, w, num_threads=t),
            rows @ wide.T,
            abs(rows) @ abs(wide).T,
            w.shape[1],
        ),
        (
            lambda t: kernels.weight_grad(indptr, indices, z, x, m, num_threads=t) if n else w * 0,
            z64.T @ rows if n else wide * 0,
            abs(z64).T @ abs(rows) if n else abs(wide) * 0,
            max(1, n),
        ),
    ]:
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


def residual(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    n, (m, d) = len(x), w.shape
    indptr, indices, z = codes_of(rng, n, m, w.dtype, "ordinary")
    got = kernels.decode_residual(indptr, indices, z, w, x, num_threads=threads)
    same(got, kernels.decode_residual(indptr, indices, z, w, x, num_threads=1), f"residual {what} {threads=}")
    grad = kernels.code_grad(indptr, indices, x, w, num_threads=threads)
    same((grad,), (kernels.code_grad(indptr, indices, x, w, num_threads=1),), f"code_grad {what} {threads=}")
    sums = kernels.latent_sums(indptr, indices, z, m)
    z64 = np.nan_to_num(dense((indptr, indices, z), m), nan=0.0)
    close(sums, z64.sum(axis=0), abs(z64).sum(axis=0), max(1, n), f"latent_sums {what}")
    wide, target = w.astype(np.float64), x.astype(np.float64)
    if not (np.isfinite(wide).all() and np.isfinite(target).all()):
        return
    rows = np.repeat(np.arange(n), np.diff(indptr))
    close(got[0], z64 @ wide - target, abs(z64) @ abs(wide) + abs(target), m + 1, f"residual {what}")
    left = got[0].astype(np.float64)  # what follows starts from the residual as it was rounded
    for name, found, vectors in (("projected", got[1], left), ("code_grad", grad, target)):
        want = (vectors @ wide.T)[rows, indices]
        close(found, want, (abs(vectors) @ abs(wide).T)[rows, indices], d, f"{name} {what}")
    close(got[2], (left**2).sum(axis=1), (left**2).sum(axis=1), d, f"squared {what}")


def squared_norm(
    rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str
) -> None:
    n, m = len(x), len(w)
    if not n:
        return
    indptr, indices, z = codes_of(rng, n, m, w.dtype, "ordinary")
    update = {"w": w, "m": w.copy(), "v": w.copy(), "values": z, "dense": x, "unit_norm": False}
    got = kernels.grad_squared_norm([update], indptr, indices, m, num_threads=threads)
    if (
        np.float64(got).tobytes()
        != np.float64(kernels.grad_squared_norm([update], indptr, indices, m)).tobytes()
    ):
        raise Broken(f"grad_squared_norm {what}: {threads} threads give other bits")
    grad = kernels.weight_grad(indptr, indices, z, x, m).astype(np.float64)
    want = (grad**2).sum()
    if np.isfinite(want) and want < float(np.finfo(w.dtype).max) / 8:
        slack = (w.shape[1] + 8) * (
            float(np.finfo(w.dtype).eps) * want + grad.size * float(np.finfo(w.dtype).tiny)
        )
        # Both add all squares in double, in different orders.
        slack += grad.size * float(np.finfo(np.float64).eps) * want
        if not abs(got - want) <= slack:
            raise Broken(f"grad_squared_norm {what}: {got}, expected {want}")


def gather(rng: Any, kernels: Any, x: Any, w: Any, b: Any, center: Any, threads: int, what: str) -> None:
    n, d = x.shape
    stored, scale = x, None
    choice = pick(rng, ["same", "float16", "int8", "bfloat16"])
    if choice == "float16":
        stored = x.astype(np.float16)
    elif choice == "int8":
        stored = rng.integers(-127, 128, x.shape).astype(np.int8)
        scale = np.abs(x[:, 0]).astype(np.float32)
    elif choice == "bfloat16":
        stored = (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    index = rng.integers(0, n, int(rng.integers(0, 3 * n + 1))) if n else np.zeros(0, np.int64)
    factor = w[0] if rng.random() < 0.5 else None
    outs = []
    for several in (1, threads):
        out = np.full((len(index), d + 3), 7, w.dtype)[:, 1 : 1 + d]
        bad = kernels.gather(out, stored, index, scale, center=center, factor=factor, num_threads=several)
        outs.append((np.ascontiguousarray(out), np.array([bad])))
        if not (out.base[:, :1] == 7).all() or not (out.base[:, 1 + d :] == 7).all():
            raise Broken(f"gather {what} {choice}: it wrote beside its columns")
    same(outs[0], outs[1], f"gather {what} {choice} {threads=}")
    rows = stored[index]
    rows = ((rows.astype(np.uint32) << 16).view(np.float32) if choice == "bfloat16" else rows).astype(w.dtype)
    rows = rows if scale is None else rows * scale[index][:, None].astype(w.dtype)
    rows = rows if center is None else rows - center
    rows = rows if factor is None else rows * factor
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    same(
        (outs[1][0], outs[1][1]),
        (rows, np.array([wrong[0] if len(wrong) else -1])),
        f"gather {what} {choice} beside NumPy",
        other_code=True,
    )
