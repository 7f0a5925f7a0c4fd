"""Write docs/reliability.md's table from docs/results/torture.json: `python tests/torture/page.py`."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- torture:begin -->", "<!-- torture:end -->"


def table(result: dict[str, object]) -> str:
    attacks: dict[str, dict[str, int]] = result["attacks"]  # type: ignore[assignment]
    rows = ["| attack | cases | of these |", "|---|---|---|"]
    for name, counts in attacks.items():
        parts = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items())
        rows.append(f"| {name} | {sum(counts.values()):,} | {parts} |")
    findings = len(result["findings"])  # type: ignore[arg-type]
    minutes = result["minutes"]
    return (
        f"The last committed run took {minutes:g} minutes and ended with {findings} findings.\n\n"
        + "\n".join(rows)
    )


def main() -> None:
    page = ROOT / "docs/reliability.md"
    result = json.loads((ROOT / "docs/results/torture.json").read_text())
    before, rest = page.read_text().split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
