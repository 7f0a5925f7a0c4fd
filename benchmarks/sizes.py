"""What the pytest-benchmark suites run over: named sizes, every loadable CPU level, thread counts."""

from __future__ import annotations

import os

from sparse_sae import _kernels
from sparse_sae.bench import SIZES

# `SPARSE_SAE_BENCH_SIZES=medium,large pytest benchmarks` chooses others.
NAMES = os.environ.get("SPARSE_SAE_BENCH_SIZES", "small").split(",")
CHOSEN = {name: SIZES[name] for name in NAMES}
LEVELS = _kernels.loadable_levels()
THREADS = (1, 2)
