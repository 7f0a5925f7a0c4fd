"""How often the 8-bit screen cannot decide on real activations, and that it changes nothing.

    python benchmarks/screening.py STORE SAE

STORE is a directory of captured activations, SAE an SAE trained on them (`sparse-sae demo --out DIR` leaves both).
Rows are encoded through the float and the 8-bit screen, which must agree to the bit; prints the rows that were
computed in full, writes benchmarks/results/screening.json and the table in docs/performance.md. No times: on
a CPU without 8-bit dot products the second one runs on plain integers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import sparse_sae
from sparse_sae import _kernels
from sparse_sae._io.documents import fill, table
from sparse_sae.data.store import ActivationStore

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/performance.md"
ROWS = 2048


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("sae")
    options = parser.parse_args()
    x, sae = ActivationStore(options.store).sample(ROWS), sparse_sae.load(options.sae)
    weights = (np.ascontiguousarray(sae.W_enc.T), sae.b_enc)
    rows = []
    for k in (16, 32, 64):
        want, got = (
            _kernels.encode_topk(x, *weights, k, center=sae.b_dec, screen=how) for how in ("float", "int8")
        )
        if not all(np.array_equal(a, b) for a, b in zip(want[:3], got[:3], strict=True)):
            raise AssertionError(f"k {k}: the two screens disagree")
        rows.append({"k": k, "rows": len(x), "d_sae": sae.d_sae, "float": want[3], "int8": got[3]})
        print(rows[-1])
    (ROOT / "benchmarks/results/screening.json").write_text(json.dumps(rows, indent=1) + "\n")
    shares = [[r["k"], f"{r['float'] / r['rows']:.1%}", f"{r['int8'] / r['rows']:.1%}"] for r in rows]
    fill(PAGE, {"screening": table(["k", "rows computed in full, float screen", "8-bit screen"], shares)})


if __name__ == "__main__":
    main()
