"""Writes dictionary_learning/: dictionaries as its trainers save them, with the encodings of its load_dictionary.

Run it with dictionary-learning and torch installed; the tests need torch alone, to read ae.pt.

    python tests/golden/make_dictionary_learning.py [--check]
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from dictionary_learning import dictionary as d
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary

HERE = Path(__file__).parent / "dictionary_learning"
D_IN, D_SAE, K = 8, 24, 4


def expected(folder: Path, x: torch.Tensor) -> dict[str, np.ndarray]:
    coder, _ = load_dictionary(str(folder), device="cpu")
    with torch.no_grad():
        return {"x": x.numpy(), "z": coder.encode(x).numpy(), "y": coder(x).numpy()}


def case(name: str, coder: torch.nn.Module, **trainer: object) -> None:
    rng = np.random.default_rng(0)
    for key, value in coder.named_parameters():
        draw = rng.standard_normal(tuple(value.shape))
        value.data = torch.tensor(np.abs(draw) if key == "threshold" else 0.5 * draw, dtype=torch.float32)
    folder = HERE / name
    folder.mkdir()
    torch.save(coder.state_dict(), folder / "ae.pt")
    config = {
        "trainer": {
            "dict_class": type(coder).__name__,
            "activation_dim": D_IN,
            "dict_size": D_SAE,
            "layer": 3,
            "lm_name": "some/model",
            "submodule_name": "resid_post_layer_3",
            **trainer,
        },
        "buffer": {"d_submodule": D_IN, "ctx_len": 128},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    x = torch.tensor(rng.standard_normal((12, D_IN)) + 0.5, dtype=torch.float32)
    np.savez(folder / "expected.npz", **expected(folder, x))


def check_ours() -> None:
    """What this package writes opens in dictionary_learning with its own encodings; nothing is stored."""
    import sparse_sae

    for source in sorted((HERE.parent / "saelens").iterdir()):
        sae = sparse_sae.load(source)
        try:
            with tempfile.TemporaryDirectory() as temporary:
                sae.save(f"{temporary}/ours", format="dictionary_learning")
                x = torch.tensor(np.load(source / "expected.npz")["x"]).reshape(-1, sae.d_in)
                theirs = expected(Path(temporary) / "ours", x)
        except ValueError as error:
            print(f"{source.name}: {error}")
            continue
        np.testing.assert_allclose(theirs["z"], sae.encode(theirs["x"]).toarray(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(theirs["y"], sae.reconstruct(theirs["x"]), rtol=1e-5, atol=1e-5)
        print(f"{source.name}: equal encodings")


def main() -> int:
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    case("AutoEncoder", d.AutoEncoder(D_IN, D_SAE))
    case("AutoEncoderNew", d.AutoEncoderNew(D_IN, D_SAE))
    case("AutoEncoderTopK", AutoEncoderTopK(D_IN, D_SAE, K), k=K)
    case("JumpReluAutoEncoder", d.JumpReluAutoEncoder(D_IN, D_SAE))
    case("GatedAutoEncoder", d.GatedAutoEncoder(D_IN, D_SAE))
    early, trained = BatchTopKSAE(D_IN, D_SAE, K), BatchTopKSAE(D_IN, D_SAE, K)
    trained.threshold += 1.8
    case("BatchTopKSAE_early", early, k=K)
    case("BatchTopKSAE", trained, k=K)
    nested = MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, [8, 16])
    nested.threshold += 1.8
    case("MatryoshkaBatchTopKSAE", nested, k=K)
    check_ours() if "--check" in sys.argv else None
    version = importlib.metadata.version("dictionary-learning")
    print(f"dictionary-learning {version}: {len(list(HERE.iterdir()))} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
