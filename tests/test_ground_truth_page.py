"""The guide to ground truth says what its result files say."""

import importlib.util
from pathlib import Path

import numpy as np
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


def test_recipes_bear_out_what_the_guide_claims(page):
    d = page.results()["recipes"]

    def mean(where, name, value):
        return np.mean([value(x) for x in d[where] if x["name"] == name])

    def planted(name, key):
        return mean("planted", name, lambda x: x[key])

    def real(name, key):
        return mean("real", name, lambda x: x[key])

    def refined(name):
        return mean("planted", name, lambda x: x["refined"]["f1"] / x["f1"])

    for name in ("TopK", "one LISTA step", "OrtSAE"):
        assert 1.15 < refined(name) < 1.3
    assert refined("KronSAE, 4 x 4") < 1.1
    lista, nested = "one LISTA step", "one LISTA step, Matryoshka"
    assert planted(lista, "samples") < 0.25 * planted("TopK", "samples")
    assert planted(lista, "mcc") > planted("TopK", "mcc")
    assert planted(lista, "best_f1") > 1.3 * planted("TopK", "best_f1")
    assert 1 < planted(lista, "f1") / planted("TopK", "f1") < 1.1
    assert planted(lista, "absorption") > planted("TopK", "absorption")
    assert real(lista, "fvu") > real("TopK", "fvu")
    assert planted(nested, "f1") < planted(lista, "f1") / 2
    assert planted(nested, "absorption") < 0.25 * planted(lista, "absorption")
    assert planted("Matryoshka", "f1") < planted("BatchTopK", "f1")
    assert planted("Matryoshka", "absorption") < 0.6 * planted("BatchTopK", "absorption")
    assert planted("OrtSAE", "f1") > 1.9 * planted("BatchTopK", "f1")
    assert planted("OrtSAE", "absorption") < 0.3 * planted("BatchTopK", "absorption")
    assert planted("OrtSAE", "dead_fraction") < 0.1 * planted("BatchTopK", "dead_fraction")
    assert planted("BatchTopK", "explained_variance") - planted("OrtSAE", "explained_variance") < 0.05
    assert real("OrtSAE", "nearest_cosine") < 0.8 * real("BatchTopK", "nearest_cosine")
    assert real("OrtSAE", "fvu") > real("BatchTopK", "fvu")
    assert d["stability"]["real: OrtSAE"]["mcc"] < d["stability"]["real: BatchTopK"]["mcc"]
    assert planted("TopK", "f1") > planted("OrtSAE", "f1")
    more = "OrtSAE, ten times the weight"
    assert planted(more, "f1") < planted("BatchTopK", "f1") and real(more, "fvu") > 1.2 * real(
        "OrtSAE", "fvu"
    )
    assert 1.3 < real("KronSAE, 4 x 4", "fvu") / real("TopK", "fvu") < 1.4
    assert real("KronSAE, 4 x 4", "dead_fraction") > 0.5
    for where in ("planted", "real"):  # equal time, within what could be foreseen
        seconds = [x["cpu_seconds"] for x in d[where]]
        assert max(seconds) < 1.4 * min(seconds)
    in_model = d["in_model"]
    assert in_model["tokens"] > 99_000
    gap = {name: x["ce"] - in_model["ce"] for name, x in in_model["recipes"].items()}
    less = {name: 1 - value / gap["TopK"] for name, value in gap.items()}
    assert 0.1 < less["TopK, then KL + MSE"] < less["TopK, as long"] < 0.2
    assert 0.28 < less["BatchTopK"] == max(less.values()) and less["Matryoshka"] > 0.24
    assert 0.1 < less[lista] < 0.15
    assert 1.15 < real("Matryoshka", "fvu") / real("TopK", "fvu") < 1.2
    trained = mean("real", "TopK", lambda x: x["cpu_seconds"])
    assert 5 < d["finetune"]["cpu_seconds"] / trained < 6
