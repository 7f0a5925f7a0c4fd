"""Encoding of real activations by SAEs that were trained on them: what integer screens cannot decide, and the time.

    python benchmarks/screening.py STORE SAE [SAE …]

STORE is a directory of captured activations, SAE an SAE trained on them (`sparse-sae demo --out DIR` leaves both;
`sparse-sae train STORE --d-sae 32768 …` makes wider ones). Rows are encoded through each screen that this CPU has an
instruction for, which must agree to the bit, in turns with the fastest float32 product of the same shape. Prints the
rows that were computed in full, writes benchmarks/results/screening.json and the table in docs/performance.md.
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
SCREENS = ("float", "int8", "amx")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("sae", nargs="+")
    options = parser.parse_args()
    x, threads = ActivationStore(options.store).sample(ROWS), resolve_threads(None)
    saes = [sparse_sae.load(path) for path in options.sae]
    lines = [measured(x, sae, k, threads) for sae in saes for k in (16, 32, 64)]
    write_json(ROOT / "benchmarks/results/screening.json", {"machine": machine(threads), "lines": lines})
    fill(PAGE, {"screening": screening(lines)})


def measured(x: Array, sae: SAE, k: int, threads: int) -> dict[str, Any]:
    """Rows in full and seconds of each screen, beside the product."""
    weights = (np.ascontiguousarray(sae.W_enc.T), sae.b_enc)

    def encode(screen: str) -> Any:
        return _kernels.encode_topk(x, *weights, k, center=sae.b_dec, screen=screen, num_threads=threads)

    found = {screen: encode(screen) for screen in SCREENS if screen == "float" or _kernels.build_info[screen]}
    for screen, codes in found.items():
        if not all(np.array_equal(a, b) for a, b in zip(codes[:3], found["float"][:3], strict=True)):
            raise AssertionError(f"k {k}: {screen} gives other codes than float")
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
    shown = [screen for screen in SCREENS if f"{screen}_seconds" in lines[0]]
    made = []
    for r in lines:
        full = [f"{r[f'{screen}_in_full'] / r['rows']:.1%}" for screen in shown if screen != "float"]
        times = [f"{r[f'{screen}_seconds'] / r['product_seconds']:.2f} G" for screen in shown]
        made.append([f"{r['d_sae']:,}", r["k"], *times, *full])
    head = [f"encode, {screen}" for screen in shown]
    return table(
        ["latents", "k", *head, *(f"rows in full, {screen}" for screen in shown if screen != "float")], made
    )


if __name__ == "__main__":
    main()
