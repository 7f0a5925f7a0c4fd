"""Writes sparsify/: directories written by sparsify's SparseCoder, with its own encodings and outputs.

Run it with eai-sparsify and torch installed (SPARSIFY_DISABLE_TRITON=1 where there is no GPU); the tests need neither.

    python tests/golden/make_sparsify.py
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from sparsify import SparseCoder, SparseCoderConfig

HERE = Path(__file__).parent / "sparsify"
D_IN, LATENTS, K = 8, 24, 4


def expected(coder: SparseCoder, x: torch.Tensor) -> dict[str, np.ndarray]:
    with torch.no_grad():
        top = coder.encode(x)
        z = torch.zeros(len(x), coder.num_latents).scatter_add_(1, top.top_indices, top.top_acts)
        return {"x": x.numpy(), "z": z.numpy(), "y": coder(x).sae_out.numpy()}


def case(name: str, **config: object) -> None:
    settings = {"num_latents": LATENTS, "k": K, "normalize_decoder": False, **config}
    coder = SparseCoder(D_IN, SparseCoderConfig(**settings))
    rng = np.random.default_rng(0)
    for value in coder.parameters():
        value.data = torch.tensor(rng.standard_normal(tuple(value.shape)), dtype=torch.float32)
    folder = HERE / name
    coder.save_to_disk(folder)
    again = SparseCoder.load_from_disk(folder)
    np.savez(
        folder / "expected.npz",
        **expected(again, torch.tensor(rng.standard_normal((12, D_IN)), dtype=torch.float32)),
    )


def check_ours() -> None:
    """What this package writes opens in sparsify with equal encodings; nothing is stored."""
    import tempfile

    import sparse_sae

    for source in sorted(p for p in HERE.iterdir() if p.is_dir()):
        sae = sparse_sae.load(source)
        with tempfile.TemporaryDirectory() as temporary:
            sae.save(f"{temporary}/again", format="sparsify")
            theirs = SparseCoder.load_from_disk(f"{temporary}/again")
        stored = np.load(source / "expected.npz")
        for key, value in expected(theirs, torch.tensor(stored["x"])).items():
            np.testing.assert_array_equal(value, stored[key])


def main() -> int:
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    case("layers.3")
    case("groupmax", activation="groupmax")
    case("skip", skip_connection=True)
    case("layers.3.mlp", transcode=True, skip_connection=True)
    case("by_expansion", num_latents=0, expansion_factor=3)
    (HERE / "config.json").write_text(json.dumps({"model": "some/model", "dataset": "some/dataset"}))
    check_ours() if "--check" in sys.argv else None
    print(f"eai-sparsify {importlib.metadata.version('eai-sparsify')}: {len(list(HERE.iterdir())) - 1} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
