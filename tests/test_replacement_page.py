"""The study of replacement on a tiny random model, and the page that its result fills."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sparse_sae._io.documents import blocks, filled  # noqa: E402

ROOT = Path(__file__).parent.parent
RESULT, PAGE = ROOT / "docs" / "results" / "replacement.json", ROOT / "docs" / "circuits.md"
WORDS = [
    "please can you refund my late parcel",
    "my order is late and we are angry",
    "the price is not available",
]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports a module of studies/replacement."""
    monkeypatch.syspath_prepend(str(ROOT / "studies" / "replacement"))
    for name in ("run", "page", "recipes"):
        sys.modules.pop(name, None)
    yield importlib.import_module
    for name in ("run", "page", "recipes"):
        sys.modules.pop(name, None)


def test_the_page_is_filled_from_the_committed_result(study: Any) -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = study("page").contents(json.loads(RESULT.read_text()), blocks(text))
    assert len(found) == len(study("page").SECTIONS)
    assert filled(text, found) == text


def test_every_variant_on_a_tiny_model(
    study: Any, tiny_lm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random model's losses are nobody's business; that errors give the model back, and runs go on, is."""
    run, page = study("run"), study("page")
    monkeypatch.setattr(run, "load_model", lambda: tiny_lm)
    monkeypatch.setattr(
        run, "english_documents", lambda: iter([f"{WORDS[i % 3]} {WORDS[i % 2]}" for i in range(400)])
    )
    monkeypatch.setattr(run, "SITES", (0, 2))
    monkeypatch.setattr(run, "AT_ONCE", 2)
    monkeypatch.setattr(run, "TRAINING", {"d_sae": 64, "k": 32, "n_tokens": 2000, "seed": 0})
    monkeypatch.setattr(run, "RESULT", tmp_path / "result.json")
    monkeypatch.setattr(run, "PAGE", tmp_path / "page.md")
    marks = "\n".join(f"<!-- {name} -->\n<!-- /{name} -->" for name in page.SECTIONS)
    (tmp_path / "page.md").write_text(marks)
    arguments = ["--set", str(tmp_path / "set"), "--work", str(tmp_path / "work"), "--capture-tokens", "1500"]
    run.main(["transcoders", "plain", *arguments])
    assert list(json.loads((tmp_path / "result.json").read_text())["variants"]) == ["transcoders", "plain"]
    run.main(arguments)
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["variants"]) == list(run.VARIANTS)
    for name, found in result["variants"].items():
        places = 3 if "transcoder" in page.NAMES[name] or "MLPs" in page.NAMES[name] else 2
        assert len(found["joint"]["hooks"]) == len(found["scores"]) == places
        assert len(found["each"]) == (0 if "linear" in name else places)
        for row in [*found["each"], found["joint"]]:
            assert row["loss_with_errors"] == pytest.approx(row["loss"], rel=1e-5)
    assert (tmp_path / "page.md").read_text().count("| ") > 40


def test_the_affine_map_is_that_of_least_squares(study: Any) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 6)).astype("f") + 1
    weight, bias = rng.standard_normal((6, 4)).astype("f"), rng.standard_normal(4).astype("f")
    affine = study("recipes").Affine.fit(x, x @ weight + bias)
    np.testing.assert_allclose(affine(x), x @ weight + bias, atol=5e-3)
    np.testing.assert_allclose(affine(torch.from_numpy(x)).numpy(), affine(x), atol=1e-4)
