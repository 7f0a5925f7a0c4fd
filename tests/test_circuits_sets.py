"""Sets of dictionaries: trained from one capture in groups, saved, and measured in the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from sparse_sae import TopK  # noqa: E402
from sparse_sae.circuits import DictionarySet, ablated, places_of, set_quality, train_set  # noqa: E402
from sparse_sae.lm import read_hooks  # noqa: E402

torch.set_num_threads(1)

WORDS = "the parcel refund is late not available order price angry shipping delay please we can you my money"
SMALL: dict[str, Any] = {
    "architecture": TopK(k=4),
    "d_sae": 48,
    "capture_tokens": 1600,
    "n_tokens": 2400,
    "context": 32,
    "batch_size": 200,
    "dtype": "float32",
    "num_threads": 1,
}


def texts() -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS.split(), 40)) for _ in range(80)]


def weights(made: DictionarySet) -> dict[str, np.ndarray]:
    return {hook: d.sae.W_enc.copy() for hook, d in made.items()}


def test_groups_of_any_size_give_the_same_bits_and_leave_only_the_set(tiny_lm: Any, tmp_path: Path) -> None:
    seen: list[str] = []
    whole = train_set(
        tiny_lm,
        texts,
        tmp_path / "a",
        layers=[0, 2],
        residual=[1],
        report=lambda p, s: seen.append(p.writes),
        **SMALL,
    )
    # room for one transcoder's two hook points: three groups
    groups = train_set(
        tiny_lm, texts, tmp_path / "b", layers=[2, 0], residual=[1], disk_bytes=600_000, **SMALL
    )
    assert (
        seen == list(whole) == ["blocks.0.hook_mlp_out", "blocks.1.hook_resid_post", "blocks.2.hook_mlp_out"]
    )
    assert [d.reads for d in whole.values()] == [p.reads for p in places_of(tiny_lm, [0, 2], [1])]
    for hook, found in weights(groups).items():
        np.testing.assert_array_equal(found, weights(whole)[hook])
    assert "W_skip" in whole["blocks.0.hook_mlp_out"].sae.params
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["000", "001", "002", "dictionaries.json"]
    held_out = whole["blocks.0.hook_mlp_out"].sae.metadata["held_out"]
    assert 0 < held_out["fvu"] < 1 and held_out["rows"] > 50


def test_it_goes_on_where_it_stopped_and_takes_more_layers(tiny_lm: Any, tmp_path: Path) -> None:
    def stop(place: Any, scores: Any) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        train_set(tiny_lm, texts, out, layers=[0, 1], report=stop, **SMALL)
    assert list(DictionarySet.load(out)) == ["blocks.0.hook_mlp_out"]
    grown = train_set(tiny_lm, texts, out, layers=[0, 1, 2], **SMALL)
    at_once = train_set(tiny_lm, texts, tmp_path / "other", **SMALL)
    assert list(grown) == list(at_once) and len(grown) == 3
    for hook, found in weights(grown).items():
        np.testing.assert_array_equal(found, weights(at_once)[hook])
    with pytest.raises(ValueError, match="d_sae 48, now 32"):
        train_set(tiny_lm, texts, out, **{**SMALL, "d_sae": 32})
    with pytest.raises(ValueError, match="other texts"):
        train_set(tiny_lm, lambda: texts()[::-1], out, residual=[0], layers=[], **SMALL)


def test_bad_requests_are_refused_before_anything_is_captured(tiny_lm: Any, tmp_path: Path) -> None:
    for given, message in (
        ({"layers": [3]}, "layers: got 3, expected a whole number from 0 up to 2"),
        ({"layers": []}, "layers: none"),
        ({"disk_bytes": 1000}, "disk_bytes: 1,000 are too few for 'blocks.0.hook_mlp_out'"),
    ):
        with pytest.raises(ValueError, match=message):
            train_set(tiny_lm, texts, tmp_path / "set", **{**SMALL, **given})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(FileExistsError, match="something else"):
        train_set(tiny_lm, texts, tmp_path / "mine", **SMALL)


def test_a_damaged_manifest_is_named(tiny_lm: Any, tmp_path: Path) -> None:
    out = tmp_path / "set"
    train_set(tiny_lm, texts, out, layers=[0], **SMALL)
    file = out / "dictionaries.json"
    good = json.loads(file.read_text())
    for change, message in (
        ({"model": 3}, "field 'model'"),
        ({"dictionaries": {}}, "field 'dictionaries'"),
        ({"dictionaries": [{"reads": "x"}]}, "lacks"),
        ({"dictionaries": [{**good["dictionaries"][0], "folder": "../.."}]}, "no folder's name"),
        ({"dictionaries": [{**good["dictionaries"][0], "sha256": {"../x": "0"}}]}, "outside the directory"),
    ):
        file.write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=message):
            DictionarySet.load(out)


def test_quality_of_each_and_of_all_at_once(tiny_lm: Any, tmp_path: Path) -> None:
    made = train_set(tiny_lm, texts, tmp_path / "set", layers=[0, 1], residual=[1], **SMALL)
    found = set_quality(tiny_lm, made, texts()[:4])
    assert [len(row.hooks) for row in found.rows] == [1, 1, 1, 3]
    with torch.no_grad():
        ids = [torch.tensor([tiny_lm.tokenizer(t)["input_ids"]]) for t in texts()[:4]]
        loss = np.mean([float(tiny_lm.model(i, labels=i).loss) for i in ids])
    for row in found.rows:
        assert row.loss == pytest.approx(loss, rel=1e-5)
        assert row.loss_with_errors == pytest.approx(row.loss, rel=1e-5)  # the errors are all that is missing
        assert row.kl_dictionary > 1e-5
    # one transcoder by hand, first position kept
    d = made["blocks.0.hook_mlp_out"]
    layer = tiny_lm.model.model.layers[0]

    def by_hand(module: Any, args: Any, out: Any) -> Any:
        new = torch.from_numpy(d.sae.reconstruct(args[0][0].numpy()))[None]
        new[:, 0] = out[:, 0]
        return new

    handle = layer.mlp.register_forward_hook(by_hand)
    with torch.no_grad():
        loss = np.mean([float(tiny_lm.model(i, labels=i).loss) for i in ids])
    handle.remove()
    assert found.rows[0].loss_dictionary == pytest.approx(loss, rel=1e-4)
    assert "all 3 at once" in str(found)
    joint = set_quality(tiny_lm, made, texts()[:4], each=False)
    assert len(joint.rows) == 1 and joint.joint.loss_dictionary == found.joint.loss_dictionary

    # features taken out: all of a layer's are its bias and its skip
    d0, ids0 = d.sae, ids[0]
    every = [(0, latent) for latent in range(d0.d_sae)]
    with torch.no_grad(), ablated(tiny_lm, made, every):
        got = read_hooks(tiny_lm, ["blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out"], ids0)
    plain = read_hooks(tiny_lm, ["blocks.0.hook_mlp_out"], ids0)["blocks.0.hook_mlp_out"][0].numpy()
    read = got["blocks.0.mlp.hook_in"][0].numpy()
    after = got["blocks.0.hook_mlp_out"][0].numpy()
    np.testing.assert_allclose(plain[1:] - after[1:], (d0.encode(read) @ d0.W_dec)[1:], atol=1e-4)
    np.testing.assert_array_equal(after[0], plain[0])
    for features, message in (
        ([], "features: none"),
        ([(2, 0)], "no transcoder writes"),
        ([(0, 99)], "latent: got 99"),
    ):
        with pytest.raises(ValueError, match=message), ablated(tiny_lm, made, features):
            pass
    assert found.to_dict()[-1]["hooks"] == tuple(made)


def test_the_command_line_trains_and_measures(
    tiny_lm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sparse_sae.cli import main, sets

    monkeypatch.setattr(sets, "open_model", lambda options: tiny_lm)
    words = tmp_path / "texts.txt"
    words.write_text("\n".join(texts()))
    command = [
        "train-set",
        "--texts",
        str(words),
        "--out",
        str(tmp_path / "set"),
        "--k",
        "4",
        "--d-sae",
        "48",
        "--capture-tokens",
        "1600",
        "--tokens",
        "2400",
        "--context",
        "32",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "quality.json"),
    ]
    assert main([*command, "--layers", "0-1", "--residual", "2"]) == 0
    printed = capsys.readouterr().out
    assert "blocks.1.hook_mlp_out: held-out FVU" in printed and "all 3 at once" in printed
    assert len(json.loads((tmp_path / "quality.json").read_text())) == 4
    assert main([*command, "--layers", "1-x"]) == 1
    assert "--layers: '1-x' is not 'all' or numbers such as 0,3,10-14" in capsys.readouterr().err


def test_layers_below_are_run_once_to_the_same_bits(
    tiny_lm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    from sparse_sae.circuits import set_measures

    made = train_set(tiny_lm, texts, tmp_path / "set", layers=[1, 2], **SMALL)
    runs: list[int] = []
    handle = tiny_lm.model.model.layers[0].mlp.register_forward_hook(lambda *_: runs.append(1))
    found = set_quality(tiny_lm, made, texts()[:4])
    few = len(runs)
    monkeypatch.setattr(set_measures, "_below_once", lambda *_: nullcontext())
    assert set_quality(tiny_lm, made, texts()[:4]) == found
    handle.remove()
    assert few < len(runs) - few - 8
