"""evaluate against the formulas it states; detectors against hand-made cases and scikit-learn's definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sae import L1, SAE, TopK, evaluate, train, train_many
from sparse_sae.data.store import ActivationStore, StoreWriter
from sparse_sae.evaluation.metrics import BLOCK_ROWS
from sparse_sae.probing import (
    auroc,
    average_precision,
    best_detector,
    document_maxima,
    label_detectors,
    top_contexts,
    unit_views,
)
from sparse_sae.probing.contexts import _blocks_of_codes
from sparse_sae.synthetic import superposition


@pytest.fixture
def sae() -> SAE:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((20, 8)).astype(np.float32)
    w /= np.linalg.norm(w, axis=1, keepdims=True)
    return SAE.from_rows(
        {"W_enc": w, "W_dec": w, "b_enc": np.zeros(20, np.float32), "b_dec": np.ones(8, np.float32)},
        TopK(k=3),
    )


def test_formulas(sae: SAE) -> None:
    x = np.random.default_rng(1).standard_normal((500, 8)) * 2 + 5
    m = evaluate(sae, x)
    out = sae.reconstruct(x).astype(np.float64)
    assert m.n_rows == 500
    assert m.l0 == pytest.approx(sae.encode(x).nnz / 500)
    assert m.mse == pytest.approx(((out - x) ** 2).mean(), rel=1e-5)
    assert m.fvu == pytest.approx(((out - x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-5)
    assert m.explained_variance == 1 - m.fvu
    assert m.shrinkage == pytest.approx(
        np.linalg.norm(out, axis=1).sum() / np.linalg.norm(x, axis=1).sum(), rel=1e-5
    )
    cosine = (out * x).sum(1) / np.linalg.norm(out, axis=1) / np.linalg.norm(x, axis=1)
    assert m.cosine == pytest.approx(cosine.mean(), rel=1e-5)
    np.testing.assert_allclose(m.density, (sae.encode(x).toarray() != 0).mean(0))
    assert m.dead_fraction == (m.density == 0).mean()


def test_blocks_do_not_change_the_numbers(sae: SAE) -> None:
    x = np.random.default_rng(2).standard_normal((BLOCK_ROWS + 100, 8)).astype(np.float32)
    whole, parts = evaluate(sae, x), evaluate(sae, [x[:50], x[50:]])
    assert whole.fvu == pytest.approx(parts.fvu, rel=1e-9)
    assert whole.l0 == parts.l0


def test_constant_data_has_no_variance(sae: SAE) -> None:
    assert evaluate(sae, np.full((4, 8), 9.0)).fvu == np.inf


def test_prints_and_serialises(sae: SAE) -> None:
    import json

    m = evaluate(sae, np.random.default_rng(0).standard_normal((50, 8)))
    assert "FVU" in str(m)
    assert len(json.loads(json.dumps(m.to_dict()))["density"]) == 20


def trained_on(x: Any, **how: Any) -> SAE:
    return train(x, TopK(**how), d_sae=24, n_tokens=20_000, batch_size=200, lr=1e-2, seed=0).sae


def test_warnings_by_default(sae: SAE) -> None:
    """Dead latents and too few active ones are seen without being asked for, and stay away where all is well."""
    world = superposition(24, 32, probability=0.08, noise=0.02, seed=2)
    x, held_out = world.block(0, 4000).x, world.block(1, 2000).x
    good = evaluate(trained_on(x, k=6), held_out)
    assert good.warnings == ()
    assert good.checked == ("dead latents", "codes too sparse")
    assert "checked for: dead latents, codes too sparse" in str(good)
    assert "WARNING" not in str(good)
    bad = trained_on(x, k=1)
    bad.params["b_enc"][:12] = -1e6
    found = evaluate(bad, iter([held_out]))
    assert [w.name for w in found.warnings] == ["dead latents", "codes too sparse"]
    assert found.warnings[0].evidence["dead_fraction"] >= 0.5
    assert "WARNING dead latents: " in str(found)
    assert found.to_dict()["warnings"][1]["evidence"]["l0"] <= 1


def test_what_cannot_be_told_is_not_checked(sae: SAE) -> None:
    """Too few rows for the latents there are; pursuit that would cost more than the evaluation."""
    x = np.random.default_rng(0).standard_normal((31, 8)).astype(np.float32)
    assert evaluate(sae, x).checked == ()
    assert "checked for: nothing" in str(evaluate(sae, x))
    assert evaluate(sae, x, dead_before=0.0).checked == ("dead latents",)
    wide = SAE.from_rows({name: np.zeros(shape, np.float32) for name, shape in WIDE.items()}, TopK(k=1))
    wide.params["W_enc"][:, 0] = wide.params["W_dec"][:, 0] = 1
    assert evaluate(wide, np.ones((256, 2048), np.float32)).checked == ()


WIDE = {"W_enc": (4096, 2048), "W_dec": (4096, 2048), "b_enc": (4096,), "b_dec": (2048,)}


def test_a_transcoder_is_compared_with_other_pairs() -> None:
    x = superposition(24, 16, probability=0.1, seed=2).block(0, 3000).x
    pair = x, x[:, ::-1].copy()
    sae = train(pair, TopK(k=4), d_sae=48, n_tokens=40_000, batch_size=200, lr=1e-2, coder="transcoder").sae
    assert evaluate(sae, *pair, other=pair).checked == ("dead latents", "narrow training data")
    assert evaluate(sae, *pair, other=pair).warnings == ()
    assert evaluate(sae, *pair, other=(x, x)).warnings[0].name == "narrow training data"


def test_errors(sae: SAE) -> None:
    with pytest.raises(ValueError, match="no rows"):
        evaluate(sae, np.empty((0, 8)))
    with pytest.raises(ValueError, match=r"expected \(…, 8\)"):
        evaluate(sae, np.zeros((3, 7)))
    with pytest.raises(ValueError, match="NaN"):
        evaluate(sae, np.full((3, 8), np.nan))


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 5)).astype(float)
    labels = rng.random(40) < 0.4
    pos, neg = scores[labels], scores[~labels]
    wins = (pos[:, None] > neg[None]).mean((0, 1)) + 0.5 * (pos[:, None] == neg[None]).mean((0, 1))
    np.testing.assert_allclose(auroc(scores, labels), wins)


def test_average_precision_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores: Any = rng.integers(0, 6, 60).astype(float)
    labels = rng.random(60) < 0.3
    expected = recalled = 0.0
    for threshold in np.unique(scores)[::-1]:
        found = scores >= threshold
        recall = (found & labels).sum() / labels.sum()
        expected += (recall - recalled) * (found & labels).sum() / found.sum()
        recalled = recall
    assert average_precision(scores, labels) == pytest.approx(expected)


def test_best_detector_is_chosen_on_training_examples_only() -> None:
    labels = np.arange(20) % 2 == 0
    good, noise = labels.astype(float), np.random.default_rng(0).random(20)
    found = best_detector(np.c_[noise, -good], labels, np.c_[good, noise], labels)
    assert (found.index, found.sign) == (1, -1)
    assert found.auroc == pytest.approx(float(auroc(-noise, labels)))


def test_labels_all_alike() -> None:
    with pytest.raises(ValueError, match="all alike"):
        auroc(np.arange(3.0), np.ones(3, bool))


def test_the_repr_does_not_dump_the_density(sae: SAE) -> None:
    assert "density" not in repr(evaluate(sae, np.random.default_rng(0).standard_normal((50, 8))))


def test_a_store_of_another_hook_point_or_model_is_told(sae: SAE, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((400, 8)).astype(np.float32)
    writer = StoreWriter(tmp_path, 8, "float32", model="hub/Tiny", hook="blocks.1.hook_resid_post")
    writer.append(rows, np.arange(400), np.arange(400), np.zeros(400))
    writer.finish()
    store = ActivationStore(tmp_path)
    sae.metadata.update(model_name="tiny", hook_name="blocks.1.hook_resid_post")
    evaluate(sae, store)
    sae.metadata.update(hook_name="blocks.2.hook_resid_pre")  # another name for the same place
    evaluate(sae, store)
    sae.metadata.update(hook_name="blocks.5.hook_resid_post")
    with pytest.warns(
        UserWarning, match=r"x: the SAE is of hook point 'blocks.5.*, and the data is of 'blocks.1"
    ):
        evaluate(sae, str(tmp_path))
    sae.metadata.update(model_name="gpt2-xl", hook_name="blocks.1.hook_resid_post")
    with pytest.warns(UserWarning, match="model 'gpt2-xl', and the data is of 'hub/Tiny'"):
        evaluate(sae, store)
    trained = train(store, TopK(k=2), **HOW, metadata={"note": "kept"}).sae
    kept = {name: value for name, value in trained.metadata.items() if name != "train_config"}
    assert kept == {"model_name": "hub/Tiny", "hook_name": "blocks.1.hook_resid_post", "note": "kept"}
    pair = train((store, store), TopK(k=2), **HOW, coder="transcoder").sae
    assert pair.metadata["hook_name_out"] == "blocks.1.hook_resid_post"
    own = train(store, TopK(k=2), **HOW, metadata={"hook_name": "mine"}).sae
    assert own.metadata["hook_name"] == "mine"
    part = train_many(
        (store, rows_of(tmp_path / "other", 8)), {"b": {"architecture": TopK(k=2), "part": 1}}, **HOW
    )
    assert part["b"].sae.metadata["hook_name"] == "blocks.3.hook_mlp_out"


HOW: dict[str, Any] = {"d_sae": 16, "n_tokens": 1000, "batch_size": 100}


def rows_of(path: Path, width: int) -> ActivationStore:
    writer = StoreWriter(path, width, "float32", model="hub/Tiny", hook="blocks.3.hook_mlp_out")
    rows = np.random.default_rng(1).standard_normal((400, width)).astype(np.float32)
    writer.append(rows, np.arange(400), np.arange(400), np.zeros(400))
    writer.finish()
    return ActivationStore(path)


def test_a_store_of_another_width_is_refused(sae: SAE, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x: shape .*5\), expected \(…, 8\)"):
        evaluate(sae, rows_of(tmp_path, 5))


def test_paths_are_opened(sae: SAE, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    expected = evaluate(sae, x, other=x).to_dict()
    assert evaluate(sae, tmp_path / "x.npy", other=str(tmp_path / "x.npy")).to_dict() == expected
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x: .*x\.pt is a .pt file.*convert it once: numpy.save"):
        evaluate(sae, tmp_path / "x.pt")


@pytest.fixture
def labelled_store(tmp_path: Path) -> ActivationStore:
    """Forty texts of different lengths; the odd ones have one token with a strong direction."""
    rng = np.random.default_rng(0)
    writer = StoreWriter(tmp_path / "store", d_in=6, dtype="float32")
    for document in range(40):
        rows = rng.standard_normal((3 + document % 5, 6)).astype(np.float32)
        rows[2] += 20.0 * (document % 2) * np.eye(6, dtype=np.float32)[4]
        n = len(rows)
        writer.append(
            rows, tokens=100 * document + np.arange(n), positions=np.arange(n), documents=[document] * n
        )
    writer.finish()
    return ActivationStore(tmp_path / "store", exclude=("first",))


def identity_sae() -> SAE:
    eye, zeros = np.eye(6, dtype=np.float32), np.zeros(6, np.float32)
    return SAE({"W_enc": eye, "W_dec": eye, "b_enc": zeros, "b_dec": zeros}, L1())


def test_pooling_by_text_equals_a_loop(labelled_store: ActivationStore) -> None:
    documents, rows = labelled_store.documents, labelled_store.rows()
    expected = np.stack([rows[documents == i].max(0) for i in range(40)])
    np.testing.assert_array_equal(document_maxima(labelled_store), expected)
    np.testing.assert_array_equal(
        document_maxima(labelled_store, lambda x: -x)[:, 0],
        [(-rows[documents == i, 0]).max() for i in range(40)],
    )


def test_detectors_find_the_unit_that_carries_the_label(labelled_store: ActivationStore) -> None:
    pooled = {
        kind: document_maxima(labelled_store, view) for kind, view in unit_views(identity_sae()).items()
    }
    label = {"odd": np.arange(40) % 2 == 1}
    found = label_detectors(pooled, pooled, label, label)["odd"]
    assert (found["neuron"].index, found["neuron"].auroc) == (4, 1.0)
    assert (found["latent"].index, found["latent"].auroc) == (4, 1.0)
    assert set(found) == {"neuron", "latent", "random"}


def test_top_contexts_are_the_largest_codes_of_the_whole_store(
    labelled_store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sae = identity_sae()
    codes = sae.encode(labelled_store.rows()).toarray()
    monkeypatch.setattr(_blocks_of_codes, "__defaults__", (17,))  # many blocks
    found = top_contexts(sae, labelled_store, [4, 0], n=7, before=1, after=1)
    for latent, contexts in found.items():
        order = np.argsort(-codes[:, latent], kind="stable")[:7]
        assert [c.row for c in contexts] == order.tolist()
        assert [c.value for c in contexts] == codes[order, latent].tolist()
        assert all(c.tokens[c.at] == labelled_store.tokens[c.row] for c in contexts)

    class Words:
        def decode(self, ids: list[int]) -> str:
            return "".join(f" t{i}" for i in ids)

    first = found[4][0]
    assert f"[[ t{first.tokens[first.at]}]]" in first.text(Words())
