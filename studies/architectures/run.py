"""Every architecture at equal L0, dead latents with and without a remedy, and where dense products win.

    python studies/architectures/run.py planted | sweep | dead | crossover
    python studies/architectures/run.py real STORE | steps STORE | many STORE | starts [STORE]
    python studies/architectures/run.py --write-docs    # nothing is run: fills the page from the result file

STORE is a directory of captured activations; training and held-out rows are split by document. Each part
replaces its section of docs/results/architectures.json as it goes; docs/architectures.md and
docs/figures/architectures.svg are written from that. Seconds are CPU seconds.
"""

from __future__ import annotations

import argparse

from common import ROOT, results
from cost import crossover, many, steps
from page import contents, draw
from quality import planted, real, sweep
from starting import dead, starts

from sparse_sae._io.documents import fill

PARTS = {part.__name__: part for part in (planted, real, steps, many, sweep, starts, dead, crossover)}


def write_docs() -> None:
    """Fill the page's blocks, and draw its figure."""
    fill(ROOT / "docs/architectures.md", contents(results()))
    draw(results(), ROOT / "docs/figures/architectures.svg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS, nargs="?")
    parser.add_argument("store", nargs="?")
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", type=int, nargs="*")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--section", default="real")
    chosen = parser.parse_args()
    if (chosen.part is None) != chosen.write_docs:
        parser.error(f"part: got {chosen.part}, expected one of {', '.join(PARTS)}, or --write-docs alone")
    if chosen.part:
        PARTS[chosen.part](chosen)
    write_docs()
