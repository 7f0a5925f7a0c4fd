"""One problem per size, shared by the suites."""

from __future__ import annotations

from typing import Any

import pytest
from sizes import CHOSEN, LEVELS, THREADS

from sparse_sae import _kernels
from sparse_sae.bench.tasks import Problem


@pytest.fixture(scope="session", params=CHOSEN)
def problem(request: Any) -> Problem:
    """Rows, weights and codes of a named size."""
    return Problem(CHOSEN[request.param], threads=max(THREADS))


@pytest.fixture(scope="session")
def codes(problem: Problem) -> Any:
    """The codes of the problem."""
    problem.check()
    return problem.encode()


@pytest.fixture(params=LEVELS)
def kernels(request: Any) -> Any:
    """A compiled module."""
    return _kernels.load(request.param)


@pytest.fixture(params=THREADS)
def threads(request: Any) -> int:
    """How many threads."""
    return int(request.param)
