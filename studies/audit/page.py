"""Puts the numbers of the audit's bundle and of the monitor's benchmark into docs/audit.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparse_sae._io.documents import table
from sparse_sae.audit.bundle import Verified, verify

HERE = Path(__file__).resolve().parents[2]
PAGE = HERE / "docs" / "audit.md"
BUNDLE = HERE / "docs" / "results" / "audit.zip"
DECISIONS = HERE / "docs" / "results" / "decisions-10000.zip"
PUBLIC_KEY = HERE / "docs" / "results" / "decisions-10000.pub.pem"
RERUN = HERE / "docs" / "results" / "rerun.json"
SPEED = HERE / "benchmarks" / "results" / "audit.json"
MONITOR = HERE / "benchmarks" / "results" / "monitor.json"


def contents() -> dict[str, str]:
    """Block -> what the committed results say."""
    return {
        "monitor": monitor(json.loads(MONITOR.read_text())),
        "speed": speed(json.loads(SPEED.read_text())),
        "pace": pace(json.loads(SPEED.read_text())["decisions"]),
        "example": example(verify(BUNDLE)),
        "rerun": rerun(json.loads(RERUN.read_text())),
        "decisions": example(verify(DECISIONS, public_key=PUBLIC_KEY)),
    }


def monitor(r: dict[str, Any]) -> str:
    """Microseconds a token, and the share of a generation."""
    rows = [
        [
            row["d_in"],
            row["pooling"],
            f"{row['p50_us']:.1f}",
            f"{row['p99_us']:.1f}",
            f"{row['prompt_us_per_token']:.1f}",
        ]
        for row in r["observe"]
    ]
    g = r["generation"]
    return (
        table(["d_in", "pooling", "µs a token, median", "99th percentile", "in a prompt"], rows)
        + f"\n\n64 latents, kernels {r['kernels']['level']}. While {g['model']} generates, "
        f"{g['inside_us_per_token']:.0f} µs of the {1000 * g['ms_per_token']:,.0f} µs of a token are spent in it "
        f"({g['share_inside']:.2%}); the wall clock's ratio was {g['wall_ratio']:.3f} in {g['repeats']} turns. "
        "`python benchmarks/monitor.py`."
    )


def speed(r: dict[str, Any]) -> str:
    """What an audit took, and its verification."""
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in r["inside"].items())
    slices = (
        f", measured in {r['slices']} slices whose seconds are summed, with what each had to do again"
        if r["slices"] > 1
        else ""
    )
    return (
        f"Detectors of a label on {r['prompts']:,} tickets took {r['seconds'] / 60:.1f} minutes with SmolLM2-135M on "
        f"two cores ({parts}){slices}. The bundle of {r['bundle_bytes'] / 1e6:.1f} MB is verified in "
        f"{r['verify_seconds']:.2f} s, and a flipped bit in it is found in {r['flipped_bit_found_seconds']:.3f} s. "
        f"`{r['command']}`."
    )


def pace(r: dict[str, Any]) -> str:
    """What a ticket of the decisions study takes, and what the full study would."""
    each = r["seconds"] / r["prompts"]
    return (
        f"A ticket with its {r['edits']} edits takes {each:.2f} s in {r['compute_dtype']} with {r['threads']} threads "
        f"on two cores, measured on {r['prompts']}: at that pace 10,000 take {10_000 * each / 60:.0f} minutes. "
        f"`{r['command']}`."
    )


def rerun(r: dict[str, Any]) -> str:
    """Whether the committed bundle came out the same when it was run again."""
    parts = []
    for level, found in r["levels"].items():
        changed = [name for name, _, _ in found["environment"]]
        bits = (
            f"the same bits, {r['samples']} samples and {r['metrics']} measurements of {r['metrics']}"
            if found["same"]
            else f"{len(found['differences']) - 1} of {r['metrics']} measurements differ"
        )
        told = f"; the report names what was different then: {', '.join(changed)}" if changed else ""
        parts.append(f"- kernels {level}, {found['threads']} threads: {bits}{told}.")
    return (
        f"The bundle `{r['bundle_sha256'][:16]}…` (kernels {r['level']}), verified and run again from its own policy "
        "by `python studies/audit/run.py --rerun`:\n\n" + "\n".join(parts)
    )


def _value(metric: dict[str, Any]) -> list[str]:
    rate = metric["kind"] == "rate"
    value = f"{metric['successes']} of {metric['n']}" if rate else f"{metric['value']:.3f}"
    span = f"{metric['low']:.3f} – {metric['high']:.3f}" if "low" in metric else ""
    return [metric["name"], value, span, f"{metric['chance']:.2f}" if "chance" in metric else ""]


def example(found: Verified) -> str:
    """Verdicts, rules and measurements of every check."""
    m = found.manifest
    parts = [
        f"**{found.results['verdict']}.** {m['model']['name']} (SHA-256 {m['model']['sha256'][:16]}…), SAE "
        f"{m['sae']['sha256'][:16]}…, kernels {m['kernels']['level']}; {len(found.samples)} samples; the bundle's "
        f"SHA-256 is `{found.sha256}`{'' if found.signed_by is None else ', signed'}."
    ]
    for check in found.results["checks"]:
        parts.append(f"### {check['name']}: {check['verdict']}")
        told = {note.partition("is refused")[2] or note: note for note in reversed(check["notes"])}
        parts.append(" ".join(note for note in check["notes"] if note in told.values()))
        for judged in check["rules"]:
            rule = judged["rule"]
            key = "at_least" if "at_least" in rule else "at_most"
            field = "" if rule.get("field", "value") == "value" else f", {rule['field']} end"
            met = "not measured" if judged["found"] is None else f"{judged['found']:.3f}"
            parts.append(
                f"- {rule['metric']}{field}, {key.replace('_', ' ')} {rule[key]}: {met}, {judged['verdict']}"
            )
        parts.append(table(["measured", "value", "95 % interval", "chance"], map(_value, check["metrics"])))
    return "\n\n".join(parts).replace("\n\n- ", "\n- ").replace("\n- ", "\n\n- ", 1)
