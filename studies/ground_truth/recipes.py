"""Recipes of 2025 and 2026 at equal time: on a world of known features, and on a language model's activations.

    python studies/ground_truth/recipes.py STORE               # about an hour on one core
STORE: activations on disk, as for dictionaries.py. Every recipe trains for the same CPU seconds (its speed is measured
first) with the same k and width, once for each seed. OrtSAE is the library's. What has not earned a place there is in
recipes_tried.py: one LISTA step, KronSAE. Leave-one-out refinement is applied to all. Writes docs/results/recipes.json
after every run; runs that are there already are not made again. At last those of the first seed that were made are put
into the model (recipes_lm.py), beside TopK with KL + MSE at its end and TopK trained as long as that took.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from recipes_lm import InModel
from recipes_tried import Kron, Lista, check_gradients
from synthsaebench import EVALUATION_START, Clock, scores_of_codes

import sparse_sae
from sparse_sae import BatchTopK, Matryoshka, TopK, _kernels
from sparse_sae._io.atomic import write_json
from sparse_sae.architectures import OrtSAE
from sparse_sae.data.store import ActivationStore
from sparse_sae.match import stability
from sparse_sae.pursuit import leave_one_out, refine
from sparse_sae.synthetic import synthsaebench_16k

RESULT = Path(__file__).parents[2] / "docs" / "results" / "recipes.json"
RECIPES = {
    "TopK": lambda k, m: TopK(k=k),
    "BatchTopK": lambda k, m: BatchTopK(k=k),
    "OrtSAE": lambda k, m: OrtSAE(k=k),
    "OrtSAE, ten times the weight": lambda k, m: OrtSAE(k=k, orthogonality=2.5),
    "Matryoshka": lambda k, m: Matryoshka(k=k),
    "one LISTA step": lambda k, m: Lista(k=k, batch=False, widths=(m,)),
    "one LISTA step, Matryoshka": lambda k, m: Lista(k=k, batch=False),
    "KronSAE, 4 x 4": lambda k, m: Kron(k=k, aux_k=0, a=4, b=4),
}


def rows_in(seconds, data, architecture, how):
    """Rows that training gets through in so many CPU seconds, in whole batches. The speed is that of a run of about a
    quarter of them: shorter ones have more dead latents, and pay for AuxK."""
    size, least = how["batch_size"], 8

    def cost(batches):
        clock = Clock()
        sparse_sae.train(clock.away(data()), architecture, n_tokens=batches * size, **how)
        return clock.read()["cpu_seconds"]

    shortest, part = cost(least), 48
    for _ in range(2):
        batches = least + (seconds - shortest) * (part - least) / (cost(part) - shortest)
        part = max(49, round(batches / 4))
    return max(1, round(batches)) * size


def train(data, name, seed, args, d_sae, batch_size, seconds):
    how = {
        "d_sae": d_sae,
        "batch_size": batch_size,
        "seed": seed,
        "normalize": "none",  # rows come scaled: KronSAE's encoder is not of the form that scales fold into
        "num_threads": 1,
        "progress": False,
    }
    architecture = RECIPES[name](args.k, d_sae)
    n = rows_in(seconds, data, architecture, how)
    clock = Clock()
    result = sparse_sae.train(clock.away(data()), architecture, n_tokens=n, **how)
    return result.sae, {"name": name, "seed": seed, "samples": n, **clock.read()}


def blocks(x, size, seed):
    """Rows of an array in blocks, again and again, in new orders."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(x))
        for i in range(0, len(x) - size + 1, size):
            yield x[order[i : i + size]]


def timed_encode(sae, x):
    started = time.process_time()
    codes = sae.encode(x, num_threads=1)
    return codes, 1e6 * (time.process_time() - started) / len(x)


def without_a_third(sae, x, codes):
    needed = leave_one_out(x, codes, sae.W_dec, sae.b_dec)
    threshold = float(np.quantile(needed, 1 / 3))
    return refine(x, codes, sae.W_dec, sae.b_dec, threshold=threshold)


def planted(name, seed, args, world, x, scale):
    """The small world of synthsaebench.py, a million samples of it, with 416 latents."""
    sae, row = train(lambda: blocks(x, 1024, seed), name, seed, args, 416, 1024, args.seconds[0])
    samples = world.block(EVALUATION_START, 16_384)
    scaled = samples.x * scale
    codes, row["microseconds_per_row"] = timed_encode(sae, scaled)
    at = type(samples)(scaled, samples.codes)
    row |= scores_of_codes(world, at, codes, sae.W_dec, sae.b_dec)
    kept = without_a_third(sae, scaled, codes)
    row["refined"] = scores_of_codes(world, at, kept, sae.W_dec, sae.b_dec, only_codes=True)
    return row, sae


def real(name, seed, args, x, held_out):
    """Rows of a model, a tenth of whose documents are held out."""
    sae, row = train(lambda: blocks(x, 256, seed), name, seed, args, args.d_sae, 256, args.seconds[1])
    codes, row["microseconds_per_row"] = timed_encode(sae, held_out)
    power = ((held_out - held_out.mean(axis=0)).astype(np.float64) ** 2).sum()
    for key, at in (("", codes), ("refined_", without_a_third(sae, held_out, codes))):
        error = ((held_out - at @ sae.W_dec - sae.b_dec).astype(np.float64) ** 2).sum()
        row |= {key + "fvu": float(error / power), key + "l0": at.nnz / len(held_out)}
    row["dead_fraction"] = float((np.bincount(codes.indices, minlength=args.d_sae) == 0).mean())
    unit = sae.W_dec / np.linalg.norm(sae.W_dec, axis=1, keepdims=True)
    products = np.abs(unit @ unit.T) - np.eye(len(unit), dtype=np.float32)
    row["nearest_cosine"] = float(products.max(axis=1).mean())
    return row, sae


def in_model(args, result, saes, x, hook, by):
    """Cross-entropy with each SAE in the model's place, and with one that was trained there at the end."""
    place = InModel(hook, by, args.ce_tokens)
    saes = dict(saes)
    if "TopK" in saes:
        saes["TopK, then KL + MSE"], seconds = place.finetuned(saes["TopK"], args.kl_tokens)
        whole = args.seconds[1] + seconds
        longer, _ = train(lambda: blocks(x, 256, 0), "TopK", args.seeds[0], args, args.d_sae, 256, whole)
        saes["TopK, as long"] = longer
        result["finetune"] = {"tokens": args.kl_tokens, "cpu_seconds": seconds}
    rows, of_model = place.scores(saes)
    earlier = result.get("in_model", {})
    same = earlier.get("tokens") == of_model["tokens"]  # then what an earlier session measured stays
    result["in_model"] = of_model | {"recipes": (earlier["recipes"] if same else {}) | rows}
    for name, row in rows.items():
        print(name, {k: round(v, 4) for k, v in row.items() if k != "kl_by_text"})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--seconds", type=float, nargs=2, default=[10, 20], help="of each run, on each data")
    parser.add_argument("--samples", type=int, default=1_000_000, help="of the world, to train on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--k", type=int, default=25)
    parser.add_argument("--d-sae", type=int, default=4608, help="of the model's; the world's is 416")
    parser.add_argument(
        "--ce-tokens", type=int, default=100_000, help="of English, to measure the model on; 0: not"
    )
    parser.add_argument("--kl-tokens", type=int, default=15_360, help="of the finetune with KL + MSE")
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--where", nargs="+", choices=["planted", "real"], default=["planted", "real"])
    parser.add_argument("--json", type=Path, default=RESULT)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*mean.*")  # centring is tried nowhere here
    check_gradients()
    world = synthsaebench_16k(n_features=1638, d_in=96, apart_steps=10)
    made = world.block(0, args.samples).x
    scale = np.float32(1 / np.sqrt((made**2).sum(axis=1).mean()))
    made *= scale
    rest, test = ActivationStore(args.store).split(0.1)
    x, held_out = rest.sample(len(rest), 0), test.sample(4096, 0)
    by = np.float32(1 / np.sqrt((x**2).sum(axis=1).mean()))
    x, held_out = x * by, held_out * by
    settings = {
        "samples": args.samples,
        "k": args.k,
        "seconds": args.seconds,
        "d_sae": args.d_sae,
        "rows": len(x),
    }
    result = json.loads(args.json.read_text()) if args.json.exists() else {}
    if result.get("settings") != settings:
        result = {"settings": settings, "planted": [], "real": [], "stability": {}}
    result["level"], saes = _kernels.level, {}
    for where, run in (
        ("planted", lambda *at: planted(*at, args, world, made, scale)),
        ("real", lambda *at: real(*at, args, x, held_out)),
    ):
        for name in args.only if where in args.where else ():
            found = []
            for seed in args.seeds:
                if any((r["name"], r["seed"]) == (name, seed) for r in result[where]):
                    continue
                row, sae = run(name, seed)
                found.append(sae.W_dec)
                if where == "real" and seed == args.seeds[0]:
                    saes[name] = sae
                result[where].append(row)
                write_json(args.json, result)
                print(
                    where, {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True
                )
            if len(found) == len(args.seeds) > 1:
                stable = stability(found)
                result["stability"][f"{where}: {name}"] = {"mcc": stable.mean, "chance": stable.chance.mean}
                write_json(args.json, result)
    if saes and args.ce_tokens:
        in_model(args, result, saes, x, ActivationStore(args.store).hook, by)
        write_json(args.json, result)


if __name__ == "__main__":
    main()
