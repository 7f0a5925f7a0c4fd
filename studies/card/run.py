"""The card of the demo's SAE, as `sparse-sae benchmark` prints it.

    python studies/card/run.py SAE [--tokens N] [--tickets N]    # measures an SAE of SmolLM2, then writes
    python studies/card/run.py --write-docs                      # nothing is run: fills the page from the result

Writes docs/results/card.json and the block `card` of docs/language-models.md. SAE is the directory that
`sparse-sae demo --tokens 60000` leaves in sae-demo.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from page import contents  # beside this file

from sparse_sae._io.documents import fill
from sparse_sae.cli import main

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs/results/card.json"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sae", nargs="?")
    parser.add_argument("--tokens", default="10000")
    parser.add_argument("--tickets", default="250", help="a split")
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args()
    if (options.sae is None) != options.write_docs:
        parser.error(f"sae: got {options.sae}, expected the directory of an SAE, or --write-docs alone")
    if options.sae and main(
        [
            "benchmark",
            options.sae,
            "--tokens",
            options.tokens,
            "--tickets",
            options.tickets,
            "--json",
            str(RESULT),
        ]
    ):
        raise SystemExit(1)
    fill(ROOT / "docs/language-models.md", contents(json.loads(RESULT.read_text())))
