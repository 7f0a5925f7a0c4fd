"""Attack the package for some minutes and count what happened: `python tests/torture --minutes 5`.

Every case is drawn from a number, and runs in a process of its own kind, which is watched: a crash, a hang, a result
that is silently other, an error that does not say what is wrong, or memory out of proportion ends the run with exit
code 1 and prints the number, so that `--only files --case NUMBER` runs that case again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from watch import Watched

import sparse_sae
from sparse_sae import _kernels

ATTACKS = ("files", "kernels", "kills", "misuse")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5, help="in all, shared equally by the attacks")
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=ATTACKS, help="these attacks alone")
    parser.add_argument("--case", type=int, help="this one case, again")
    parser.add_argument("--seed", type=int, help="first case; default: the time")
    parser.add_argument("--json", type=Path, help="where to write the counts")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # more threads than cores would spend them on waiting

    first = (
        args.case if args.case is not None else args.seed if args.seed is not None else time.time_ns() % 2**40
    )
    seconds = args.minutes * 60 / len(args.only)
    found: dict[str, Any] = {}
    for name in args.only:
        counts: dict[str, int] = {}
        findings: list[str] = []
        with Watched(name) as attack:
            end, case = time.monotonic() + seconds, first
            while time.monotonic() < end and len(findings) < 20:
                outcome, problem = attack.run(case)
                for kind, count in outcome.items():
                    counts[kind] = counts.get(kind, 0) + count
                if problem:
                    findings.append(f"{name} --case {case}: {', '.join(outcome)}: {problem}")
                    print(findings[-1], flush=True)
                case += 1
                if args.case is not None:
                    break
        print(f"{name}: {sum(counts.values())} tries, {len(findings)} findings", flush=True)
        for kind, count in sorted(counts.items()):
            print(f"    {count:8d}  {kind}")
        found[name] = {
            "minutes": seconds / 60,
            "first_case": first,
            "version": sparse_sae.__version__,
            "levels": _kernels.loadable_levels(),
            "findings": findings,
            "tries": counts,
        }
    if args.json:
        # Attacks that did not run keep what an earlier run has found.
        before = json.loads(args.json.read_text()) if args.json.exists() else {}
        args.json.write_text(json.dumps(before | found, indent=1, sort_keys=True) + "\n")
    return int(any(attack["findings"] for attack in found.values()))


if __name__ == "__main__":
    sys.exit(main())
