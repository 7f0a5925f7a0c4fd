"""Writes openai/: state dicts of OpenAI's Autoencoder, with its own latents and reconstructions.

Its code is not on a package index: give the path of sparse_autoencoder/model.py in a checkout of
github.com/openai/sparse_autoencoder. Needs torch; the tests need torch too, to read .pt.

    python tests/golden/make_openai.py PATH/TO/model.py
"""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent / "openai"
N_INPUTS, N_LATENTS, K = 8, 24, 4


def main() -> int:
    model = runpy.run_path(sys.argv[1])
    shutil.rmtree(HERE, ignore_errors=True)
    activations = {"resid_post_mlp_v5_32k": model["TopK"](K), "mlp_post_act": torch.nn.ReLU()}
    for location, activation in activations.items():
        folder = HERE / location / "autoencoders"
        folder.mkdir(parents=True)
        coder = model["Autoencoder"](N_LATENTS, N_INPUTS, activation=activation)
        rng = np.random.default_rng(0)
        for value in coder.parameters():
            value.data = torch.tensor(rng.standard_normal(tuple(value.shape)), dtype=torch.float32)
        torch.save(coder.state_dict(), folder / "8.pt")
        # Not strict: state_dict() of a TopK model also writes activation.k, which from_state_dict() does not expect.
        again = model["Autoencoder"].from_state_dict(
            torch.load(folder / "8.pt", weights_only=True), strict=False
        )
        x = torch.tensor(3 * rng.standard_normal((12, N_INPUTS)) + 2, dtype=torch.float32)
        with torch.no_grad():
            _, z, y = again(x)
        np.savez(folder / "expected.npz", x=x.numpy(), z=z.numpy(), y=y.numpy())
    print(f"{len(activations)} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
