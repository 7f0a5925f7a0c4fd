"""What better codes cost at the width of a real SAE: pursuit beside a linear encoder, at the true dictionary.

    python studies/ground_truth/inference.py --threads 1        # half a minute
4,096 features in 768 dimensions, 25 active on average. Every method gets the true directions and codes samples
of which the truth is known. Asserts that the two ways of each pursuit give the same codes, and that the lasso's are
optimal; measures the floor beside them, a bare product of the samples with the dictionary. Writes
docs/results/inference.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from sparse_sae import SAE, TopK, _kernels
from sparse_sae.pursuit import encode
from sparse_sae.synthetic import superposition, zipf

RESULT = Path(__file__).parents[2] / "docs" / "results" / "inference.json"
K = 25


def world():
    return superposition(4096, 768, probability=zipf(4096, 0.5, 0.1, 4.6e-3), std=0.3, noise=0.02, seed=0)


def row(name, samples, W, run):
    """CPU microseconds a sample, and how right the codes are."""
    started = time.process_time()
    codes = run(samples.x)
    seconds = time.process_time() - started
    found, true = codes.toarray() > 0, samples.codes.toarray() > 0
    error = ((samples.x - codes @ W) ** 2).sum() / ((samples.x - samples.x.mean(axis=0)) ** 2).sum()
    hits = (found & true).sum()
    return {
        "codes": name,
        "samples": len(samples.x),
        "l0": codes.nnz / len(samples.x),
        "fvu": float(error),
        "precision": float(hits / found.sum()),
        "recall": float(hits / true.sum()),
        "microseconds_per_sample": 1e6 * seconds / len(samples.x),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="of the kernels; OMP_NUM_THREADS for NumPy's")
    threads = parser.parse_args().threads
    made = world()
    W = made.features
    zeros = {"b_enc": np.zeros(len(W), np.float32), "b_dec": np.zeros(W.shape[1], np.float32)}
    sae = SAE.from_rows({"W_enc": W, "W_dec": W, **zeros}, TopK(k=K))
    many, few = made.block(0, 2048), made.block(1, 64)
    check(many.x[:512], W, threads)
    rows = [row(f"linear, top {K}", many, W, lambda x: sae.encode(x, num_threads=threads))]
    methods = [
        (f"omp, k = {K}", {"method": "omp", "k": K}),
        (f"iht, k = {K}", {"method": "iht", "k": K}),
        ("lasso", {"method": "lasso", "penalty": 0.2}),
        ("reweighted", {"method": "reweighted", "penalty": 0.2}),
    ]
    for name, samples, how in [
        *((name, many, how) for name, how in methods),
        *((f"{name}, 32 at a time", few, {**how, "at_a_time": 32}) for name, how in methods),
    ]:
        at_a_time = how.pop("at_a_time", len(samples.x))
        rows.append(row(name, samples, W, lambda x, how=how, n=at_a_time: in_parts(x, W, n, how, threads)))
        print(rows[-1], flush=True)
    result = {"features": len(W), "dimensions": W.shape[1], "rows": rows}
    result["product_microseconds_per_sample"] = product(many.x, W, threads)
    result["true_l0"] = many.codes.nnz / len(many.x)
    RESULT.write_text(json.dumps(result | {"threads": threads, "level": _kernels.level}, indent=1) + "\n")


def check(x, W, threads):
    """Both ways to the same bits, whatever is timed below; the gap of every sample is what was asked for."""
    for call, how in (
        (_kernels.encode_omp, {"k": K}),
        (_kernels.encode_iht, {"k": K, "step": 0.08}),
        (_kernels.encode_lasso, {"penalty": 0.2, "rounds": 3}),
    ):
        simple, fast = (call(x, W, **how, simple=way, num_threads=threads) for way in (True, False))
        assert all(np.array_equal(a, b) for a, b in zip(simple, fast, strict=True))
    assert _kernels.encode_lasso(x, W, 0.2, num_threads=threads)[3].max() <= 1e-5


def product(x, W, threads):
    """The floor: every method looks at all latents at least once."""
    started = time.process_time()
    _kernels.matmul_nt(x, W, num_threads=threads)
    return 1e6 * (time.process_time() - started) / len(x)


def in_parts(x, W, n, how, threads):
    from scipy.sparse import vstack

    return vstack([encode(x[i : i + n], W, **how, num_threads=threads) for i in range(0, len(x), n)])


if __name__ == "__main__":
    main()
