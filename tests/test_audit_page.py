"""docs/audit.md says what the committed bundle and benchmark hold, and the bundle verifies."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from sparse_sae._io.documents import blocks, filled

ROOT = Path(__file__).resolve().parent.parent


def page() -> Any:
    spec = importlib.util.spec_from_file_location("audit_page", ROOT / "studies" / "audit" / "page.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_its_results_say() -> None:
    text = (ROOT / "docs" / "audit.md").read_text()
    contents = page().contents()
    assert set(blocks(text)) == set(contents)
    assert filled(text, contents) == text


def test_the_committed_bundle_is_of_the_committed_policy() -> None:
    from sparse_sae.audit.bundle import verify

    found = verify(page().BUNDLE, policy=ROOT / "studies" / "audit" / "policy.json")
    assert found.policy["checks"] and all(check["metrics"] for check in found.results["checks"])
