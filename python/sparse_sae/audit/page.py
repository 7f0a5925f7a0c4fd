"""report.html and limitations.md: the bundle for people; no scripts, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: .5rem 0 1.5rem; width: 100% }}
th, td {{ border-bottom: 1px solid #ccc; padding: .25rem .5rem; text-align: left; vertical-align: top }}
code {{ font-size: .85em; overflow-wrap: anywhere }}
.PASSED {{ color: #14601f }} .WARNED {{ color: #7a4b00 }} .FAILED {{ color: #9c1010 }}
</style></head><body>
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>\n"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}"


def _metric(metric: Mapping[str, Any]) -> list[str]:
    rate = metric["kind"] == "rate"
    value = f"{metric['successes']} of {metric['n']}" if rate else _number(metric["value"])
    low, high = metric.get("low"), metric.get("high")
    span = "" if low is None else f"{_number(low)} to {_number(high)}"
    return [escape(metric["name"]), value, span, _number(metric.get("chance"))]


def _verdict(verdict: str) -> str:
    return f'<strong class="{verdict}">{verdict}</strong>'


def _rule(judged: Mapping[str, Any]) -> list[str]:
    rule = judged["rule"]
    key = "at_least" if "at_least" in rule else "at_most"
    field = "" if rule.get("field", "value") == "value" else f" ({rule['field']} end of the interval)"
    limit = rule[key] if isinstance(rule[key], str) else _number(rule[key])
    found = "not measured" if judged["found"] is None else _number(judged["found"])
    return [
        escape(f"{rule['metric']}{field} {key.replace('_', ' ')} {limit}"),
        found,
        _verdict(judged["verdict"]),
    ]


def page(
    manifest: Mapping[str, Any], policy: Mapping[str, Any], results: Mapping[str, Any], limits: str
) -> str:
    """The report as one HTML page."""
    model, sae = manifest["model"], manifest["sae"]
    parts = [
        _HEAD.format(title=escape(policy["title"])),
        f"<h1>{escape(policy['title'])}</h1>\n<p>Verdict: {_verdict(results['verdict'])}. Made "
        f"{escape(manifest['created'])}; responsible: {escape(policy['responsible'] or 'not named')}. The pass rules "
        "were fixed before there were results: the hash of the policy is the first link of the chain of samples.</p>\n"
        "<p>This report is self-attested: its hashes prove that nothing was changed after it was written, not that "
        "somebody independent wrote it. A signature, or its SHA-256 kept elsewhere, or a re-run "
        "(<code>sparse-sae audit verify --rerun</code>) shows more.</p>\n",
        "<h2>What was audited</h2>\n",
        _table(
            ["", ""],
            [
                ["model", f"{escape(model['name'])} <code>{escape(model['sha256'])}</code>"],
                ["tokenizer", f"<code>{escape(model['tokenizer_sha256'])}</code>"],
                [
                    "SAE",
                    "none"
                    if sae is None
                    else f"{escape(sae['description'])} <code>{escape(sae['sha256'])}</code>",
                ],
                ["hook point", escape(policy["hook"])],
                [
                    "code",
                    f"sparse_sae {escape(manifest['versions']['sparse_sae'])} <code>{manifest['code_sha256']}</code>",
                ],
                [
                    "kernels",
                    escape(f"{manifest['kernels']['level']}, {manifest['kernels']['threads']} threads"),
                ],
                ["policy", f"<code>{manifest['policy_sha256']}</code>"],
            ],
        ),
    ]
    if policy["hypotheses"]:
        parts.append("<h2>What was expected</h2>\n<ul>")
        parts += [f"<li>{escape(text)}</li>" for text in policy["hypotheses"]]
        parts.append("</ul>\n")
    for check in results["checks"]:
        parts.append(f"<h2>{escape(check['name'])}: {_verdict(check['verdict'])}</h2>\n")
        parts += [f"<p>{escape(note)}</p>\n" for note in check["notes"]]
        if check["rules"]:
            parts.append(
                _table(["rule, fixed before", "found", "verdict"], [_rule(r) for r in check["rules"]])
            )
        parts.append(
            _table(["measured", "value", "95 % interval", "chance"], [_metric(m) for m in check["metrics"]])
        )
    parts.append("<h2>Limitations</h2>\n<ul>")
    parts += [f"<li>{escape(line[2:])}</li>" for line in limits.splitlines() if line.startswith("- ")]
    parts.append("</ul>\n</body></html>\n")
    return "".join(parts)


def limitations(manifest: Mapping[str, Any], policy: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """limitations.md: those of the policy, and those that follow from what was run."""
    lines = [
        *policy["limitations"],
        "Rates hold for texts like the ones tested. Detectors of this kind are known to fail under other styles and in "
        "longer contexts.",
        "That a detector finds a behaviour, that steering causes it, and that removing the latent silences it are "
        "three claims; each is true only where it was tested.",
        "Intervals cover the drawing of cases, not the choice of data, labels or prompts.",
    ]
    parameters = manifest["model"]["parameters"]
    if parameters < 1_000_000_000:
        lines.append(
            f"The model has {parameters / 1e6:.0f} million parameters. It is too small for claims about deception, "
            "sandbagging or intent; what it writes about facts is often wrong without any of them."
        )
    reads = [c["name"] for c in results["checks"] if c.get("reads", 1) > 1]
    if reads:
        lines.append(f"The sealed test of {', '.join(reads)} was read more than once under this policy.")
    return f"# Limitations of «{policy['title']}»\n\n" + "".join(f"- {line}\n" for line in lines)
