"""The table of targets, measured: prints it, writes benchmarks/results/kernels/<CPU family>.json, fills the documents.

    python benchmarks/report.py --peers path/to/python     # measures everything, under ten minutes
    python benchmarks/report.py --sizes medium             # one size; results of the others stay
    python benchmarks/report.py --write-only               # documents again from the results on disk

`--peers` names the Python of an environment that has the other libraries, or some (compare/peers.py says which);
without it their last results on this CPU family are kept. Results of other families stay as they are, and every
family has its table. Documents hold the tables in their block `bench`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

from sparse_sae import bench
from sparse_sae._io.atomic import write_json
from sparse_sae._io.documents import fill, table

HERE = Path(__file__).parent
RESULTS = HERE / "results/kernels"
DOCUMENTS = {HERE.parent / "docs/performance.md": "full", HERE.parent / "README.md": "short"}
FASTER = {("small", "sparsify"): 4.0}  # targets that hold on every machine


def read() -> list[dict[str, Any]]:
    """The results of all CPU families, in the order of the documents: the widest instructions first."""
    found = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    return sorted(found, key=lambda result: str(result["machine"]["level"]), reverse=True)


def measure(sizes: list[str], threads: int, peers: str | None, peer_sizes: list[str]) -> None:
    """Write the result of this machine in place of the last one of its family."""
    result = bench.run(tuple(sizes), threads)
    print(bench.verdict(result), flush=True)
    result.pop("table")
    file = RESULTS / f"{result['machine']['family']}.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    if "peers" in before:
        result["peers"] = before["peers"]
    if before:
        print(*bench.regressions(result, before), sep="\n")
        keep_other_sizes(result, before)
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_json(file, result)  # before others run, whose environment may fail
    if peers:
        write_json(file, result | {"peers": run_peers(peers, peer_sizes, threads)})


def keep_other_sizes(result: dict[str, Any], before: dict[str, Any]) -> None:
    """What was not measured this time stays as it was, in the order of the table."""
    lines = result["lines"] + [line for line in before["lines"] if line["size"] not in result["sizes"]]
    for part in ("sizes", "seconds"):
        result[part] = before[part] | result[part]
    result["lines"] = [line for size in bench.ALL for line in lines if line["size"] == size]


def run_peers(python: str, sizes: list[str], threads: int) -> dict[str, Any]:
    """compare/peers.py in its own environment."""
    command = [python, str(HERE / "compare/peers.py"), "--threads", str(threads), "--sizes", *sizes]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(output.splitlines()[-1]))


def against_peers(ours: dict[str, Any], peers: dict[str, Any]) -> list[bench.Line]:
    """How many times faster than each library, in seconds of runs that follow each other. Both timed torch's product
    too, but threads of several pools in one process slow short products down, so it is no common unit."""
    lines = []
    for size, libraries in peers["seconds"].items():
        mine = ours["seconds"][size]
        for library, theirs in libraries.items():
            for work in ("step", "encode"):
                times = theirs[work] / mine[work]
                limit = FASTER.get((size, library), 0.0) if work == "step" else 0.0
                lines.append(bench.Line(f"{work} against {library}", size, times, unit="×", limit=limit))
    return lines


def peer_table(lines: list[bench.Line]) -> str:
    """One row a size and work, one column a library."""
    libraries = list(dict.fromkeys(line.work.split(" against ")[1] for line in lines))
    head = ["times faster than", *libraries]
    rows = []
    for size in dict.fromkeys(line.size for line in lines):
        for work in ("step", "encode"):
            found = {line.work: line.value for line in lines if line.size == size}
            name = {"step": "training step", "encode": "encode + TopK"}[work]
            rows.append([f"{name}, {size}", *(f"{found[f'{work} against {x}']:.1f}" for x in libraries)])
    return table(head, rows)


def sizes_text(result: dict[str, Any]) -> str:
    """Which size is which."""
    return "; ".join(f"{name}: {bench.Size(**size)}" for name, size in result["sizes"].items())


def texts(results: list[dict[str, Any]]) -> dict[str, str]:
    """What goes between the markers: a section a CPU family."""
    full, short = [], []
    for ours in results:
        machine = ours["machine"]
        level = f"level `{machine['level']}`{' and AMX' if machine.get('amx') else ''}"
        about = f"**{machine['cpu']}**, {machine['threads']} threads, {level}. {sizes_text(ours)}."
        lines = [
            bench.Line(**{k: v for k, v in line.items() if k not in ("ratio", "met")})
            for line in ours["lines"]
        ]
        peers_text = ""
        if "peers" in ours:
            faster = against_peers(ours, ours["peers"])
            versions = ", ".join(f"{name} {v}" for name, v in ours["peers"]["versions"].items())
            peers_text = f"{peer_table(faster)}\n\nMeasured with {versions}."
            lines += [line for line in faster if line.limit]
            short.append(f"{about}\n\n{peers_text}")
        full.append(f"{about}\n\n{bench.table(lines)}\n\n{peers_text}".rstrip())
    return {"full": "\n\n".join(full), "short": "\n\n".join(short)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=list(bench.ALL))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--peer-sizes", nargs="+", default=["small", "medium"], help="large takes them many minutes"
    )
    parser.add_argument(
        "--peers", metavar="PYTHON", help="measure the other libraries too, with this interpreter"
    )
    parser.add_argument("--write-only", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.write_only:
        measure(options.sizes, options.threads, options.peers, options.peer_sizes)
    found = texts(read())
    print(found["full"])
    for document, kind in DOCUMENTS.items():
        fill(document, {"bench": found[kind]})


if __name__ == "__main__":
    main()
