"""The refund policy as an audit, from the SAE to the page.

    python studies/audit/run.py             # some minutes on two cores, with the SAE; fills docs/audit.md
    python studies/audit/run.py --decisions KEY.pem  # what moves the decisions; some ten minutes; signed with that key
    python studies/audit/run.py --write-docs  # the page again from the committed bundles

The SAE is that of `sparse-sae demo --tokens 60000`, made in sae-demo/ unless it is there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from page import BUNDLE, DECISIONS, HERE, PAGE, contents

from sparse_sae._io.documents import fill
from sparse_sae.audit.running import run_audit
from sparse_sae.cli import main as command

POLICY = Path(__file__).parent / "policy.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write-docs", action="store_true", help="only fill the page")
    parser.add_argument("--decisions", metavar="KEY", help="the second bundle, signed with this Ed25519 key")
    args = parser.parse_args()
    if not args.write_docs:
        demo = HERE / "sae-demo"
        if not (demo / "sae-60000-4608-32" / "sae").is_dir():
            command(["demo", "--tokens", "60000", "--out", str(demo)])
        if args.decisions:
            found = run_audit(POLICY.with_name("tickets.json"), DECISIONS, key=args.decisions, say=print)
        else:
            found = run_audit(POLICY, BUNDLE, say=print)
        print(found.results["verdict"], found.sha256)
    fill(PAGE, contents())


if __name__ == "__main__":
    main()
