"""Dictionaries of a language model's activations: learned online with pursuit, beside SAEs, at equal L0.

    python studies/ground_truth/dictionaries.py STORE          # about a quarter of an hour on one core
STORE: activations on disk, for example those that `sparse-sae demo` leaves in its folder. A tenth of the documents is
held out. Every dictionary is measured with its encoder's codes, where it has one, and with those of the same pursuits:
OMP with k codes, and the reweighted lasso at the penalty which gives k codes on other rows that are held out. Writes
docs/results/dictionaries.json after every run; runs that are there already, of the same store and settings, are not
made again.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import sparse_sae
from sparse_sae import BatchTopK, TopK, _kernels
from sparse_sae._io.atomic import write_json
from sparse_sae.data.store import ActivationStore
from sparse_sae.match import stability
from sparse_sae.pursuit import encode, learn_online

RESULT = Path(__file__).parents[2] / "docs" / "results" / "dictionaries.json"
ROWS, FOR_PENALTY = 4096, 1024  # held out rows that are measured, and others


def trained(architecture, n_tokens):
    def run(x, args, seed):
        result = sparse_sae.train(
            x,
            architecture(k=args.k),
            d_sae=args.d_sae,
            n_tokens=n_tokens,
            seed=seed,
            num_threads=args.threads,
            progress=False,
        )
        sae = result.sae
        return sae.W_dec, sae.b_dec, lambda rows: sae.encode(rows, num_threads=args.threads), n_tokens

    return run


def learned(n_tokens):
    def run(x, args, seed):
        found = learn_online(x, args.d_sae, l0=args.k, n_tokens=n_tokens, seed=seed, num_threads=args.threads)
        return found.W_dec, found.b_dec, None, found.history[-1]["tokens"]

    return run


def drawn(x, args, seed):
    """The control: nothing is learned, the directions are rows of x less their mean."""
    b = x.mean(axis=0)
    return x[np.random.default_rng(seed).choice(len(x), args.d_sae, replace=False)] - b, b, None, 0


RUNS = {
    "TopK": trained(TopK, 300_000),
    "dictionary learning": learned(160_000),
    "BatchTopK": trained(BatchTopK, 300_000),
    "TopK, longer": trained(TopK, 1_000_000),
    "rows of the data": drawn,
}


def penalty_for(x, W, b, k, threads):
    """Of the reweighted lasso, by bisection."""
    low, high = 0.0, float(np.linalg.norm(x - b, axis=1).max())
    for _ in range(14):
        middle = (low * high) ** 0.5 if low else high / 8
        codes = encode(x, W, b, penalty=middle, num_threads=threads)
        low, high = (middle, high) if codes.nnz > k * len(x) else (low, middle)
    return high


def measure(codes, x, W, b, seconds):
    error = ((x - codes @ W - b).astype(np.float64) ** 2).sum()
    return {
        "l0": codes.nnz / len(x),
        "fvu": float(error / ((x - x.mean(axis=0)).astype(np.float64) ** 2).sum()),
        "unused": float((np.bincount(codes.indices, minlength=len(W)) == 0).mean()),
        "microseconds_per_row": 1e6 * seconds / len(x),
    }


def run(name, seed, x, held_out, other, args):
    started = time.process_time()
    W, b, own, n_tokens = RUNS[name](x, args, seed)
    seconds = time.process_time() - started
    W, b = np.ascontiguousarray(W), np.ascontiguousarray(b)
    unit = W / np.maximum(np.linalg.norm(W, axis=1, keepdims=True), 1e-12)
    penalty = penalty_for(other, unit, b, args.k, args.threads)
    row = {
        "name": name,
        "seed": seed,
        "tokens": n_tokens,
        "cpu_seconds": seconds,
        "penalty": penalty,
        "codes": {},
    }
    for codes, how in (
        ("encoder", own),
        ("omp", lambda r: encode(r, unit, b, method="omp", k=args.k, num_threads=args.threads)),
        ("reweighted", lambda r: encode(r, unit, b, penalty=penalty, num_threads=args.threads)),
    ):
        if how is None:
            continue
        started = time.process_time()
        found = how(held_out)
        row["codes"][codes] = measure(
            found, held_out, W if codes == "encoder" else unit, b, time.process_time() - started
        )
    return row, unit


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--d-sae", type=int, default=4608)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), help="these, and no others")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a folder for the dictionaries, which stability needs")
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    keep = args.keep or args.store.parent / "dictionaries"
    keep.mkdir(exist_ok=True)
    store = ActivationStore(args.store)
    train, test = store.split(0.1)
    x, rest = train.sample(len(train), 0), test.sample(ROWS + FOR_PENALTY, 0)
    held_out, other = rest[:ROWS], rest[ROWS:]
    settings = {
        "model": store.model,
        "hook": store.hook,
        "rows": len(train),
        "held_out": len(held_out),
        "d_in": store.d_in,
        "d_sae": args.d_sae,
        "k": args.k,
        "threads": args.threads,
    }
    result = json.loads(args.json.read_text()) if args.json.exists() else {}
    if result.get("settings") != settings:
        result = {"settings": settings, "runs": [], "stability": {}}
    for seed in args.seeds:
        for name in args.only:
            file = keep / f"{name} {seed}.npy"
            if file.exists() and any((r["name"], r["seed"]) == (name, seed) for r in result["runs"]):
                continue
            row, W = run(name, seed, x, held_out, other, args)
            np.save(file, W)
            result["runs"] = [r for r in result["runs"] if (r["name"], r["seed"]) != (name, seed)] + [row]
            result["level"] = _kernels.level
            write_json(args.json, result)
            print(json.dumps(row, indent=1), flush=True)
    for name in args.only:
        files = [keep / f"{name} {seed}.npy" for seed in args.seeds]
        if name not in result["stability"] and len(files) > 1 and all(f.exists() for f in files):
            found = stability([np.load(f) for f in files])
            result["stability"][name] = {"mcc": found.mean, "chance": found.chance.mean}
            write_json(args.json, result)


if __name__ == "__main__":
    main()
