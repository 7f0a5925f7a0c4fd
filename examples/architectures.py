"""Train several architectures on the same rows at once, and compare them at about the same sparsity: a minute.

python examples/architectures.py
"""

import sparse_sae
from sparse_sae import L1, AbsTopK, BatchTopK, JumpReLU, Matryoshka, TopK
from sparse_sae.synthetic import superposition


def main(features=256, d_in=64, samples=60_000, passes=6):
    world = superposition(features, d_in, probability=8 / features, noise=0.02, seed=0)
    x, held_out = world.block(0, samples).x, world.block(1, 4_000).x
    architectures = [
        TopK(k=8),
        AbsTopK(k=8),
        BatchTopK(k=8),
        Matryoshka(k=8),
        JumpReLU(target_l0=8),
        L1(target_l0=8),
    ]
    contestants = {type(a).__name__: {"architecture": a} for a in architectures}
    # every batch is read once and given to all; each result is the one that training alone gives
    results = sparse_sae.train_many(
        x, contestants, d_sae=2 * features, n_tokens=passes * samples, progress=False
    )
    print(f"{'':12}{'L0':>8}{'FVU':>8}{'dead':>8}")
    for name, result in results.items():
        quality = sparse_sae.evaluate(result.sae, held_out)
        print(f"{name:12}{quality.l0:8.1f}{quality.fvu:8.3f}{quality.dead_fraction:8.1%}")
    return results


if __name__ == "__main__":
    main()
