"""Run the fuzz targets for some minutes each and count the inputs: `python tests/fuzz --minutes 1`."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE.parents[1] / "cpp/tests/corpus"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1, help="for each target")
    parser.add_argument("--kernels", type=Path, help="the program fuzz_kernels; without it, readers alone")
    parser.add_argument(
        "--found", type=Path, default=Path("build/fuzz"), help="for inputs that break something"
    )
    parser.add_argument("--seed", type=int, help="of the changes, from 1; default: another every time")
    parser.add_argument("--json", type=Path, help="where to write the counts")
    args = parser.parse_args()
    grown = args.found.resolve() / "corpus"
    grown.mkdir(parents=True, exist_ok=True)
    targets = {"readers": [sys.executable, str(HERE / "readers.py")]}
    if args.kernels:
        targets["kernels"] = [str(args.kernels), "-max_len=8192"]
    result: dict[str, dict[str, int]] = {}
    for name, command in targets.items():
        command += [f"-max_total_time={max(1, round(60 * args.minutes))}", "-print_final_stats=1"]
        command += [f"-artifact_prefix={grown.parent}/"]
        command += [] if args.seed is None else [f"-seed={args.seed}"]
        command += [str(grown), str(CORPUS)] if name == "kernels" else []
        run = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        inputs = re.search(r"number_of_executed_units: (\d+)", run.stderr)
        result[name] = {"inputs": int(inputs[1]) if inputs else 0, "findings": int(run.returncode != 0)}
        if run.returncode:
            print(run.stderr[-6000:])
        print(f"{name}: {result[name]['inputs']} inputs, {result[name]['findings']} findings", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"minutes": args.minutes, "targets": result}, indent=1) + "\n")
    return int(any(target["findings"] for target in result.values()))


if __name__ == "__main__":
    sys.exit(main())
