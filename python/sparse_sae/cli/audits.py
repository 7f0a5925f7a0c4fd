"""`sparse-sae audit`: run a policy, verify a bundle, show what is in one."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sparse_sae.cli._parsing import AddCommand, command_adder


def add_audit(add: AddCommand) -> None:
    """`sparse-sae audit run | verify | show`."""
    audit = add("audit", _show, "make a report that another person can verify and run again")
    inner = command_adder(audit.add_subparsers(title="commands", required=True, metavar="COMMAND"))
    run = inner("run", _run, "run every check of a policy and write the bundle")
    run.add_argument("policy", type=Path, help="the policy, JSON")
    run.add_argument("--out", type=Path, required=True, metavar="FILE", help="the bundle, such as audit.zip")
    run.add_argument("--key", type=Path, metavar="PEM", help="Ed25519 private key to sign with")
    verify = inner("verify", _verify, "check that a bundle is whole, unchanged and consistent")
    verify.add_argument("bundle", type=Path)
    verify.add_argument("--rerun", action="store_true", help="run the policy again and compare the bits")
    verify.add_argument("--policy", type=Path, metavar="FILE", help="the policy it must have been made under")
    verify.add_argument("--public-key", type=Path, metavar="PEM", help="the key that must have signed it")
    verify.add_argument("--sha256", metavar="HEX", help="the file's SHA-256 as somebody else kept it")
    verify.add_argument(
        "--directory",
        type=Path,
        default=Path("."),
        metavar="DIR",
        help="where the policy's relative paths start",
    )
    show = inner("show", _show, "print verdicts and measurements of a bundle")
    show.add_argument("bundle", type=Path)
    show.add_argument("--html", type=Path, metavar="FILE", help="write the report page there")


def _run(options: argparse.Namespace) -> int:
    from sparse_sae.audit.running import run_audit

    found = run_audit(
        options.policy,
        options.out,
        key=options.key,
        say=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )
    print(f"{options.out}: {found.results['verdict']}, SHA-256 {found.sha256}")
    return 0 if found.results["verdict"] != "FAILED" else 1


def _verify(options: argparse.Namespace) -> int:
    from sparse_sae.audit.bundle import verify

    found = verify(
        options.bundle, policy=options.policy, public_key=options.public_key, sha256_known=options.sha256
    )
    signed = "self-attested" if found.signed_by is None else f"signed by key {found.signed_by}"
    if options.sha256 is not None:
        signed += ", and is the one whose SHA-256 was given"
    elif found.signed_by is not None and options.public_key is None:
        signed += " (whose key that is was not checked: give --public-key)"
    print(f"{options.bundle}: whole and unchanged; {signed}; SHA-256 {found.sha256}")
    if not options.rerun:
        return 0
    from sparse_sae.audit.running import rerun

    again = rerun(
        options.bundle,
        directory=options.directory,
        say=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )
    for name, then, now in again.environment:
        print(f"differs: {name}: {then} then, {now} now")
    if again.same:
        print("run again: the same bits")
        return 0
    for name, then, now in again.differences:
        print(f"run again: {name}: {then} then, {now} now")
    return 1


def _show(options: argparse.Namespace) -> int:
    from sparse_sae.audit import archive
    from sparse_sae.audit.bundle import verify

    found = verify(options.bundle)
    signed = "self-attested" if found.signed_by is None else f"signed by key {found.signed_by}"
    print(f"{found.policy['title']}: {found.results['verdict']} ({signed}, {found.manifest['created']})")
    for check in found.results["checks"]:
        print(f"\n{check['name']}: {check['verdict']}")
        for note in check["notes"]:
            print(f"  {note}")
        for metric in check["metrics"]:
            rate = metric["kind"] == "rate"
            value = f"{metric['successes']} of {metric['n']}" if rate else f"{metric['value']:.4g}"
            span = f" [{metric['low']:.3g}, {metric['high']:.3g}]" if "low" in metric else ""
            chance = f", chance {metric['chance']:.3g}" if "chance" in metric else ""
            print(f"  {metric['name']}: {value}{span}{chance}")
    if options.html is not None:
        from sparse_sae._io.atomic import atomic_write

        with atomic_write(options.html) as file:
            file.write(archive.read(options.bundle)["report.html"])
    return 0
