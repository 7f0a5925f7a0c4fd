"""The page of what can be relied on says what the committed results of torture and fuzzing say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from sparse_sae._io.documents import filled

ROOT = Path(__file__).parents[1]
RESULTS = [ROOT / f"docs/results/{name}.json" for name in ("torture", "fuzz")]


@pytest.fixture
def page() -> Any:
    spec = importlib.util.spec_from_file_location("torture_page", ROOT / "tests/torture/page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_filled_from_the_committed_results(page: Any) -> None:
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    assert filled(text, {"torture": page.contents(*(json.loads(p.read_text()) for p in RESULTS))}) == text


def test_the_committed_results_are_clean_and_of_every_attack() -> None:
    torture, fuzz = (json.loads(p.read_text()) for p in RESULTS)
    assert set(torture) == {"files", "kernels", "kills", "misuse"}
    assert [attack["findings"] for attack in torture.values()] == [[]] * 4
    assert all(target["findings"] == 0 and target["inputs"] > 0 for target in fuzz["targets"].values())
