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
    counts: dict[str, dict[str, int]] = {}
    findings: list[str] = []
    for name in args.only:
        already = len(findings)
        with Watched(name) as attack:
            end, case = time.monotonic() + seconds, first
            while time.monotonic() < end and len(findings) < already + 20:
                outcome, problem = attack.run(case)
                seen = counts.setdefault(name, {})
                for kind, count in outcome.items():
                    seen[kind] = seen.get(kind, 0) + count
                if problem:
                    findings.append(f"{name} --case {case}: {', '.join(outcome)}: {problem}")
                    print(findings[-1], flush=True)
                case += 1
                if args.case is not None:
                    break
        total = sum(counts.setdefault(name, {}).values())
        print(f"{name}: {total} cases", flush=True)
        for outcome, count in sorted(counts[name].items()):
            print(f"    {count:8d}  {outcome}")
    if args.json:
        result = {
            "minutes": args.minutes, "first_case": first, "version": sparse_sae.__version__,
            "levels": _kernels.loadable_levels(), "findings": findings, "attacks": counts,
        }  # fmt: skip
        args.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(f"{sum(sum(c.values()) for c in counts.values())} cases, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
