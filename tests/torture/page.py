"""Write docs/reliability.md's table from docs/results/torture.json: `python tests/torture/page.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparse_sae._io.documents import fill, table

ROOT = Path(__file__).parents[2]


def contents(result: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{sum(counts.values()):,}",
            ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items()),
        ]
        for name, counts in result["attacks"].items()
    ]
    return (
        f"The last committed run took {result['minutes']:g} minutes and ended with {len(result['findings'])} "
        f"findings.\n\n{table(['attack', 'cases', 'of these'], rows)}"
    )


if __name__ == "__main__":
    result = json.loads((ROOT / "docs/results/torture.json").read_text())
    fill(ROOT / "docs/reliability.md", {"torture": contents(result)})
