"""The page of a graph: one file that asks for nothing, whatever the texts in it; and the command that writes it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from sparse_sae import SAE, TopK
from sparse_sae.circuits import DictionarySet, LogitDifference, attribute, write_page
from sparse_sae.circuits.page import page

HOSTILE = (
    "</script><script>alert(1)</script><img src=https://example.org/x onerror=alert(1)>\u2028&amp;@DATA@"
)


class Elements(HTMLParser):
    """Elements with their attributes, and the text inside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.inside = False
        self.texts: dict[int, str] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[len(self.found) - 1] = self.texts.get(len(self.found) - 1, "") + data

    def of(self, tag: str) -> list[tuple[dict[str, Any], str]]:
        return [(a, self.texts.get(i, "")) for i, (name, a) in enumerate(self.found) if name == tag]


@pytest.fixture(scope="module")
def made(tiny_lm: Any) -> Any:
    rng = np.random.default_rng(0)
    saes = {}
    for layer in (0, 2):
        params = {"W_enc": rng.normal(size=(40, 32)), "W_dec": rng.normal(size=(40, 32))}
        params |= {"b_enc": np.zeros(40), "b_dec": np.zeros(32)}
        sae = SAE.from_rows(
            {k: v.astype(np.float32) for k, v in params.items()}, TopK(k=5), apply_b_dec_to_input=False
        )
        saes[f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out"] = sae
    return DictionarySet(saes, model_name="tiny")


@pytest.fixture(scope="module")
def graph(tiny_lm: Any, made: Any) -> Any:
    whole = attribute(tiny_lm, made, "the parcel is late please", LogitDifference("refund", "money"))
    pruned = whole.prune()
    pruned.confirm(n_edges=6, n_nodes=4, n_random=2)
    return whole, pruned


def test_hostile_texts_stay_texts_and_nothing_is_fetched(graph: Any, tmp_path: Path) -> None:
    whole, pruned = graph
    pruned.words[1], before = HOSTILE, pruned.words[1]
    feature = int(np.flatnonzero(pruned.kind == 2)[0])
    names = {(int(pruned.layer[feature]), int(pruned.latent[feature])): HOSTILE}
    try:
        write_page(
            pruned,
            tmp_path / "g.html",
            title=HOSTILE,
            whole=whole,
            names=names,
            supernodes=[(HOSTILE, [feature])],
        )
    finally:
        pruned.words[1] = before
    text = (tmp_path / "g.html").read_text()
    elements = Elements(text)
    assert [name for name, _ in elements.found].count("script") == 2 and not elements.of("img")
    for _, attributes in elements.found:
        assert not {"src", "href", "onerror", "style"} & set(attributes)
    (_, data), (_, script) = elements.of("script")
    read = json.loads(data)
    assert read["title"] == read["words"][1] == read["groups"][0]["name"] == HOSTILE
    assert HOSTILE in read["nodes"][feature]["name"] and read["nodes"][feature]["group"] == HOSTILE
    assert elements.of("title")[0][1] == HOSTILE
    policy = elements.of("meta")[-1][0]["content"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for content in (script, elements.of("style")[0][1]):
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy
    assert not re.search(
        r"innerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttpRequest", script
    )
    assert "http" not in script.replace("http://www.w3.org/2000/svg", "")


def test_it_holds_the_graph_and_what_was_measured(graph: Any) -> None:
    whole, pruned = graph
    read = json.loads(Elements(page(pruned, whole=whole)).of("script")[0][1])
    assert len(read["nodes"]) == len(pruned) and len(read["links"]) == pruned.edges.nnz
    dense = np.zeros(pruned.edges.shape)
    for target, source, weight in read["links"]:
        dense[target, source] = weight
    np.testing.assert_allclose(dense, pruned.edges.toarray(), rtol=1e-4)
    assert "no dictionary in 1 of 3 layers (1)" in read["facts"] and f"of {len(whole)} nodes" in read["facts"]
    measured = pruned.confirmation
    assert read["confirmation"]["verdict"] == measured.verdict and len(read["confirmation"]["random"]) == 2
    assert len(read["confirmation"]["frozen"]["pairs"]) == 6
    assert json.loads(Elements(page(whole)).of("script")[0][1])["confirmation"] is None


@pytest.mark.parametrize(
    ("layers", "said"), [((0,), "2 of 3 layers (1-2)"), ((1,), "2 of 3 layers (0, 2)"), ((0, 1, 2), None)]
)
def test_it_says_which_layers_have_no_dictionary_and_shows_them_as_errors(
    tiny_lm: Any, made: Any, layers: tuple[int, ...], said: str | None
) -> None:
    one = made["blocks.0.hook_mlp_out"].sae
    some = DictionarySet(
        {(f"blocks.{n}.mlp.hook_in", f"blocks.{n}.hook_mlp_out"): one for n in layers}, model_name="tiny"
    )
    graph = attribute(tiny_lm, some, "the parcel is late please", LogitDifference("refund", "money"))
    read = json.loads(Elements(page(graph)).of("script")[0][1])
    missing = set(range(3)) - set(layers)
    sentence = f"no dictionary in {said}: their MLPs are errors"
    assert (sentence in read["facts"]) == bool(missing)
    assert ("no dictionary" in read["facts"]) == bool(missing)
    for layer in range(3):
        here = [n for n in read["nodes"] if n["row"] == layer]
        features = {n["position"] for n in here if n["kind"] == "feature"}
        errors = {n["position"]: n["influence"] for n in here if n["kind"] == "error"}
        assert (not features) == (layer in missing)
        assert set(errors) == set(range(len(read["words"])))
        if layer in missing:  # what a missing layer adds where the answer is made counts
            assert errors[len(errors) - 1] > 0


@pytest.mark.browser
def test_a_reader_sees_which_layers_have_no_dictionary(graph: Any, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    write_page(graph[0], tmp_path / "g.html")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto((tmp_path / "g.html").as_uri())
        seen = tab.inner_text("header")
        browser.close()
    assert "no dictionary in 1 of 3 layers (1): their MLPs are errors" in seen


def test_the_command(
    tiny_lm: Any,
    made: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from sparse_sae.cli import circuits, main

    monkeypatch.setattr(circuits, "open_model", lambda options: tiny_lm)
    made.save(tmp_path / "set")
    command = ["circuit", "the parcel is late please", "--plain", "--set", str(tmp_path / "set")]
    (tmp_path / "texts.txt").write_text("the parcel is late\nmy order is not available please\n" * 4)
    (tmp_path / "own.json").write_text('{"0/3": "mine"}')
    command += ["--names", str(tmp_path / "own.json")]
    labels = ["--label-tokens", "40", "--texts", str(tmp_path / "texts.txt")]
    files = {"--out": "g.json", "--html": "g.html", "--npz": "g.npz", "--save-names": "names.json"}
    asked = [text for option, name in files.items() for text in (option, str(tmp_path / name))]
    assert (
        main(
            [
                *command,
                "--target",
                "refund",
                "--minus",
                "money",
                "--paraphrase",
                "my parcel is late",
                *labels,
                *asked,
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "confirmed" in printed and "over 2 prompts" in printed
    document = json.loads((tmp_path / "g.json").read_text())
    assert document["metadata"]["slug"] == "the-parcel-is-late-please" and document["links"]
    assert all((tmp_path / name).stat().st_size > 50 for name in files.values())
    names = json.loads((tmp_path / "names.json").read_text())["names"]
    assert names["0/3"] == "mine" and " → " in next(text for key, text in names.items() if key != "0/3")
    assert any(f"{text} (L" in printed for text in names.values())
    for extra, message in (
        (["--minus", "money"], "--minus: needs --target"),
        (["--target", "refund price"], "expected one; name one of them by number"),
        (["--set", str(tmp_path)], "dictionaries.json"),
    ):
        assert main([*command, *extra]) == 1
        assert message in capsys.readouterr().err
