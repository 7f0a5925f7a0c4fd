"""Decoding, gradients and updates by every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparse_sae._kernels import reference


@pytest.mark.benchmark(group="decode")
def test_decode(benchmark: Any, kernels: Any, problem: Any, codes: Any, threads: int) -> None:
    got = benchmark(kernels.decode, *codes, problem.w, num_threads=threads)
    np.testing.assert_allclose(got, reference.decode(*codes, problem.w), atol=1e-3)


@pytest.mark.benchmark(group="decode")
def test_decode_residual(benchmark: Any, kernels: Any, problem: Any, codes: Any, threads: int) -> None:
    got = benchmark(kernels.decode_residual, *codes, problem.w, problem.x, num_threads=threads)
    np.testing.assert_allclose(got[0], reference.decode(*codes, problem.w) - problem.x, atol=1e-3)


@pytest.mark.benchmark(group="decode")
def test_embedding_bag(benchmark: Any, problem: Any, codes: Any, threads: int) -> None:
    torch = pytest.importorskip("torch")
    torch.set_num_threads(threads)
    ids, starts, weights = (
        torch.from_numpy(codes[i].astype(t)) for i, t in ((1, "i8"), (0, "i8"), (2, "f4"))
    )
    table, bag = torch.from_numpy(problem.w), torch.nn.functional.embedding_bag
    got = benchmark(bag, ids, table, starts[:-1], mode="sum", per_sample_weights=weights)
    np.testing.assert_allclose(got.numpy(), reference.decode(*codes, problem.w), atol=1e-3)


@pytest.mark.benchmark(group="update")
def test_update_rows(benchmark: Any, kernels: Any, problem: Any, codes: Any, threads: int) -> None:
    w, m, v = problem.w.copy(), np.zeros_like(problem.w), np.zeros_like(problem.w)
    update = {"w": w, "m": m, "v": v, "values": codes[2], "dense": problem.x, "unit_norm": True}
    how = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": 1, "num_threads": threads}
    benchmark(kernels.update_rows, [update], codes[0], codes[1], problem.size.m, **how)
    np.testing.assert_allclose(np.linalg.norm(w, axis=1), 1, atol=1e-5)
    fired = np.unique(codes[1])
    assert (np.abs(m[fired]).sum(axis=1) > 0).all()


@pytest.mark.benchmark(group="update")
def test_weight_grad(benchmark: Any, kernels: Any, problem: Any, codes: Any, threads: int) -> None:
    got = benchmark(kernels.weight_grad, *codes, problem.x, problem.size.m, num_threads=threads)
    np.testing.assert_allclose(got, reference.weight_grad(*codes, problem.x, problem.size.m), atol=1e-2)
