"""Encoding by every level: `pytest benchmarks -o addopts= --benchmark-group-by=group,param:problem`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def equal(got: Any, want: Any) -> None:
    for a, b in zip(got[:2], want[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(got[2], want[2], atol=1e-4)


@pytest.mark.benchmark(group="encode")
def test_topk(benchmark: Any, kernels: Any, problem: Any, codes: Any, threads: int) -> None:
    got = benchmark(kernels.encode_topk, problem.x, problem.w, problem.b, problem.size.k, num_threads=threads)
    equal(got, codes)


@pytest.mark.benchmark(group="encode")
def test_topk_with_half_dead(benchmark: Any, kernels: Any, problem: Any, codes: Any, threads: int) -> None:
    dead = np.arange(problem.size.m) % 2 == 0
    args = (problem.x, problem.w, problem.b, problem.size.k, dead, problem.size.d // 2)
    got = benchmark(kernels.encode_topk_aux, *args, num_threads=threads)
    equal(got, codes)
    assert dead[got[4]].all()


@pytest.mark.benchmark(group="encode")
def test_threshold(benchmark: Any, kernels: Any, problem: Any, codes: Any, threads: int) -> None:
    threshold = np.full(problem.size.m, np.median(codes[2]), np.float32)
    got = benchmark(kernels.encode_threshold, problem.x, problem.w, problem.b, threshold, num_threads=threads)
    assert (got[2] > threshold[0]).all()
    assert len(got[2]) >= (codes[2] > threshold[0]).sum()


@pytest.mark.benchmark(group="encode")
def test_product_by_eigen(benchmark: Any, kernels: Any, problem: Any, threads: int) -> None:
    got = benchmark(kernels.matmul_nt, problem.x, problem.w, num_threads=threads)
    np.testing.assert_allclose(got[:3], problem.x[:3] @ problem.w.T, atol=1e-4)


@pytest.mark.benchmark(group="encode")
def test_product_by_numpy(benchmark: Any, problem: Any) -> None:
    assert benchmark(lambda: problem.x @ problem.w.T).shape == (problem.size.n, problem.size.m)
