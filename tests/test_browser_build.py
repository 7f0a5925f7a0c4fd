"""The browser's file: what it says of latents is what the codes say, and bad input ends in a sentence."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparse_sae
from sparse_sae.audit.hashes import sae_sha256
from sparse_sae.browser import build, build as build_function, open_browser, schema
from sparse_sae.browser.building import fingerprint_of_sae
from sparse_sae.browser.neighbours import by_coactivation, by_direction, largest
from sparse_sae.browser.spill import Spill
from sparse_sae.data.store import ActivationStore, StoreWriter
from sparse_sae.probing import auroc
from sparse_sae.sae import SAE
from sparse_sae.transforms import Transform

D, M, LENGTH, TEXTS = 16, 96, 40, 60
HOSTILE = [
    "</script>",
    "<img src=x onerror=alert(1)>",
    "\u202egnp.exe",
    "a\0b",
    "⟨e2⟩",
    "x" * 10_000,
    "\ud800",
    "'\"&",
]
WORDS = HOSTILE + [f" word{i}" for i in range(40)]


def make_store(
    path: Path, *, d: int = D, model: str = "m", hook: str = "h", seed: int = 0, texts: int = TEXTS
) -> ActivationStore:
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((len(WORDS), d))
    writer = StoreWriter(path, d, "float32", model=model, hook=hook)
    for text in range(texts):
        tokens = rng.integers(0, len(WORDS), LENGTH)
        rows = 4 * directions[tokens] + 0.3 * rng.standard_normal((LENGTH, d))
        writer.append(rows, tokens, np.arange(LENGTH), np.full(LENGTH, text))
    writer.finish()
    return ActivationStore(path)


def make_sae(seed: int = 0, d: int = D, **metadata: str) -> SAE:
    rows = np.random.default_rng(seed).standard_normal((M, d)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[5] = rows[4]
    params = {
        "W_enc": rows,
        "W_dec": rows.copy(),
        "b_enc": np.zeros(M, np.float32),
        "b_dec": np.zeros(d, np.float32),
    }
    params["b_enc"][7] = -1e6  # never fires
    return SAE.from_rows(params, sparse_sae.TopK(k=4), metadata=metadata)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[SAE, ActivationStore, Path]:
    directory = tmp_path_factory.mktemp("browser")
    sae, store = make_sae(model_name="m", hook_name="h"), make_store(directory / "store")
    sides = {"positive": list(range(0, TEXTS, 2)), "negative": list(range(1, TEXTS, 2))}
    path = build(
        sae,
        store,
        directory / "f.db",
        vocabulary=WORDS,
        others={"seed 1": make_sae(1)},
        labels={"even": sides},
    )
    return sae, store, path


def test_numbers_are_those_of_the_codes(made: tuple[SAE, ActivationStore, Path]) -> None:
    sae, store, path = made
    codes = sae.encode(store.rows()).tocsc()
    whole = store.select(exclude=())
    place = np.searchsorted(whole.numbers, store.numbers)
    file = open_browser(path)
    for j in range(0, M, 7):
        values, rows = codes[:, [j]].data, place[codes[:, [j]].indices]
        found = file.latent(j)
        assert found["count"] == len(values)
        if not len(values):
            assert j == 7 and found["label"] == "never fires" and found["contexts"][0] == []
            continue
        assert found["density"] == pytest.approx(len(values) / len(store))
        assert found["maximum"] == pytest.approx(values.max()) and found["mean"] == pytest.approx(
            values.mean()
        )
        assert found["histogram"] == np.histogram(values, 50, (0, values.max()))[0].tolist()
        assert sum(found["intervals"]) == len(values)
        texts = whole.documents[rows]
        best = sorted((values[texts == t].max() for t in np.unique(texts)), reverse=True)[:20]
        top = found["contexts"][0]
        assert [c["value"] for c in top] == pytest.approx(best, abs=1e-3)
        at = dict(zip(rows.tolist(), values.tolist(), strict=True))
        for group in found["contexts"]:
            for c in group:
                begin = c["row"] - c["at"]
                assert begin // LENGTH == (begin + len(c["tokens"]) - 1) // LENGTH, "one text only"
                expected = {r - begin: v for r, v in at.items() if begin <= r < begin + len(c["tokens"])}
                assert dict(c["active"]) == pytest.approx(expected, abs=1e-3)
                shown = [
                    WORDS[t].encode("utf-8", "backslashreplace").decode()
                    for t in whole.tokens[begin : begin + len(c["tokens"])]
                ]
                assert c["tokens"] == shown
        for i, group in enumerate(found["contexts"][1:]):
            low = (9 - i) / 10 * found["maximum"]
            assert len(group) == min(5, found["intervals"][9 - i])
            assert all(low * 0.999 <= c["value"] <= low + found["maximum"] / 10 * 1.001 for c in group)


def test_label_and_its_evidence_can_be_counted(made: tuple[SAE, ActivationStore, Path]) -> None:
    sae, store, path = made
    codes, tokens = sae.encode(store.rows()).tocsc(), store.select(exclude=()).tokens
    place = np.searchsorted(store.select(exclude=()).numbers, store.numbers)
    file, seen = open_browser(path), 0
    for j in range(M):
        evidence = file.latent(j)["evidence"]
        if evidence["kind"] != "on":
            continue
        seen += 1
        column = codes[:, [j]]
        fired = tokens[place[column.indices]]
        strong = column.data >= column.data.max() / 2
        assert evidence["strong"] == strong.sum()
        assert evidence["cover"] == pytest.approx(np.isin(fired[strong], evidence["tokens"]).mean())
        share = np.isin(fired, evidence["tokens"]).sum() / np.isin(tokens, evidence["tokens"]).sum()
        assert evidence["precision"] == pytest.approx(share)
    assert seen > M / 2


def test_neighbours(made: tuple[SAE, ActivationStore, Path], tmp_path: Path) -> None:
    sae, store, path = made
    file = open_browser(path)
    cosine = sae.W_dec @ sae.W_dec.T
    np.fill_diagonal(cosine, -1)
    assert file.latent(4)["nearest"][0] == {"id": 5, "label": file.latent(5)["label"], "cosine": 1.0}
    expected = np.sort(cosine[20])[::-1][:10]
    assert [n["cosine"] for n in file.latent(20)["nearest"]] == pytest.approx(
        expected[expected > 0], abs=1e-3
    )
    fires = (sae.encode(store.rows()).toarray() > 0).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        phi = np.nan_to_num(np.corrcoef(fires.T), nan=-1)
    np.fill_diagonal(phi, -1)
    together = file.latent(20)["together"]
    assert [n["phi"] for n in together] == pytest.approx(np.sort(phi[20])[::-1][: len(together)], abs=1e-3)
    first = together[0]
    assert first["given"] == pytest.approx(fires[fires[:, 20] > 0][:, first["id"]].mean(), abs=1e-3)
    assert first["base"] == pytest.approx(fires[:, first["id"]].mean(), abs=1e-3)


def test_largest_is_a_sort() -> None:
    values = np.random.default_rng(0).standard_normal((3, 5000))
    for k, width in ((10, 5000), (4, 4), (5, 3), (10, 700)):
        part = values[:, :width]
        assert (largest(part, k) == np.argsort(-part, axis=1)[:, :k]).all()


def test_normalises_directions() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    assert (by_direction(rows).latent == by_direction(rows * 3).latent).all()


def test_comparison_and_detection_carry_their_chance_levels(made: tuple[SAE, ActivationStore, Path]) -> None:
    sae, store, path = made
    file = open_browser(path)
    matching = sparse_sae.match.match(sae, make_sae(1))
    a, b = matching.pairs[3]
    assert file.latent(int(a))["matches"]["seed 1"] == [int(b), pytest.approx(matching.scores[3], abs=1e-4)]
    assert file.latent(int(a))["stability"] == pytest.approx(matching.scores[3])
    assert 0 < file.meta["compared"]["seed 1"]["chance"] < 1
    codes = sae.encode(store.rows()).toarray()
    scores = np.stack([codes[store.documents == t].max(0) for t in range(TEXTS)])
    areas = auroc(scores, np.arange(TEXTS) % 2 == 0)
    assert [file.latent(j)["aurocs"]["even"] for j in (0, 50)] == pytest.approx(areas[[0, 50]], abs=1e-4)
    assert 0.5 < file.meta["auroc_chance"]["even"] < 1


def test_search_sort_and_filters(made: tuple[SAE, ActivationStore, Path]) -> None:
    file = open_browser(made[2])
    found = file.latents("word17")
    on = [j for j in range(M) if " word17" in file.latent(j)["evidence"]["texts"]]
    assert on and set(on) <= {row["id"] for row in found["rows"]}
    assert found["rows"][0]["id"] in on, "a latent that fires on the word comes first"
    assert file.latents("30")["rows"][0]["id"] == 30
    densities = [row["density"] for row in file.latents(sort="density")["rows"]]
    assert densities == sorted(densities, reverse=True)
    dead = [r["id"] for r in file.latents(kind="dead")["rows"]]
    assert 7 in dead and dead == [j for j in range(M) if not file.latent(j)["count"]]
    assert file.latents(filters={"max_density": densities[5]})["total"] == M - 5
    second = file.latents(offset=60)["rows"]
    assert [r["id"] for r in second] == list(range(60, M))
    for text in ('"', "a OR", "NEAR(", "*", "%", "' OR 1=1 --", "\0", "word17 )", "-"):
        file.latents(text)  # nothing is an operator
    for wrong in ({"sort": "x"}, {"kind": "x"}, {"filters": {"x": 1}}):
        with pytest.raises(ValueError, match="expected"):
            file.latents(**wrong)
    with pytest.raises(IndexError, match="expected 0 to 95"):
        file.latent(M)


def test_memory_of_a_stopped_build_is_used(
    tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae, store, whole = made
    monkeypatch.setattr("sparse_sae.browser.spill.SEGMENT_ENTRIES", 2000)
    monkeypatch.setattr("sparse_sae.browser.spill.BLOCK_ROWS", 100)
    monkeypatch.setattr("sparse_sae.browser.building.GROUP_ENTRIES", 500)
    encode, calls = sae.encode, []

    def counted(x: Any) -> Any:
        calls.append(len(x))
        if sum(calls) == 1500:
            raise KeyboardInterrupt
        return encode(x)

    monkeypatch.setattr(sae, "encode", counted)
    with pytest.raises(KeyboardInterrupt):
        build(sae, store, tmp_path / "f.db", vocabulary=WORDS)
    assert not (tmp_path / "f.db").exists()
    calls.clear()
    build(sae, store, tmp_path / "f.db", vocabulary=WORDS)
    assert 0 < sum(calls) < len(store) - 900, "rows of whole segments are not encoded again"
    assert [p.name for p in tmp_path.iterdir()] == ["f.db"]
    # In many small segments and groups, the same file.
    a, b = open_browser(whole), open_browser(tmp_path / "f.db")
    for j in range(M):
        one, two = a.latent(j), b.latent(j)
        for name in ("contexts", "histogram", "evidence", "nearest", "together"):
            assert one[name] == two[name]


def test_sampled_coactivation_is_close_to_the_whole(made: Any, tmp_path: Path) -> None:
    sae, store, _ = made
    spill = Spill(tmp_path, M)
    spill.append(sae.encode(store.rows()), np.arange(len(store)))
    part, whole = by_coactivation(spill, 1000), by_coactivation(spill)
    assert 900 < part.rows < 1100 and whole.rows == len(store)
    assert abs(part.base[20, 0] - whole.base[20, 0]) < 0.1


def test_what_a_user_wrote_survives_a_new_build(made: Any, tmp_path: Path) -> None:
    from sparse_sae.browser import user

    sae, store, _ = made
    path = build(sae, store, tmp_path / "f.db")
    user.set_label(path, 3, "mine", "")
    number = user.create_list(path, "good ones")
    user.set_member(path, number, 3, True)
    build(sae, store, path, vocabulary=WORDS)
    file = open_browser(path)
    assert file.latent(3)["note"] == "mine" and file.lists()[0]["latents"] == [3]
    assert file.latents(kind="labelled")["total"] == 1 and file.latents("mine")["rows"][0]["id"] == 3
    with pytest.raises(FileExistsError, match="another SAE or store and holds a user's labels"):
        build(make_sae(2), store, path)
    assert open_browser(path).latent(3)["note"] == "mine"


def test_all_that_decides_the_codes_identifies_an_sae() -> None:
    sae = make_sae()
    others = [
        make_sae(1),
        SAE.from_rows(sae.params, sparse_sae.TopK(k=5)),
        SAE.from_rows(sae.params, sae.activation, apply_b_dec_to_input=False),
        SAE.from_rows(sae.params, sae.activation, transform=Transform("token_norm")),
        SAE.from_rows(
            sae.params, sae.activation, transform=Transform("scale", {"scale": np.ones(D, np.float32)})
        ),
        SAE.from_rows(
            sae.params, sae.activation, transform=Transform("scale", {"scale": np.full(D, 2, np.float32)})
        ),
    ]
    for identify in (fingerprint_of_sae, sae_sha256):
        assert len({identify(each) for each in (sae, *others)}) == 1 + len(others)
        assert identify(make_sae()) == identify(make_sae(model_name="named")) == identify(sae)


@pytest.mark.parametrize(
    ("store", "sae", "said"),
    [
        ({"d": 8}, {}, "its rows are 8 wide, the SAE reads 16"),
        ({"model": "other"}, {"model_name": "m"}, "model 'm', and the data is of 'other'"),
        ({"hook": "other"}, {"hook_name": "h"}, "hook point 'h', and the data is of 'other'"),
    ],
)
def test_a_store_that_does_not_fit(tmp_path: Path, store: Any, sae: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(make_sae(**sae), make_store(tmp_path / "s", texts=2, **store), tmp_path / "f.db")
    assert not (tmp_path / "f.db").exists()


def test_a_store_without_tokens(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s", D, "float32")
    rows = np.random.default_rng(0).standard_normal((50, D))
    writer.append(rows, np.zeros(50), np.arange(50), np.zeros(50))
    writer.finish()
    with pytest.raises(ValueError, match="written without tokens"):
        build(make_sae(), ActivationStore(tmp_path / "s"), tmp_path / "f.db")


def test_two_builds_of_one_file(made: Any, tmp_path: Path) -> None:
    sae, store, _ = made

    def other(stage: str, done: int, total: int) -> None:
        with pytest.raises(BlockingIOError, match="another build of"):
            build_function(sae, store, tmp_path / "f.db")

    build(sae, store, tmp_path / "f.db", progress=other)


@pytest.mark.parametrize("sides", [([0], []), ([0], [9999]), ([0], [0])])
def test_labels_that_are_none(made: Any, tmp_path: Path, sides: Any) -> None:
    labels = {"x": dict(zip(("positive", "negative"), sides, strict=True))}
    with pytest.raises(ValueError, match="labels: 'x'"):
        build(made[0], made[1], tmp_path / "f.db", labels=labels)


def test_files_that_are_none_of_ours(made: Any, tmp_path: Path) -> None:
    good = made[2].read_bytes()
    bad = tmp_path / "bad.db"
    cases = {
        "not a SQLite file": b"hello",
        "truncated": good[: len(good) // 2],
        "of another program": good[:68] + b"\0\0\0\1" + good[72:],
        "of version 99": good[:60] + (99).to_bytes(4, "big") + good[64:],
    }
    for said, content in cases.items():
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            open_browser(bad)
        with pytest.raises(FileExistsError, match="Nothing was changed"):
            build(made[0], made[1], bad)
        assert bad.read_bytes() == content
    damaged = bytearray(good)
    damaged[4096:] = bytes(len(good) - 4096)
    bad.write_bytes(damaged)
    with pytest.raises(ValueError, match="damaged"):
        open_browser(bad)
    with pytest.raises(ValueError, match="missing"):
        open_browser(tmp_path / "nothing.db")


def test_two_writers_and_a_writer_of_anything_else(made: Any, tmp_path: Path) -> None:
    from sparse_sae.browser import user

    path = tmp_path / "f.db"
    path.write_bytes(made[2].read_bytes())
    assert user.set_label(path, 1, " first ", "") == "first"
    with pytest.raises(user.Conflict, match="changed elsewhere to 'first'"):
        user.set_label(path, 1, "second", "")
    assert user.set_label(path, 1, "", "first") == ""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OSError, match="another program is writing"), schema.writing(path, seconds=0.05):
        pass
    other.close()
    with pytest.raises(ValueError, match=r"prohibited|not authorized"), schema.writing(path) as connection:
        connection.execute("DELETE FROM latents")
    assert open_browser(path).latents()["total"] == M


def test_in_a_notebook(made: Any) -> None:
    file = open_browser(made[2])
    fires_on_hostile = [
        j for j in range(M) if set(file.latent(j)["evidence"]["tokens"]) & set(range(len(HOSTILE)))
    ]
    assert fires_on_hostile
    for j in fires_on_hostile:
        shown = file[j]._repr_html_()
        assert (
            "<script" not in shown.lower()
            and "<img" not in shown
            and "\u202e" not in shown
            and "\0" not in shown
        )
        assert len(shown) < 60_000
    assert repr(file[3]).startswith("<latent 3 ")
    assert "of 2,340 tokens" in file[3]._repr_html_()


def test_exports(made: Any, tmp_path: Path) -> None:
    from sparse_sae.browser.export import write_html
    from sparse_sae.browser.neuronpedia import write_neuronpedia

    file = open_browser(made[2])
    write_html(file, tmp_path / "x.html", [3, 1])
    text = (tmp_path / "x.html").read_text()
    assert (
        text.count("</script>") == 2
        and "onerror" not in text.replace("onerror:", "")
        and "\u202e" not in text
    )
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")
    write_neuronpedia(file, tmp_path / "np", [3, 1])
    write_neuronpedia(file, tmp_path / "np", [3])
    assert sorted(p.name for p in (tmp_path / "np").iterdir()) == [
        "activations-3.json",
        "features.json",
        "neuronpedia.json",
    ]
    (feature,) = json.loads((tmp_path / "np/features.json").read_text())
    latent = file.latent(3)
    assert feature["frac_nonzero"] == latent["density"] and len(feature["freq_hist_data_bar_heights"]) == 50
    rows = json.loads((tmp_path / "np/activations-3.json").read_text())
    assert rows[0]["maxValue"] == max(rows[0]["values"]) == pytest.approx(latent["maximum"], abs=1e-3)
    with pytest.raises(ValueError, match="none twice"):
        write_html(file, tmp_path / "y.html", [1, 1])


def test_neighbours_do_not_depend_on_tiles_and_copy_no_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    from sparse_sae.browser import neighbours

    rows = np.random.default_rng(0).standard_normal((1500, 1024)).astype(np.float32) * 3  # not of length 1
    rows[700:703] = rows[0]  # ties, in another tile
    whole = neighbours.by_direction(rows)
    cosines = rows @ rows.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(rows, axis=1))
    np.fill_diagonal(cosines, -1)
    np.testing.assert_allclose(whole.score, -np.sort(-cosines, axis=1)[:, :10], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(cosines, whole.latent, 1), whole.score, atol=1e-5)
    assert whole.latent[701, :3].tolist() == [0, 700, 702]
    monkeypatch.setattr(neighbours, "_TILE", 128)
    tracemalloc.start()
    tiled = neighbours.by_direction(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tiled.latent == whole.latent).all() and (tiled.score == whole.score).all()
    assert peak < rows.nbytes / 2


def test_an_html_export_says_nothing_twice_and_everything_once(made: Any) -> None:
    from sparse_sae.browser.export import packed

    file = open_browser(made[2])
    chosen = list(range(0, M, 3))
    data = packed(file, chosen)
    strings, stream = data["strings"], data["stream"]
    assert len(set(strings)) == len(strings) and set(stream) <= set(range(len(strings)))
    windows = {
        row
        for j in chosen
        for group in file.latent(j)["contexts"]
        for c in group
        for row in range(c["row"] - c["at"], c["row"] - c["at"] + len(c["tokens"]))
    }
    assert len(stream) == len(windows), "each token of the store once"
    for j, small in zip(chosen, data["latents"], strict=True):
        latent = file.latent(j)
        assert (
            small["density"] == pytest.approx(latent["density"], rel=1e-3)
            and small["count"] == latent["count"]
        )
        assert [strings[n["label"]] for n in small["nearest"]] == [n["label"] for n in latent["nearest"]]
        for ours, theirs in zip(small["contexts"], latent["contexts"], strict=True):
            assert len(ours) == len(theirs)
            for (begin, length, at, value, *others), c in zip(ours, theirs, strict=True):
                assert [strings[t] for t in stream[begin : begin + length]] == c["tokens"] and at == c["at"]
                active = {at: value} | dict(zip(others[::2], others[1::2], strict=True))
                assert active == pytest.approx(dict(c["active"]), rel=6e-3)


def test_parquet_holds_what_the_json_holds(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_sae.browser import parquet
    from sparse_sae.browser.neuronpedia import write_neuronpedia

    table = pytest.importorskip("pyarrow.parquet", reason="the extra [parquet] is not installed").read_table
    file, chosen = open_browser(made[2]), [5, 1, 2, 9]
    monkeypatch.setattr(parquet, "GROUP", 3)  # more groups than one
    write_neuronpedia(file, tmp_path / "json", chosen)
    parquet.write_parquet(file, tmp_path / "np", [0])
    parquet.write_parquet(file, tmp_path / "np", chosen)  # replaces the earlier one
    assert sorted(p.name for p in (tmp_path / "np").iterdir()) == [
        "activations.parquet",
        "features.parquet",
        "neuronpedia.json",
    ]
    of_file = {"modelId": file.meta["model_name"], "layer": file.meta["hook_name"]}
    features = table(tmp_path / "np/features.parquet")
    known = json.loads((tmp_path / "json/features.json").read_text())
    assert [r["index"] for r in known] == list(map(str, chosen))
    contexts = [
        row for j in chosen for row in json.loads((tmp_path / f"json/activations-{j}.json").read_text())
    ]
    activations = table(tmp_path / "np/activations.parquet")
    for found, expected in ((features, known), (activations, contexts)):
        assert found.num_rows == len(expected) > 0
        for ours, theirs in zip(found.to_pylist(), expected, strict=True):
            assert ours.keys() == (of_file | theirs).keys()
            for name, value in (of_file | theirs).items():
                texts = isinstance(value, str) or (
                    isinstance(value, list) and value and isinstance(value[0], str)
                )
                assert ours[name] == (value if texts else pytest.approx(value, rel=1e-6)), name
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        parquet.write_parquet(file, tmp_path / "foreign", chosen)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'sparse-sae\[parquet\]'"):
        parquet.write_parquet(file, tmp_path / "np", chosen)
    assert (tmp_path / "np/features.parquet").is_file()


def test_page_modules_can_be_joined() -> None:
    """The export joins them into one script: no top-level name twice, no import that the joiner does not see."""
    import re

    from sparse_sae.browser.export import _PAGE, bundle

    names: list[str] = []
    for path in sorted(_PAGE.glob("*.js")):
        text = path.read_text()
        names += re.findall(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", text, re.M)
        assert "innerHTML" not in text and "eval(" not in text and "document.write" not in text
    assert len(names) == len(set(names)), sorted(n for n in names if names.count(n) > 1)
    joined = bundle("offline.js")
    assert not re.search(r"^(import|export)\b", joined, re.M) and "class LatentList" in joined
