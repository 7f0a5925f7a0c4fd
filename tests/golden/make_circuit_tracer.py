"""Writes circuit_tracer/ and gemma_scope/: transcoders as circuit-tracer's loaders read them, and its encodings.

circuit-tracer is not on a package index: put a checkout (June 2025; its layer files have W_dec the other way round
than later ones) on PYTHONPATH, with torch, transformer-lens and huggingface_hub installed. The tests need none.

    PYTHONPATH=CHECKOUT python tests/golden/make_circuit_tracer.py
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import torch
from safetensors.numpy import save_file

huggingface_hub.constants.HF_HUB_ENABLE_HF_TRANSFER = False  # gone from newer versions, and imported
from circuit_tracer.transcoder.activation_functions import JumpReLU  # noqa: E402
from circuit_tracer.transcoder.single_layer_transcoder import (  # noqa: E402
    SingleLayerTranscoder,
    load_relu_transcoder,
)

HERE = Path(__file__).parent
D_IN, D_SAE = 8, 24


def draw(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def store(folder: Path, transcoder: torch.nn.Module) -> None:
    x = torch.tensor(draw(12, D_IN, seed=9))
    with torch.no_grad():
        z = transcoder.encode(x)
        y = transcoder.decode(z)
        y = y if transcoder.W_skip is None else y + transcoder.compute_skip(x)
    np.savez(folder / "expected.npz", x=x.numpy(), z=z.numpy(), y=y.numpy())


def main() -> int:
    for name in ("circuit_tracer", "gemma_scope"):
        shutil.rmtree(HERE / name, ignore_errors=True)
        (HERE / name).mkdir()
    cpu = torch.device("cpu")
    biases = {"b_enc": draw(D_SAE, seed=2), "b_dec": draw(D_IN, seed=3)}
    layer = {
        "W_enc": draw(D_SAE, D_IN, seed=0),
        "W_dec": draw(D_IN, D_SAE, seed=1),
        **biases,
        "W_skip": draw(D_IN, D_IN, seed=4),
    }
    save_file(layer, HERE / "circuit_tracer" / "layer_5.safetensors")
    store(
        HERE / "circuit_tracer",
        load_relu_transcoder(HERE / "circuit_tracer" / "layer_5.safetensors", 5, device=cpu),
    )
    arrays = {
        "W_enc": draw(D_IN, D_SAE, seed=0),
        "W_dec": draw(D_SAE, D_IN, seed=1),
        **biases,
        "threshold": np.abs(draw(D_SAE, seed=4)),
    }
    np.savez(HERE / "gemma_scope" / "params.npz", **arrays)
    # What its load_gemma_scope_transcoder does, but for a vector of thresholds, which today's torch refuses there.
    transcoder = SingleLayerTranscoder(D_IN, D_SAE, JumpReLU(0.0, 0.1), 5)
    transcoder.activation_function.threshold = torch.nn.Parameter(torch.tensor(arrays.pop("threshold")))
    transcoder.load_state_dict({k: torch.tensor(v) for k, v in arrays.items()}, strict=False)
    store(HERE / "gemma_scope", transcoder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
