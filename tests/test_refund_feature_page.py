"""The study of the refund feature on a tiny model: rows as they are done, resumed; the page that its result fills."""

from __future__ import annotations

import copy
import importlib
import itertools
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from sparse_sae._io.documents import blocks, filled

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "docs" / "results" / "refund_feature.json"
MODULES = ("run", "page", "measuring")


@pytest.fixture
def study(monkeypatch):
    """A function that imports a module of studies/refund_feature."""
    monkeypatch.syspath_prepend(str(ROOT / "studies" / "refund_feature"))
    for name in MODULES:
        sys.modules.pop(name, None)
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def refilled(page, text, result):
    return filled(text, page.contents(result, blocks(text)))


def test_the_page_is_filled_from_the_committed_result(study):
    page, text = study("page"), (ROOT / "docs" / "refunds.md").read_text(encoding="utf-8")
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert refilled(page, text, result) == text
    assert set(page.SECTIONS) <= set(blocks(text))
    other = copy.deepcopy(result)
    for row in other["rows"]:
        row["label"]["refund_asked"]["latent"]["auroc"]["value"] = 0.123
    assert refilled(page, text, other) != text


def test_rows_are_kept_as_they_are_done_and_gone_on_from(study, tiny_lm, tmp_path, monkeypatch):
    run, measuring, page = study("run"), study("measuring"), study("page")
    words = [
        "please can you refund my late parcel",
        "my order is late and we are angry",
        "the price is available",
    ]
    monkeypatch.setattr(run, "load_model", lambda _name: tiny_lm)
    monkeypatch.setattr(
        run, "english", lambda n: (f"{words[i % 3]} {words[i % 2]}" for i in range(min(n, 120)))
    )
    monkeypatch.setattr(measuring, "DRAWS", 20)
    args = Namespace(
        model=None,
        layers=[1, 0],
        widths=[32, 64],
        architectures=["TopK", "BatchTopK"],
        seeds=2,
        tickets=60,
        read=30,
        english_tokens=400,
        neutral=12,
        passes=2,
        directions=40,
        random_tickets=40,
        work=str(tmp_path / "work"),
        json=tmp_path / "result.json",
        write_docs=False,
    )
    monkeypatch.setattr(run, "K", 4)
    original, calls = run.trained, itertools.count()

    def stopped(*given):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return original(*given)

    monkeypatch.setattr(run, "trained", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.run(args)
    kept = json.loads(args.json.read_text())
    assert len(kept["rows"]) == 3
    monkeypatch.setattr(run, "trained", original)
    result = json.loads(json.dumps(run.run(args)))
    assert result == json.loads(args.json.read_text())
    assert result["rows"][:3] == kept["rows"]
    done = [tuple(row[k] for k in ("layer", "width", "architecture", "seed")) for row in result["rows"]]
    assert len(done) == len(set(done)) == page.planned_rows(result["arguments"]) == 12
    assert set(result["layers"]) == {"0", "1"}

    # the numbers are those of the units named, computed again from the files
    row = result["rows"][0]
    sets, here = run.ticket_sets(args), run.hook(row["layer"])
    stores = run.captured(tiny_lm, sets, [run.hook(n) for n in args.layers], tmp_path / "work", args)
    layer = measuring.Layer(row["layer"], {k: v[here] for k, v in stores.items()}, sets, args.neutral)
    sae = run.trained(
        layer.training, {k: row[k] for k in ("layer", "width", "architecture", "seed")}, "", args
    )
    pooled = layer.pooled(lambda x: np.asarray(sae.encode(x).toarray()))
    for label, found in row["label"].items():
        y = np.array([item.labels[label] for item in sets["held-out"]])
        scores = pooled["held-out"][:, found["latent"]["units"][0]]
        pairs = (scores[y][:, None] > scores[~y]) + 0.5 * (scores[y][:, None] == scores[~y])
        assert found["latent"]["auroc"]["value"] == pytest.approx(pairs.mean(), abs=1e-4)
        assert found["latent"]["bound"] >= found["latent"]["auroc"]["value"] - 1e-4
    assert result["random_weights"]["tickets"] == 40

    assert set(page.contents(result, list(page.SECTIONS))) == set(page.SECTIONS)
    args.tickets = 50
    with pytest.raises(SystemExit, match="made with other arguments"):
        run.run(args)
