"""Write the tables of docs/reliability.md from docs/results/torture.json and fuzz.json: `python tests/torture/page.py`.

The results are made by `nox -s torture -- --minutes 20 --json docs/results/torture.json` and
`nox -s fuzz -- --minutes 5 --json docs/results/fuzz.json`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from sparse_sae._io.documents import fill, table

ROOT = Path(__file__).parents[2]
Counts = dict[str, int]


def counted(counts: Counts, pattern: str) -> dict[str, Counter[str]]:
    """Counts by the two groups of a pattern; outcomes of another form (findings) go under "broken"."""
    found: dict[str, Counter[str]] = {}
    for outcome, count in counts.items():
        match = re.fullmatch(pattern, outcome)
        row, column = match.groups() if match else ("broken", outcome)
        found.setdefault(row, Counter())[column] += count
    return found


def block(name: str, found: dict[str, Counter[str]], columns: dict[str, str]) -> str:
    rows = [
        [row, f"{sum(counts.values()):,}", *(f"{counts[column]:,}" for column in columns)]
        for row, counts in sorted(found.items())
    ]
    return table([name, "tries", *columns.values()], rows)


def contents(result: dict[str, Any], fuzz: dict[str, Any]) -> str:
    attacks: dict[str, Counts] = {name: attack["tries"] for name, attack in result.items()}
    total = sum(sum(counts.values()) for counts in attacks.values())
    minutes, findings = (
        sum(attack["minutes"] for attack in result.values()),
        [a["findings"] for a in result.values()],
    )
    refused, same = "refused, the file named", "the same result"
    files = counted(attacks["files"], r"(.+): (.+)")
    signals = counted(attacks["kills"], r"(\w+), (\d+) signals")
    deaths = [
        [victim, f"{sum(counts.values()):,}", f"{sum(int(n) * c for n, c in counts.items()):,}"]
        for victim, counts in sorted(signals.items())
        if victim != "broken"
    ]
    levels = {level: level for level in result["kernels"]["levels"]}
    targets = [[name, f"{t['inputs']:,}", t["findings"]] for name, t in sorted(fuzz["targets"].items())]
    return "\n\n".join(
        [
            f"The committed result is of {minutes:g} minutes: {total:,} tries, {sum(map(len, findings))} findings.",
            block(
                "damaged file of",
                files,
                {
                    refused: refused,
                    same: same,
                    "another result (the format has no checksum)": "another result (no checksum)",
                },
            ),
            block("kernel", counted(attacks["kernels"], r"(\w+) at (\w+)"), levels),
            table(["killed in", "tries", "signals"], deaths),
            block(
                "wrong arguments of",
                counted(attacks["misuse"], r"(\w+) (.+)"),
                {
                    "refused by name": "refused by name",
                    "works": "works",
                    "diverged, and said so": "diverged, and said so",
                },
            ),
            f"And under the fuzzers, {fuzz['minutes']:g} minutes each:",
            table(["target", "inputs", "findings"], targets),
        ]
    )


if __name__ == "__main__":
    results = [json.loads((ROOT / f"docs/results/{name}.json").read_text()) for name in ("torture", "fuzz")]
    fill(ROOT / "docs/reliability.md", {"torture": contents(*results)})
