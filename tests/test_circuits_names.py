"""Labels of features, names in files, and groups of features that do the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from scipy.sparse import csr_array  # noqa: E402

from sparse_sae import SAE, TopK  # noqa: E402
from sparse_sae.circuits import (  # noqa: E402
    DictionarySet,
    Logit,
    SetCodes,
    attribute,
    encode_texts,
    label_features,
    load_names,
    named,
    save_names,
    supernodes,
)

torch.set_num_threads(1)
TEXTS = ["the parcel is late please", "my order is not available", "we can refund the price"] * 4


@pytest.fixture(scope="module")
def made(tiny_lm: Any) -> DictionarySet:
    """Latent 5 of layer 0 writes what raises the logit of 'money'; latents 7, 8 and 9 of layer 2 write the same."""
    saes: dict[Any, SAE] = {}
    for layer in (0, 2):
        rng = np.random.default_rng(layer)
        params = {name: rng.normal(size=(24, 32)) for name in ("W_enc", "W_dec")}
        params |= {"b_enc": np.zeros(24), "b_dec": np.zeros(32)}
        if layer == 0:
            token = tiny_lm.tokenizer("money")["input_ids"][0]
            params["W_dec"][5] = tiny_lm.model.lm_head.weight[token].numpy()
        else:
            params["W_dec"][[8, 9]] = params["W_dec"][7]
            params["W_enc"][[8, 9]] = params["W_enc"][7] + 0.05 * rng.normal(size=(2, 32))
        saes[f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out"] = SAE.from_rows(
            {name: value.astype(np.float32) for name, value in params.items()},
            TopK(k=8),
            apply_b_dec_to_input=False,
        )
    return DictionarySet(saes, model_name="tiny")


def test_a_label_says_where_a_feature_fires_and_what_it_promotes(tiny_lm: Any, made: DictionarySet) -> None:
    late, refund = (tiny_lm.tokenizer(word)["input_ids"][0] for word in ("late", "refund"))
    values = np.zeros((6, 24), np.float32)
    values[[1, 3], 5], values[4, 5] = 2.0, 3.0
    empty = csr_array(np.zeros((6, 24), np.float32))
    tokens = np.array([9, late, 9, late, refund, 9], np.int32)
    codes = SetCodes(
        "tiny",
        {"blocks.0.hook_mlp_out": csr_array(values), "blocks.2.hook_mlp_out": empty},
        tokens,
        np.arange(6, dtype=np.int32),
        np.zeros(6, np.int32),
    )
    found = label_features(tiny_lm, made, codes, [(0, 5), (2, 1)])
    fires, promotes = found[0, 5].split(" → ")
    assert fires == "late, refund"  # twice 2 is more than 3
    assert promotes.split(", ")[0] == "money" and len(promotes.split(", ")) == 3
    assert found[2, 1].startswith("never fires here → ")
    assert label_features(tiny_lm, made, codes, [(0, 5)], contexts=1)[0, 5].startswith("refund →")
    for features, message in (([(1, 0)], "layer: 1 has no transcoder"), ([(0, 24)], "latent: got 24")):
        with pytest.raises(ValueError, match=message):
            label_features(tiny_lm, made, codes, features)


def test_names_survive_a_file_and_a_plain_object_is_read(tmp_path: Path) -> None:
    names = {(12, 345): "asks “for” a refund", (3, 4): "late"}
    save_names(names, tmp_path / "names.json")
    assert load_names(tmp_path / "names.json") == names
    for text, message in (
        ('{"12/345": "mine"}', None),
        ('{"12-345": "mine"}', "entry '12-345'"),
        ('{"12/345": 3}', 'expected "layer/latent"'),
        ("[]", "expected an object"),
        ("{", "not JSON"),
    ):
        (tmp_path / "own.json").write_text(text)
        if message is None:
            assert load_names(tmp_path / "own.json") == {(12, 345): "mine"}
            continue
        with pytest.raises(ValueError, match=message):
            load_names(tmp_path / "own.json")


@pytest.mark.parametrize("with_codes", [False, True])
def test_latents_that_do_the_same_are_one_group(tiny_lm: Any, made: DictionarySet, with_codes: bool) -> None:
    graph = attribute(tiny_lm, made, "the parcel is late please", Logit("refund"))
    codes = encode_texts(tiny_lm, made, TEXTS, pack=False, compute_dtype="float32") if with_codes else None
    present = {int(j) for j in graph.latent[(graph.kind == 2) & (graph.layer == 2)]} & {7, 8, 9}
    assert len(present) > 1
    groups = supernodes(graph, tiny_lm, made, {(2, 8): "twins"}, codes, similarity=0.6)
    ((name, members),) = [
        g for g in groups if any(graph.layer[i] == 2 and graph.latent[i] in present for i in g[1])
    ]
    assert {int(graph.latent[i]) for i in members if graph.layer[i] == 2} >= present
    assert name == ("twins" if 8 in present else "L2/7")
    nodes = [i for _, group in groups for i in group]
    assert len(set(nodes)) == len(nodes) and (graph.kind[nodes] == 2).all()


def test_a_graph_speaks_in_names(tiny_lm: Any, made: DictionarySet) -> None:
    graph = attribute(tiny_lm, made, "the parcel is late please", Logit("refund"))
    i = int(np.flatnonzero(graph.kind == 2)[0])
    feature = int(graph.layer[i]), int(graph.latent[i])
    told = named(graph, {feature: "lateness"})
    assert told.labels[i] == f"lateness (L{feature[0]}/{feature[1]} at {graph.words[graph.position[i]]!r})"
    assert told.origin is graph.origin and graph.labels[i].startswith("L")
