"""Circuits that are known, and what `sparse_sae.circuits` finds of them.

    python studies/known_circuits/run.py [PART ...] --set DIR   # all parts, or some; writes the result and the page
    python studies/known_circuits/run.py --write-docs           # nothing is run: fills the page from the result file

Writes docs/results/known_circuits.json and the blocks of docs/circuits.md. `induction` and `programs` are wired by hand
(tests/wired_models.py), `trained` is a small transformer, `heads` and `agreement` are of SmolLM2; SAEs of its residual
stream are trained in DIR, if they are not there yet.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agreement
import repetition
import wired
from page import contents  # beside this file

from sparse_sae._io.atomic import write_json
from sparse_sae._io.documents import blocks, fill

ROOT = Path(__file__).resolve().parents[2]
RESULT, PAGE = ROOT / "docs/results/known_circuits.json", ROOT / "docs/circuits.md"
LAYERS = (3, 9, 15, 21, 27)


def heads(_: Path) -> dict[str, Any]:
    """Induction heads of SmolLM2."""
    from sparse_sae.lm import load_model

    return repetition.study(load_model())


def on_smollm(out: Path) -> dict[str, Any]:
    """Subject-verb agreement; the SAEs are trained in `out`."""
    from sparse_sae.lm import load_model

    lm = load_model()
    made = agreement.residual_set(lm, out, LAYERS, d_sae=2304, capture_tokens=50_000, tokens=150_000)
    return {
        "capture_tokens": 50_000,
        "tokens": 150_000,
        **agreement.study(lm, made, n_pairs=48, nodes=(25, 50, 100, 200), shown=50, n_random=20),
    }


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "induction": lambda _: wired.induction(),
    "programs": lambda _: wired.programs(),
    "trained": lambda _: wired.trained(),
    "heads": heads,
    "agreement": on_smollm,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the chosen parts and merge them into the result, or only fill the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all unless given")
    parser.add_argument("--set", type=Path, default=Path("known-circuits-set"), help="of SAEs, for agreement")
    parser.add_argument("--write-docs", action="store_true")
    args = parser.parse_args(arguments)
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"PART: got {', '.join(unknown)}, expected some of {', '.join(PARTS)}")
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for part in () if args.write_docs else args.parts or PARTS:
        began = time.perf_counter()
        found[part] = PARTS[part](args.set)
        found.setdefault("seconds", {})[part] = time.perf_counter() - began
        write_json(RESULT, found)
    fill(PAGE, contents(found, list(blocks(PAGE.read_text()))))


if __name__ == "__main__":
    main()
