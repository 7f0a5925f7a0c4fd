"""How long an audit takes: detectors of a label chosen and measured on so many tickets, with SmolLM2-135M.

    python benchmarks/audit.py [--prompts 3000] [--sae DIRECTORY]     # writes benchmarks/results/audit.json

The SAE is that of `sparse-sae demo --tokens 60000`. Asserts that the bundle verifies and has every sealed prompt.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import sparse_sae
from sparse_sae.audit import features
from sparse_sae.audit.checks import detection
from sparse_sae.audit.running import run_audit

HERE = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "audit.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=3000)
    parser.add_argument("--sae", type=Path, default=HERE / "sae-demo" / "sae-60000-4608-32" / "sae")
    args = parser.parse_args()
    check = {
        "name": "refund asked",
        "kind": "detection",
        "fprs": [0.05],
        "data": {"tickets": args.prompts, "label": "refund_asked"},
    }
    policy = {
        "format": "sparse_sae.audit.policy",
        "version": 1,
        "title": "how long an audit takes",
        "hook": "blocks.15.hook_resid_post",
        "sae": str(args.sae.resolve()),
        "checks": [check],
    }
    inside = {}

    def clocked(name, fn):
        def run(*a, **k):
            begin = time.perf_counter()
            value = fn(*a, **k)
            inside[name] = inside.get(name, 0.0) + time.perf_counter() - begin
            return value

        return run

    detection.text_features = clocked("reading prompts", features.text_features)
    detection.choose = clocked("choosing and measuring detectors", detection.choose)
    detection.first_alarms = clocked("delays", detection.first_alarms)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "policy.json"
        path.write_text(json.dumps(policy))
        begin = time.perf_counter()
        found = run_audit(path, Path(scratch) / "audit.zip")
        seconds = time.perf_counter() - begin
    assert len(found.samples) == args.prompts // 2, len(found.samples)  # the sealed half
    result = {
        "command": f"python benchmarks/audit.py --prompts {args.prompts}",
        "kernels": {k: v for k, v in sparse_sae.kernels().items() if k in ("level", "threads", "version")},
        "prompts": args.prompts,
        "seconds": seconds,
        "inside": inside,
    }
    print(json.dumps(result, indent=2))
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
