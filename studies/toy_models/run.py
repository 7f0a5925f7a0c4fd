"""Superposition in toy models, and its undoing: the figures of docs/ground-truth.md.

    python studies/toy_models/run.py --out docs/figures --json docs/results/toy_models.json     # some minutes

Elhage et al. 2022 (Toy Models of Superposition), reproduced on the CPU with many models trained at once: what
fits with growing sparsity, the plateaus of feature dimensionality, the phase diagram, the polygons; then
pursuit on one model's hidden activations, with how many features each hidden unit and each recovered latent
serves.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from sparse_sae.match import match
from sparse_sae.pursuit import learn
from sparse_sae.toy import ToyModel, effective_features

PLATEAUS = {"1": 1, "3/4": 3 / 4, "2/3": 2 / 3, "1/2": 1 / 2, "2/5": 2 / 5, "3/8": 3 / 8}


def growth(out: Path, steps: int) -> dict:
    """20 features of falling importance in 5 dimensions, from dense to sparse."""
    densities = [1.0, 0.3, 0.1, 0.03, 0.01]
    model = ToyModel(20, 5, density=densities, importance=0.7 ** np.arange(20)).train(steps, 1024)
    figure, axes = plt.subplots(
        2, len(densities), figsize=(12, 5), height_ratios=[1.3, 1], layout="constrained"
    )
    for i, density in enumerate(densities):
        axes[0, i].imshow(model.W[i].T @ model.W[i], cmap="RdBu", vmin=-1, vmax=1)
        axes[0, i].set(title=f"density {density:g}", xticks=[], yticks=[])
        axes[1, i].bar(
            range(20), model.norms()[i], color=plt.cm.viridis(np.clip(model.interference()[i], 0, 1))
        )
        axes[1, i].set(ylim=(0, 1.3), xlabel="feature")
    axes[0, 0].set_ylabel("WᵀW")
    axes[1, 0].set_ylabel("|W_i|, lighter: more interference")
    figure.savefig(out / "toy-growth.png", dpi=110)
    return {
        str(density): {
            "represented": int((model.norms()[i] > 0.5).sum()),
            "dimensions_per_feature": float(model.dimensions_per_feature()[i]),
            "features_per_hidden_unit": float(model.polysemanticity()[i].mean()),
            "loss": float(model.loss[i]),
        }
        for i, density in enumerate(densities)
    }


def plateaus(out: Path, steps: int) -> dict:
    """100 equal features in 10 dimensions over a range of densities: the share of a dimension each one
    gets."""
    densities = np.geomspace(1, 0.05, 16)
    model = ToyModel(100, 10, density=densities, seed=1).train(steps, 256)
    d = model.dimensionality()
    represented = model.norms() > 0.5
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for i, density in enumerate(densities):
        values = d[i][represented[i]]
        jitter = np.random.default_rng(i).uniform(-0.02, 0.02, len(values))
        axis.scatter(
            np.full(len(values), 1 / density) * (1 + jitter), values, s=8, alpha=0.5, color="tab:blue"
        )
    for name, level in PLATEAUS.items():
        axis.axhline(level, color="grey", lw=0.6)
        axis.text(20.8, level, name, va="center", fontsize=8)
    axis.set(
        xscale="log",
        xlabel="1 / density",
        ylabel="dimensionality D_i of represented features",
        ylim=(0, 1.05),
    )
    figure.savefig(out / "toy-plateaus.png", dpi=110)
    all_values = d[represented]
    near = {name: float((np.abs(all_values - level) < 0.015).mean()) for name, level in PLATEAUS.items()}
    return {
        "share_of_represented_features_within_.015": near,
        "by_density": {
            f"{density:.3f}": {
                "represented": int(r.sum()),
                "median_dimensionality": float(np.median(values[r])),
                "sum_of_dimensionalities": float(values.sum()),
            }
            for density, values, r in zip(densities, d, represented, strict=True)
        },
    }


def phases(out: Path, steps: int, side: int = 14, starts: int = 4) -> dict:
    """Two features, one dimension: what becomes of the second, over density and its relative importance."""
    densities, importances = np.geomspace(1, 0.01, side), np.geomspace(0.1, 10, side)
    grid = np.array([(p, r) for p in densities for r in importances for _ in range(starts)])
    importance = np.column_stack([np.ones(len(grid)), grid[:, 1]])
    model = ToyModel(2, 1, density=grid[:, 0], importance=importance, seed=2).train(steps // 2, 256, lr=2e-2)
    best = model.loss.reshape(-1, starts).argmin(axis=1) + np.arange(side * side) * starts
    norms = model.norms()[best]
    phase = np.where(norms.min(axis=1) > 0.5, 1, np.where(norms[:, 1] > 0.5, 2, 0)).reshape(side, side)
    figure, axis = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
    image = axis.pcolormesh(
        importances, densities, phase, cmap=plt.get_cmap("viridis", 3), vmin=-0.5, vmax=2.5
    )
    axis.set(xscale="log", yscale="log", xlabel="relative importance of the second feature", ylabel="density")
    bar = figure.colorbar(image, ticks=[0, 1, 2])
    bar.ax.set_yticklabels(["ignored", "antipodal\npair", "takes the\ndimension"])
    figure.savefig(out / "toy-phases.png", dpi=110)
    pairs = phase == 1
    both = model.W[best, 0].prod(axis=1).reshape(side, side)
    middle = side // 2
    return {
        "pair_share_dense_half": float(pairs[:middle].mean()),
        "pair_share_sparse_half": float(pairs[middle:].mean()),
        "pairs_antipodal": float((both[pairs] < -0.5).mean()),
    }


def polygons(out: Path, steps: int) -> dict:
    """Equal features in a plane, sparse: the best of several starts."""
    figure, axes = plt.subplots(1, 4, figsize=(11, 3), layout="constrained")
    found = {}
    for axis, (n, density) in zip(axes, [(3, 0.6), (4, 0.05), (5, 0.02), (8, 0.02)], strict=True):
        model = ToyModel(n, 2, density=density, instances=12, seed=1).train(steps, 512, lr=2e-2)
        best = model.loss.argmin()
        W, d = model.W[best], model.dimensionality()[best]
        axis.quiver(np.zeros(n), np.zeros(n), W[0], W[1], angles="xy", scale_units="xy", scale=1, width=0.012)
        axis.set(
            xlim=(-1.4, 1.4),
            ylim=(-1.4, 1.4),
            aspect="equal",
            xticks=[],
            yticks=[],
            title=f"{n} features, density {density}\nD = {np.median(d):.2f}",
        )
        found[f"{n} features, density {density}"] = np.sort(d).round(3).tolist()
    figure.savefig(out / "toy-polygons.png", dpi=110)
    return found


def undone(out: Path, steps: int) -> dict:
    """Learn a dictionary from the hidden activations of one model, and count features per unit before and
    after."""
    model = ToyModel(24, 10, density=0.06, seed=0).train(steps, 1024)
    x = model.sample(24_000)
    x = x[:, (x > 0).any(axis=2)[0]]
    h, W = model.hidden(x)[0], model.W[0].T
    represented = model.norms()[0] > 0.5
    found = learn(h, 30, n_steps=200, n_polish=60, restarts=2)
    m = match(found.W_dec, W[represented])
    before = model.polysemanticity()[0]
    after = effective_features(found.encode(W[represented]))
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
    axes[0].bar(range(len(before)), np.sort(before)[::-1], color="tab:red")
    axes[0].set(title="hidden units", ylabel="features served", xlabel="unit")
    axes[1].bar(range(len(after)), np.sort(after)[::-1], color="tab:green")
    axes[1].set(title="recovered latents", xlabel="latent")
    figure.savefig(out / "toy-undone.png", dpi=110)
    return {
        "represented_features": int(represented.sum()),
        "latents": len(found.W_dec),
        "features_per_hidden_unit": float(before.mean()),
        "features_per_latent": float(after.mean()),
        "match": m.summary(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="directory for the figures")
    parser.add_argument(
        "--json", type=Path, default=Path("docs/results/toy_models.json"), help="file for the numbers"
    )
    parser.add_argument("--steps", type=int, default=2000, help="training steps of each batch of models")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    result = {}
    for part in (growth, phases, polygons, undone, plateaus):
        result[part.__name__] = part(args.out, args.steps)
        print(json.dumps({part.__name__: result[part.__name__]}, indent=1), flush=True)
        plt.close("all")
    args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
