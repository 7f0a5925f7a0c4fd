"""One-to-one matching: SciPy's exact assignment beside the sparse one with its proven gap.

    python studies/ground_truth/matching.py [--sizes 1024 4096 8192 32768]
Two dictionaries in 768 dimensions, half of whose rows are noisy copies of each other and half unrelated.
Asserts that the bound holds wherever the exact answer is computed. CPU seconds, peak memory of a fresh
process for each row. Writes docs/results/matching.json.
"""

import argparse
import json
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np

RESULT = Path(__file__).parents[2] / "docs" / "results" / "matching.json"
DENSE_UP_TO = 8192


def dictionaries(n, d=768):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, d), dtype=np.float32) for _ in range(2))
    b[: n // 2] = a[: n // 2] + 0.5 * b[: n // 2]
    return a, b[rng.permutation(n)]


def measure(n, method, queue):
    from sparse_sae.match import match

    a, b = dictionaries(n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    found = match(a, b, method=method, chance=0)
    queue.put(
        {
            "n": n,
            "d": 768,
            "method": method,
            "mean_score": found.mcc,
            "proven_gap": found.gap,
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "extra_megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        }
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 8192, 32768])
    rows = []
    context = multiprocessing.get_context("spawn")
    for n in parser.parse_args().sizes:
        exact = None
        for method in ("dense", "sparse"):
            if method == "dense" and n > DENSE_UP_TO:
                continue
            queue = context.Queue()
            process = context.Process(target=measure, args=(n, method, queue))
            process.start()
            row = queue.get()
            process.join()
            if method == "dense":
                exact = row["mean_score"]
            elif exact is not None:
                row["true_gap"] = exact - row["mean_score"]
                assert -1e-5 < row["true_gap"] <= row["proven_gap"] + 1e-5, row
            rows.append(row)
            print(row, flush=True)
            RESULT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
