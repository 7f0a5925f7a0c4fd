"""The page on circuits holds the numbers of its result files."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from sparse_sae._io.documents import blocks, filled

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "circuits.md"


@pytest.mark.parametrize(
    ("folder", "module", "result"),
    [
        ("studies/circuits", "page", "docs/results/circuits.json"),
        ("studies/known_circuits", "page", "docs/results/known_circuits.json"),
        ("benchmarks", "circuits", "benchmarks/results/circuits.json"),
    ],
)
def test_the_page_is_filled_from_committed_results(
    folder: str, module: str, result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / folder))
    sys.modules.pop(module, None)
    text = PAGE.read_text(encoding="utf-8")
    try:
        found = importlib.import_module(module).contents(
            json.loads((ROOT / result).read_text()), blocks(text)
        )
    finally:
        sys.modules.pop(module, None)
    assert found and all(content.strip() for content in found.values())
    assert filled(text, found) == text
