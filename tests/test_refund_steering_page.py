"""The study of steering on a tiny model: gradients are those of real pushes, parts are resumed, pages are filled."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from sparse_sae import SAE, TopK
from sparse_sae._io.documents import blocks, filled
from sparse_sae.demo.tickets import tickets

ROOT = Path(__file__).parent.parent
MODULES = ("run", "page", "judging")
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def study(monkeypatch):
    """A function that imports a module of studies/refund_steering."""
    monkeypatch.syspath_prepend(str(ROOT / "studies" / "refund_steering"))
    for name in MODULES:
        sys.modules.pop(name, None)
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def judging(study, monkeypatch):
    found = study("judging")
    frame = {"before": "my ", "after": " please can you", "yes": "yes", "no": "no"}
    monkeypatch.setattr(found, "FRAME", frame)
    return found


def test_the_page_is_filled_from_the_committed_result(study):
    page, text = study("page"), (ROOT / "docs" / "refunds.md").read_text(encoding="utf-8")
    results = {
        name: json.loads(path.read_text(encoding="utf-8")) for name, path in study("run").RESULTS.items()
    }
    made = page.contents(results, blocks(text))
    assert {f"steering-{name}" for name in page.SECTIONS} < set(made) and filled(text, made) == text
    for result in results.values():
        assert all(page.is_there(result, part) for part in ("held_out", "controls", "inside", "side_effects"))
        kept = result["side_effects"]["kl"]
        result["side_effects"]["kl"] = {name: 2 * kl for name, kl in kept.items()}
        assert filled(text, page.contents(results, blocks(text))) != text
        result["side_effects"]["kl"] = kept


def random_sae(d_sae: int = 48) -> SAE:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((d_sae, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    weights = {
        "W_enc": rows,
        "W_dec": rows,
        "b_enc": np.zeros(d_sae, np.float32),
        "b_dec": np.zeros(32, np.float32),
    }
    return SAE.from_rows(weights, TopK(k=6), metadata={"model_name": "tiny", "hook_name": HOOK})


def test_short_tickets_say_what_a_refund_depends_on(study):
    judging = study("judging")
    for item in tickets(50, 0, "train", "large"):
        text = judging.short(item)
        for label in judging.SPOKEN_OF:
            assert item.text[item.onsets[label] :][:8] in text
        assert len(text) < len(item.text)


def test_the_gradient_is_that_of_a_real_push(judging, tiny_lm):
    """Of the margin by a vector added at the ticket's positions, against central differences through the judge."""
    items = tickets(12, 0, "train", "large")
    bench = judging.Bench(tiny_lm, judging.judge_of(tiny_lm, items), HOOK)
    gradients, activations = bench.read(items, batch=5)
    assert [len(x) for x in activations] == [
        len(tiny_lm.tokenizer.encode(bench.judge.prompt(judging.short(item)))) - bench.first for item in items
    ]
    rng = np.random.default_rng(0)
    pushes = {str(i): 1e-2 * rng.standard_normal(32).astype(np.float32) for i in range(4)}
    margins = bench.margins(
        items, {f"{name}{s:+d}": s * v for name, v in pushes.items() for s in (1, -1)}, chunk=7
    )
    for name, v in pushes.items():
        real = (margins[f"{name}+1"] - margins[f"{name}-1"]) / 2
        np.testing.assert_allclose(real, gradients @ v, atol=2e-3 * np.abs(real).max() + 2e-5)
    assert max(np.abs(margins["0+1"] - margins["unsteered"])) > 1e-3


def test_pushes_inside_a_ticket_are_not_felt_by_what_follows_it(judging, tiny_lm):
    """A push up to a column is that of each ticket alone, whatever the padding of the chunk."""
    items = tickets(9, 0, "train", "large")
    bench = judging.Bench(tiny_lm, judging.judge_of(tiny_lm, items), HOOK)
    vector = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    together, everywhere = (
        bench.margins(items, {"push": vector}, inside=inside)["push"] for inside in (True, False)
    )
    alone = [bench.margins([item], {"push": vector}, inside=True)["push"][0] for item in items]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together - everywhere).max() > 1e-3


def test_parts_are_kept_and_gone_on_from(study, judging, tiny_lm, tmp_path, monkeypatch):
    run, page = study("run"), study("page")
    monkeypatch.setattr(run, "load_model", lambda _name: tiny_lm)
    monkeypatch.setattr(
        run, "neutral_texts", lambda: ["my order is late", "the price is not available for you"]
    )
    random_sae().save(tmp_path / "sae")
    args = Namespace(
        model=None,
        sae=str(tmp_path / "sae"),
        tickets=20,
        final=24,
        development=24,
        judged=20,
        controls=6,
        control_tickets=10,
        directions=30,
        detector=None,
        side_controls=3,
        json=tmp_path / "result.json",
        seed=0,
    )
    original, prepared = run.side_effects, run.prepared

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "side_effects", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.run(args)
    kept = json.loads(args.json.read_text())
    assert {"judge", "prepared", "controls", "inside"} <= set(kept) and "side_effects" not in kept
    monkeypatch.setattr(run, "side_effects", original)
    monkeypatch.setattr(run, "prepared", stopped)  # done before
    result = json.loads(json.dumps(run.run(args)))
    assert result == json.loads(args.json.read_text())
    assert result["prepared"] == kept["prepared"] and result["controls"] == kept["controls"]

    ready, held = result["prepared"], result["held_out"]
    assert len(ready["random_effects"]) == 30 and len(ready["effects"]) == len(ready["living"])
    assert len(held["margins"]) == 1 + 5 * 5 * 2 and all(len(v) == 20 for v in held["margins"].values())
    # the smallest dose does what the gradient says of it: on these tickets, to rounding of the file
    name = "gradient itself"
    up, down = (np.mean(held["margins"][f"{name} × {dose}"]) for dose in ("0.1", "-0.1"))
    assert up > down
    strengths = np.abs(ready["effects"])
    assert abs(
        ready["arm_effects"][next(n for n in ready["arms"] if n.startswith("strongest"))]
    ) == pytest.approx(max(ready["effects"]), abs=1e-4)
    assert ready["slope_norm"] >= strengths.max() - 1e-4
    value, low, high = page.percentiles(result, name, "direction")
    own = abs(np.mean(result["controls"]["changes"][name]))
    others = [abs(np.mean(result["controls"]["changes"][f"direction {i}"])) for i in range(6)]
    assert value == np.mean(np.array(others) < own) and low <= high
    names = [f"steering-{name}" for name in page.SECTIONS]
    assert list(page.contents({"steering": result}, names)) == names

    # a latent may be named, and is then the detector; the result says so
    alive = ready["living"][-1]
    args.detector, args.json = alive, tmp_path / "named.json"
    monkeypatch.setattr(run, "prepared", prepared)
    named = run.run(args)
    assert f"detector ({alive})" in named["prepared"]["arms"]
    assert named["arguments"]["detector"] == alive and "detector" not in result["arguments"]
    args.detector, args.json = 10**6, tmp_path / "none.json"
    with pytest.raises(SystemExit, match="--detector: got 1000000"):
        run.run(args)
    args.detector, args.json = None, tmp_path / "result.json"
    args.tickets = 30
    with pytest.raises(SystemExit, match="made with other arguments"):
        run.run(args)


def test_the_latent_that_was_found_does_what_the_page_says_of_it(study):
    """Fires for refunds alone, comes first by gradient, moves the judge further than all controls, at such a price."""
    grid = json.loads((ROOT / "docs" / "results" / "refund_feature.json").read_text(encoding="utf-8"))
    place = {"layer": 15, "width": 4608, "architecture": "Matryoshka", "seed": 2}
    (row,) = (row for row in grid["rows"] if all(row[k] == v for k, v in place.items()))
    latent = row["topic"]["refund_asked"]["latent"]
    (number,) = latent["units"]
    there = latent["specificity"]["held-out"]
    assert latent["auroc"]["value"] > 0.9 and 0.45 < there["recall"] < 0.55
    assert there["precision"] > 0.995 and there["without"] < 0.005 and there["neutral"] == 0

    page = study("page")
    found = json.loads(study("run").RESULTS["found"].read_text(encoding="utf-8"))
    assert found["arguments"]["detector"] == number
    detector, ready = f"detector ({number})", found["prepared"]
    assert ready["living"][int(np.argmax(ready["effects"]))] == number and len(ready["living"]) > 2000
    for part in ("controls", "inside"):
        assert all(page.percentiles(found, detector, kind, part)[0] == 1 for kind in ("latent", "direction"))
    kl = found["side_effects"]["kl"]
    assert kl[f"{detector} × 1"] > page.COST and 0.0145 < kl[f"{detector} × 0.5"] < 0.0155
    held = {name: np.mean(v) for name, v in found["held_out"]["margins"].items()}
    half, whole = (held[f"{detector} × {dose}"] - held["unsteered"] for dose in ("0.5", "1"))
    assert 0.45 < half / whole < 0.55
