"""docs/audit.md says what the committed bundle and benchmark hold, and the bundle verifies."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from sparse_sae._io.documents import blocks, filled
from sparse_sae.audit import archive
from sparse_sae.audit.bundle import verify
from sparse_sae.audit.evallog import eval_log
from sparse_sae.audit.hashes import canonical
from sparse_sae.cli import main

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


BUNDLES = sorted((ROOT / "docs" / "results").glob("*.zip"))


def test_the_committed_bundle_is_of_the_committed_policy() -> None:
    found = verify(page().BUNDLE, policy=ROOT / "studies" / "audit" / "policy.json")
    assert found.policy["checks"] and all(check["metrics"] for check in found.results["checks"])


def test_the_committed_bundle_came_out_the_same_when_it_was_run_again() -> None:
    found, again = verify(page().BUNDLE), json.loads(page().RERUN.read_text())
    assert again["bundle_sha256"] == found.sha256
    assert again["levels"][found.manifest["kernels"]["level"]] == {
        "threads": found.manifest["kernels"]["threads"],
        "same": True,
        "environment": [],
        "differences": [],
    }


def test_the_signed_bundle_verifies_by_its_public_key(capsys: pytest.CaptureFixture[str]) -> None:
    made, policy = page(), ROOT / "studies" / "audit" / "tickets.json"
    path, key = str(made.DECISIONS), str(made.PUBLIC_KEY)
    assert made.DECISIONS.stat().st_size < 300_000
    assert main(["audit", "verify", path, "--public-key", key, "--policy", str(policy)]) == 0
    assert "signed" in capsys.readouterr().out
    found = verify(path, public_key=key)
    blocks_of = [sample["cases"] for sample in found.samples]
    assert sum(blocks_of) == found.policy["checks"][0]["data"]["tickets"] and found.signed_by
    assert main(["audit", "verify", str(made.BUNDLE), "--public-key", key]) == 1
    assert "not signed" in capsys.readouterr().err


@pytest.mark.parametrize("path", BUNDLES, ids=lambda path: path.stem)
def test_the_committed_eval_log_is_what_this_code_writes(path: Path) -> None:
    """`nox -s inspect` opens these very bytes with inspect_ai, so that together what is written now opens there."""
    found = verify(path)
    log = eval_log(found.manifest, found.policy, found.results, found.samples)
    assert canonical(log) == archive.read(path)["eval.json"]
