"""SynthSAEBench-16k at width 4096: BatchTopK of this package and of SAELens, on the same samples, scored
alike.

    python benchmarks/ground_truth/synthsaebench.py --samples 1000000 4000000               # both libraries
    python benchmarks/ground_truth/synthsaebench.py --library sparse_sae --samples 1000000  # needs no torch
    python benchmarks/ground_truth/synthsaebench.py --generation                            # speed of the
    data alone

The published run uses 200 million samples; each budget here is a run of its own, so that the curve is honest
about learning-rate schedules. Batch 1024, k 25, learning rate 3e-4, constant for SAELens as published.
SAELens (`pip install sae-lens`) is trained by its own SAETrainer.step. Writes
benchmarks/results/synthsaebench.json.

Scores: mcc, uniqueness and the mean over latents of precision, recall and F1 as detectors of their nearest
feature are SAELens' definitions (synthetic/evals.py); chance and corrected MCC, the best-threshold F1 and the
hierarchy scores are added.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from sparse_sae.match import detectors, duplicates, families, match
from sparse_sae.match.stability import _nearest
from sparse_sae.synthetic import synthsaebench_16k

RESULT = Path(__file__).parents[1] / "results" / "synthsaebench.json"
EVALUATION_START = 1 << 40  # a block index no training run reaches


def train_sparse_sae(world, n, args):
    import sparse_sae
    from sparse_sae.architectures import BatchTopK

    result = sparse_sae.train(
        world.stream(block_size=1024), BatchTopK(k=args.k), d_sae=args.d_sae, n_tokens=n, batch_size=1024,
        lr=args.lr, seed=args.seed, num_threads=args.threads, progress=False,
    )  # fmt: skip
    return result.sae, result.sae.encode, result.sae.W_dec, result.sae.b_dec


def train_saelens(world, n, args):
    import torch
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.training.sae_trainer import SAETrainer
    from scipy.sparse import csr_array, vstack

    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(d_in=world.features.shape[1], d_sae=args.d_sae, k=args.k, device="cpu")
    )
    config = SAETrainerConfig(
        total_training_samples=n, train_batch_size_samples=1024, lr=args.lr, lr_end=args.lr, device="cpu"
    )
    rows = (torch.from_numpy(x) for x in world.stream(block_size=1024))
    trainer = SAETrainer(config, sae, rows)
    for _ in range(n // 1024):
        trainer.step(next(rows))
        trainer.n_training_steps += 1
    sae.fold_W_dec_norm()
    sae.eval()

    def encode(x):
        with torch.no_grad():
            dense = [sae.encode(torch.from_numpy(part)).to_dense().numpy() for part in np.array_split(x, 16)]
        return csr_array(vstack([csr_array(part) for part in dense], format="csr"))

    return sae, encode, sae.W_dec.detach().numpy(), sae.b_dec.detach().numpy()


def scores(world, encode, W_dec, b_dec, n=16_384):
    """On samples that no training run has seen."""
    samples = world.block(EVALUATION_START, n)
    codes = encode(samples.x)
    error = ((samples.x - codes @ W_dec - b_dec) ** 2).sum(dtype=np.float64)
    variance = ((samples.x - samples.x.mean(axis=0)) ** 2).sum(dtype=np.float64)
    unit = W_dec / np.maximum(np.linalg.norm(W_dec, axis=1, keepdims=True), 1e-12)
    nearest_up, up = _nearest(unit, world.features)
    nearest_down, down = _nearest(-unit, world.features)
    nearest = np.where(up >= down, nearest_up, nearest_down)  # by absolute cosine
    found = detectors(codes, samples.codes)
    of_nearest = found.of_pairs(np.arange(len(unit)), nearest)
    matching = match(W_dec, world, absolute=True, chance=2)
    tree = families(W_dec, codes, world, samples.codes, world.parent, scores=found)
    return {
        "explained_variance": 1 - error / variance,
        "l0": codes.nnz / n,
        "true_l0": samples.codes.nnz / n,
        "dead_fraction": float((found.latent_counts == 0).mean()),
        "mcc": matching.mcc,
        "mcc_chance": max(c.mcc.mean for c in matching.chance.values()),
        "mcc_corrected": matching.corrected,
        "mcc_proven_gap": matching.gap,
        "uniqueness": len(np.unique(nearest)) / len(nearest),
        **{
            name: float(np.mean(of_nearest[name]))
            for name in ("precision", "recall", "f1", "best_f1", "auroc")
        },
        "absorption": tree.absorption,
        "split_fraction": tree.split_fraction,
        "duplicate_pairs": len(duplicates(W_dec, 0.9)[0]),
    }


def generation(world, blocks=20):
    world.block(0)
    wall, cpu = time.perf_counter(), time.process_time()
    for index in range(blocks):
        world.block(index)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"samples_per_second": blocks * 1024 / wall, "cpu_milliseconds_per_1024": 1e3 * cpu / blocks}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", choices=["sparse_sae", "saelens", "both"], default="both")
    parser.add_argument("--samples", type=int, nargs="*", default=[1_000_000])
    parser.add_argument(
        "--scale-by-parent", action="store_true", help="the paper's flag; default is the artefact's, off"
    )
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--k", type=int, default=25)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="a tenth of the world, to try the script")
    parser.add_argument("--generation", action="store_true", help="only time the data")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    size = {"n_features": 1638, "d_in": 96, "apart_steps": 10} if args.small else {}
    world = synthsaebench_16k(scale_by_parent=args.scale_by_parent, **size)
    rows = json.loads(args.json.read_text()) if args.json.exists() else []
    speed = generation(world)
    print(speed, flush=True)
    if args.generation:
        rows.append({"generation": speed, "world": list(world.features.shape)})
        args.samples = []
    libraries = ["sparse_sae", "saelens"] if args.library == "both" else [args.library]
    for n in args.samples:
        for library in libraries:
            started = time.perf_counter(), time.process_time()
            run = {"sparse_sae": train_sparse_sae, "saelens": train_saelens}[library]
            _, encode, W_dec, b_dec = run(world, n, args)
            row = {
                "library": library, "samples": n, "scale_by_parent": args.scale_by_parent, "d_sae": args.d_sae,
                "k": args.k, "lr": args.lr, "seed": args.seed, "threads": args.threads,
                "world": list(world.features.shape),
                "seconds": time.perf_counter() - started[0], "cpu_seconds": time.process_time() - started[1],
            }  # fmt: skip
            rows.append(row | scores(world, encode, W_dec, b_dec))
            print(json.dumps(rows[-1], indent=1), flush=True)
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
    args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
