"""How long an audit takes: detectors of a label chosen and measured on so many tickets, with SmolLM2-135M.

    python benchmarks/audit.py [--prompts 3000] [--sae DIRECTORY]     # writes benchmarks/results/audit.json
    python benchmarks/audit.py --decisions           # the pace of studies/audit/tickets.json instead, on 96 tickets
    python benchmarks/audit.py --slice 160 --keep DIRECTORY     # stops after so many seconds; again until it is done

The SAE is that of `sparse-sae demo --tokens 60000`. Asserts that the bundle verifies, has every sealed prompt, and that
a flipped bit in it is found. In slices the seconds of all of them are summed, with what each takes to start and to do
again.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

import sparse_sae
from sparse_sae._io.files import FormatError
from sparse_sae.audit.bundle import verify
from sparse_sae.audit.checks import detection
from sparse_sae.audit.context import Context
from sparse_sae.audit.datasets import labelled
from sparse_sae.audit.last_token import LastTokenEdits
from sparse_sae.audit.running import run_audit
from sparse_sae.lm import load_model
from sparse_sae.lm.harvest.reader import in_dtype
from sparse_sae.lm.studies.deciding import decide

HERE = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "audit.json"


def clock(inside, name, owner, attribute):
    """Add the seconds inside a function to `inside`, also where it is left by an interrupt."""
    fn = getattr(owner, attribute)

    def run(*a, **k):
        begin = time.perf_counter()
        try:
            return fn(*a, **k)
        finally:
            inside[name] = inside.get(name, 0.0) + time.perf_counter() - begin

    setattr(owner, attribute, run)


def timed(fn):
    begin = time.perf_counter()
    fn()
    return time.perf_counter() - begin


def audited(policy, bundle, before, args):
    """Run or go on with the audit; returns the seconds of all slices, or saves them and ends when a slice is over."""
    if args.slice:
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.alarm(args.slice)
    begin = time.perf_counter()
    try:
        run_audit(policy, bundle)
        return before["seconds"] + time.perf_counter() - begin
    except KeyboardInterrupt:
        before["seconds"] += time.perf_counter() - begin
        (args.keep / "state.json").write_text(json.dumps(before))
        sys.exit(f"stopped after {before['seconds']:.0f} s in all; run the same command again")
    finally:
        signal.alarm(0)


def pace(sae_path, n=96):
    """Seconds for each ticket of the decisions study, with all its edits; asserts that the edits do something."""
    check = json.loads((HERE / "studies" / "audit" / "tickets.json").read_text())["checks"][0]
    policy = HERE / "studies" / "audit"
    data = labelled({**check["data"], "tickets": n}, policy)
    hook, choices = "blocks.15.hook_resid_post", list(check["outcomes"].values())
    lm, sae = in_dtype(load_model(), check["compute_dtype"]), sparse_sae.load(sae_path)
    rows = decide(lm, data.prompts[:32], choices, hook, batch_size=check["batch_size"]).rows
    latents = sae.encode(rows).indices[:3].tolist()
    edits = LastTokenEdits.of(sae, latents, rows, check["strength"], check["controls"], 0).edits
    begin = time.perf_counter()
    found = decide(lm, data.prompts, choices, hook, edits, batch_size=check["batch_size"])
    seconds = time.perf_counter() - begin
    assert found.edited.shape == (n, edits.count, len(choices)) and found.edited.std(axis=1).max() > 0.01
    return {
        "command": "python benchmarks/audit.py --decisions",
        "prompts": n,
        "edits": edits.count,
        "compute_dtype": check["compute_dtype"],
        "threads": torch.get_num_threads(),
        "seconds": seconds,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=3000)
    parser.add_argument("--sae", type=Path, default=HERE / "sae-demo" / "sae-60000-4608-32" / "sae")
    parser.add_argument("--slice", type=int, default=0, metavar="SECONDS", help="stop after so long")
    parser.add_argument("--keep", type=Path, help="where slices leave what the next one goes on with")
    parser.add_argument("--decisions", action="store_true", help="time the decisions study instead")
    args = parser.parse_args()
    if args.decisions:
        result = {**json.loads(RESULT.read_text()), "decisions": pace(args.sae)}
        print(json.dumps(result["decisions"], indent=2))
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
        return
    if args.slice and args.keep is None:
        parser.error("--slice: give --keep DIRECTORY too, for the next slice to go on from")
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
    with tempfile.TemporaryDirectory() as scratch:
        args.keep = Path(scratch) if args.keep is None else args.keep
        args.keep.mkdir(exist_ok=True)
        state = {"seconds": 0.0, "slices": 0, "inside": {}}
        if (args.keep / "state.json").exists():
            state = json.loads((args.keep / "state.json").read_text())
        state["slices"] += 1
        clock(state["inside"], "reading prompts", Context, "features")
        clock(state["inside"], "choosing and measuring detectors", detection, "choose")
        clock(state["inside"], "delays", detection, "first_alarms")
        path, bundle = args.keep / "policy.json", args.keep / "audit.zip"
        path.write_text(json.dumps(policy))
        seconds = audited(path, bundle, state, args)
        samples = []
        verifying = timed(lambda: samples.extend(verify(bundle).samples))
        assert len(samples) == args.prompts // 2, len(samples)  # the sealed half
        content = bytearray(bundle.read_bytes())
        content[len(content) // 2] ^= 1
        (args.keep / "flipped.zip").write_bytes(content)

        def refused():
            try:
                verify(args.keep / "flipped.zip")
            except FormatError:
                return
            raise AssertionError("a flipped bit was not found")

        finding = timed(refused)
        (args.keep / "state.json").unlink(missing_ok=True)
    in_slices = f" --slice {args.slice} --keep DIRECTORY" if args.slice else ""
    result = {
        "command": f"python benchmarks/audit.py --prompts {args.prompts}{in_slices}",
        "kernels": {k: v for k, v in sparse_sae.kernels().items() if k in ("level", "threads", "version")},
        "prompts": args.prompts,
        "seconds": seconds,
        "slices": state["slices"],
        "inside": state["inside"],
        "bundle_bytes": len(content),
        "verify_seconds": verifying,
        "flipped_bit_found_seconds": finding,
    }
    print(json.dumps(result, indent=2))
    if RESULT.exists():  # keep what --decisions measured
        result |= {k: v for k, v in json.loads(RESULT.read_text()).items() if k == "decisions"}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
