"""Plant a dictionary, train a TopK SAE on what it makes, and see how much of it comes back, beside chance: seconds.

python examples/planted.py
"""

import sparse_sae
from sparse_sae.match import match
from sparse_sae.synthetic import superposition


def main(features=256, d_in=64, samples=60_000, passes=10):
    # 256 features in 64 dimensions, about 8 of them at a time, with noise
    world = superposition(features, d_in, probability=8 / features, noise=0.02, seed=0)
    train, held_out = world.block(0, samples), world.block(1, 4_000)
    sae = sparse_sae.train(
        train.x, sparse_sae.TopK(k=8), d_sae=2 * features, n_tokens=passes * samples, progress=False
    ).sae
    print(sparse_sae.evaluate(sae, held_out.x))
    # one true feature to one latent at most; random directions say what that is worth
    found = match(sae, world.features)
    print(found)
    return found


if __name__ == "__main__":
    main()
