"""The refund policy as an audit, from the SAE to the page.

    python studies/audit/run.py             # some minutes on two cores, with the SAE; fills docs/audit.md
    python studies/audit/run.py --rerun     # runs the policy of the committed bundle again; docs/results/rerun.json
    python studies/audit/run.py --decisions KEY.pem  # what moves the decisions; half an hour; signed with that key
    python studies/audit/run.py --write-docs  # the page again from the committed bundles

The SAE is that of `sparse-sae demo --tokens 60000`, made in sae-demo/ unless it is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from page import BUNDLE, DECISIONS, HERE, PAGE, RERUN, contents

import sparse_sae
from sparse_sae._io.atomic import write_json
from sparse_sae._io.documents import fill
from sparse_sae.audit.bundle import verify
from sparse_sae.audit.running import rerun, run_audit
from sparse_sae.cli import main as command

POLICY = Path(__file__).parent / "policy.json"


def again() -> dict[str, Any]:
    """What running the committed bundle's policy again gave, beside what other kernel levels gave on that bundle."""
    bundle, kernels = verify(BUNDLE), sparse_sae.kernels()
    found = rerun(BUNDLE, directory=POLICY.parent, say=print)
    before = json.loads(RERUN.read_text()) if RERUN.is_file() else {}
    levels = before["levels"] if before.get("bundle_sha256") == bundle.sha256 else {}
    levels[kernels["level"]] = {
        "threads": kernels["threads"],
        "same": found.same,
        "environment": found.environment,
        "differences": [name for name, _, _ in found.differences],
    }
    return {
        "bundle_sha256": bundle.sha256,
        "level": bundle.manifest["kernels"]["level"],
        "samples": len(bundle.samples),
        "metrics": sum(len(check["metrics"]) for check in bundle.results["checks"]),
        "levels": levels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write-docs", action="store_true", help="only fill the page")
    parser.add_argument(
        "--rerun", action="store_true", help="run the committed bundle's policy again and compare"
    )
    parser.add_argument("--decisions", metavar="KEY", help="the second bundle, signed with this Ed25519 key")
    args = parser.parse_args()
    if not args.write_docs:
        demo = HERE / "sae-demo"
        if not (demo / "sae-60000-4608-32" / "sae").is_dir():
            command(["demo", "--tokens", "60000", "--out", str(demo)])
        if args.rerun:
            write_json(RERUN, again())
        elif args.decisions:
            done = run_audit(POLICY.with_name("tickets.json"), DECISIONS, key=args.decisions, say=print)
            print(done.results["verdict"], done.sha256)
        else:
            done = run_audit(POLICY, BUNDLE, say=print)
            print(done.results["verdict"], done.sha256)
    fill(PAGE, contents())


if __name__ == "__main__":
    main()
