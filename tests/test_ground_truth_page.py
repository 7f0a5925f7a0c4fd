"""The guide to ground truth says what its result files say."""

import importlib.util
from pathlib import Path

import pytest

from sparse_sae._io.documents import blocks, filled

ROOT = Path(__file__).parents[1]


@pytest.fixture
def page():
    spec = importlib.util.spec_from_file_location("truth_page", ROOT / "studies" / "ground_truth" / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_guide_is_filled_from_the_committed_results(page):
    text = page.PAGE.read_text(encoding="utf-8")
    assert blocks(text) and set(blocks(text)) == set(page.BLOCKS)
    assert filled(text, page.contents(page.results())) == text


def test_changed_numbers_change_the_guide(page):
    found = page.results()
    found["lesson"]["seeds"][0]["above_0.9"] = 0
    text = page.PAGE.read_text(encoding="utf-8")
    assert filled(text, page.contents(found)) != text


def test_the_results_bear_out_what_the_guide_claims(page):
    """The claims in prose: all features and their number found in every run, above chance, with few
    latents."""
    lesson = page.results()["lesson"]
    for run in lesson["seeds"] + lesson["other_data"]:
        assert run["above_0.9"] == 32
        assert run["above_0.95"] >= 30
        assert run["latents"] == 32
        assert run["l0"] <= 5
        assert run["mean_cosine"] > run["chance_mean_cosine"] + 0.2


def test_dictionaries_bear_out_what_the_guide_claims(page):
    d = page.results()["dictionaries"]
    runs = {}
    for x in d["runs"]:
        runs.setdefault(x["name"], []).append(x["codes"])
        for codes in x["codes"].values():  # BatchTopK has its own L0, the pursuits the same
            assert abs(codes["l0"] - d["settings"]["k"]) < (5 if x["name"] == "BatchTopK" else 1.2)
    assert all(len(codes) == 2 for codes in runs.values())
    sae = min(c["encoder"]["fvu"] for c in runs["TopK, longer"])
    for learned in runs["dictionary learning"]:
        assert 0.45 < learned["reweighted"]["fvu"] / sae < 0.55
        assert learned["omp"]["unused"] == 0
    for of_sae, learned in zip(runs["TopK"], runs["dictionary learning"], strict=True):
        gain = of_sae["encoder"]["fvu"] - learned["omp"]["fvu"]
        assert of_sae["encoder"]["fvu"] - of_sae["omp"]["fvu"] > gain / 2
    assert all(c["omp"]["fvu"] < sae for c in runs["rows of the data"])
    stable = {name: s["mcc"] for name, s in d["stability"].items()}
    assert stable["dictionary learning"] > 2 * stable["TopK"]
    assert abs(stable["dictionary learning"] - stable["rows of the data"]) < 0.05
