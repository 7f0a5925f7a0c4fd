"""An installed wheel alone, without extras: import, train a little, encode, save, load."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import numpy as np

import sparse_sae

assert "site-packages" in sparse_sae.__file__, f"the source tree was imported: {sparse_sae.__file__}"
assert importlib.util.find_spec("torch") is None, "torch is installed: this does not test the wheel alone"

x = np.random.default_rng(0).standard_normal((512, 16)).astype(np.float32)
sae = sparse_sae.train(x, sparse_sae.TopK(k=4), d_sae=64, n_tokens=5120, progress=False).sae
codes = sae.encode(x)
assert codes.shape == (512, 64)
assert (np.diff(codes.indptr) <= 4).all()
with tempfile.TemporaryDirectory() as directory:
    sae.save(Path(directory) / "sae")
    again = sparse_sae.load(Path(directory) / "sae").encode(x)
assert (again != codes).nnz == 0
print(f"sparse_sae {sparse_sae.__version__} from a wheel: {sparse_sae.kernels()}")
