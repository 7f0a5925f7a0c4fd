"""Encoding of real activations by an SAE that was trained on them: what the 8-bit screen cannot decide, and the time.

    python benchmarks/screening.py STORE SAE

STORE is a directory of captured activations, SAE an SAE trained on them (`sparse-sae demo --out DIR` leaves both).
Rows are encoded through the float and the 8-bit screen, which must agree to the bit, in turns with the fastest float32
product of the same shape. Prints the rows that were computed in full, writes benchmarks/results/screening.json and the
table in docs/performance.md. On a CPU without 8-bit dot products their screen runs on plain integers and is slow.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import sparse_sae
from sparse_sae import SAE, _kernels
from sparse_sae._io.arrays import Array
from sparse_sae._io.atomic import write_json
from sparse_sae._io.documents import fill, table
from sparse_sae._threads import resolve_threads
from sparse_sae.bench.tasks import Problem
from sparse_sae.bench.timing import Size, in_turns, machine
from sparse_sae.data.store import ActivationStore

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/performance.md"
ROWS = 4096


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("sae")
    options = parser.parse_args()
    x, sae = ActivationStore(options.store).sample(ROWS), sparse_sae.load(options.sae)
    threads = resolve_threads(None)
    lines = [measured(x, sae, k, threads) for k in (16, 32, 64)]
    write_json(ROOT / "benchmarks/results/screening.json", {"machine": machine(threads), "lines": lines})
    fill(PAGE, {"screening": screening(lines)})


def measured(x: Array, sae: SAE, k: int, threads: int) -> dict[str, Any]:
    """Rows in full and seconds of each screen, beside the product."""
    weights = (np.ascontiguousarray(sae.W_enc.T), sae.b_enc)

    def encode(screen: str) -> Any:
        return _kernels.encode_topk(x, *weights, k, center=sae.b_dec, screen=screen, num_threads=threads)

    found = {screen: encode(screen) for screen in ("float", "int8")}
    if not all(np.array_equal(a, b) for a, b in zip(*(f[:3] for f in found.values()), strict=True)):
        raise AssertionError(f"k {k}: the two screens disagree")
    problem = Problem(Size(len(x), sae.d_in, sae.d_sae, k), threads)
    problem.x, problem.w = x, weights[0]
    products = problem.products()
    screens = {screen: partial(encode, screen) for screen in found}
    seconds = in_turns(screens | products)
    product = min(seconds[name] for name in products)
    line = {"k": k, "rows": len(x), "d_in": sae.d_in, "d_sae": sae.d_sae, "product_seconds": product}
    for screen, codes in found.items():
        line |= {f"{screen}_in_full": codes[3], f"{screen}_seconds": seconds[screen]}
    print(line, flush=True)
    return line


def screening(lines: list[dict[str, Any]]) -> str:
    """The table of docs/performance.md."""
    made = []
    for r in lines:
        full = [f"{r[f'{screen}_in_full'] / r['rows']:.1%}" for screen in ("float", "int8")]
        times = [f"{r[f'{screen}_seconds'] / r['product_seconds']:.2f} G" for screen in ("float", "int8")]
        made.append([r["k"], *full, *times])
    return table(
        ["k", "rows computed in full, float screen", "8-bit screen", "encode, float screen", "8-bit screen"],
        made,
    )


if __name__ == "__main__":
    main()
