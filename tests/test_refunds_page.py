"""The running example on a tiny random model, and the pages that its result fills."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from sparse_sae._io.documents import blocks, filled

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "docs" / "results" / "refunds.json"


@pytest.fixture
def example(monkeypatch):
    """A function that imports a module of studies/refunds."""
    monkeypatch.syspath_prepend(str(ROOT / "studies" / "refunds"))
    yield importlib.import_module
    for name in ("run", "page"):
        sys.modules.pop(name, None)


def refilled(page, text, result):
    return filled(text, page.contents(result, blocks(text)))


@pytest.mark.parametrize("name", ["refunds.md", "language-models.md"])
def test_pages_are_filled_from_the_committed_result(example, name):
    page, text = example("page"), (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert refilled(page, text, json.loads(RESULT.read_text())) == text
    others = ("harvest", "card", "feature-", "steering-", "found-")  # of other studies
    assert all(block in page.SECTIONS or block.startswith(others) for block in blocks(text))


def test_the_study_on_a_tiny_model(example, tiny_lm, tmp_path, monkeypatch, capsys):
    """Every step and every section of the page; what a random model decides is nobody's business."""
    study, page = example("run"), example("page")
    words = [
        "please can you refund my late parcel",
        "my order is late and we are angry",
        "the price is not available",
    ]
    hook, choices = "blocks.1.hook_resid_post", {"approve": "yes", "refuse": "no", "escalate": "sorry"}

    monkeypatch.setattr(study, "load_model", lambda _name: tiny_lm)
    monkeypatch.setattr(
        study, "chat", lambda _lm, user, system=None: " ".join(user.split()[:24]) + " " + words[0]
    )
    monkeypatch.setattr(
        study, "english_documents", lambda: iter([f"{words[i % 3]} {words[i % 2]}" for i in range(400)])
    )
    monkeypatch.setattr(study, "HOOK", hook)
    monkeypatch.setattr(study, "CHOICES", choices)
    monkeypatch.setattr(study, "REFUSAL", "refund is not available")
    monkeypatch.setattr(study, "FIGURE", tmp_path / "figure.png")
    original = study.explain
    monkeypatch.setattr(
        study,
        "explain",
        lambda lm, sae, prompt, target, **kw: original(
            lm, sae, prompt, ("no", "yes") if target == ("No", "Yes") else target, **kw
        ),
    )
    args = Namespace(
        model=None,
        sae=None,
        activations=None,
        tokens=1200,
        passes=2,
        latents=64,
        tickets=24,
        train_tickets=24,
        explained=2,
        controls=2,
        random_weights=True,
        work=str(tmp_path / "work"),
        seed=0,
    )
    result = json.loads(json.dumps(study.run(args), default=lambda x: x.tolist()))
    assert "steering on 24 held-out tickets" in capsys.readouterr().out
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert len(result["changes"]) == 2 * 4 * 3
    holm = [change["p_holm"] for change in result["changes"]]
    raw = [change["p"] for change in result["changes"]]
    assert min(holm) == pytest.approx(min(1.0, 24 * min(raw)))
    assert all(len(change["controls"]) == 4 for change in result["changes"])
    for strength in {change["strength"] for change in result["changes"]}:
        for latent in result["latents"]:
            rows = [c for c in result["changes"] if (c["strength"], c["latent"]) == (strength, latent)]
            assert sum(c["after"] for c in rows) == pytest.approx(1)
            assert np.isclose(sum(c["change"] for c in rows), 0)
    for name in ("refunds.md", "language-models.md"):
        text = refilled(page, (ROOT / "docs" / name).read_text(encoding="utf-8"), result)
        assert refilled(page, text, result) == text
        result["on_model"][0]["loss_sae"] += 1.0
        assert refilled(page, text, result) != text
        result["on_model"][0]["loss_sae"] -= 1.0
