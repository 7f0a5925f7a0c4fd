"""One TrainConfig: the same run from Python, a dict, a file, the shell and a checkpoint; and longer runs."""

from __future__ import annotations

import inspect
import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import sparse_sae
from sparse_sae import (
    L1,
    Coder,
    Gated,
    JumpReLU,
    Matryoshka,
    Resampling,
    TopK,
    TrainConfig,
    train,
    train_many,
)
from sparse_sae._io.values import read_values
from sparse_sae.cli import main
from sparse_sae.training import checkpoint
from sparse_sae.training.options import TrainOptions

X = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
HOW: dict[str, Any] = {"d_sae": 16, "n_tokens": 1000, "batch_size": 100}
FULL: dict[str, Any] = {
    **HOW,
    "seed": 5,
    "betas": (0.8, 0.99),
    "resampling": Resampling(at=(0.5,)),
    "schedule": "cosine",
    "lr": 1e-3,
}


def test_a_config_is_the_same_run_everywhere(tmp_path: Path) -> None:
    config = TrainConfig(TopK(k=2), **FULL)
    (tmp_path / "run.json").write_text(json.dumps(config.to_dict()))
    expected = train(X, TopK(k=2), **FULL).sae
    assert TrainConfig.from_dict(expected.metadata["train_config"]) == config.filled()
    for one in (config, TrainConfig.from_dict(config.to_dict()), TrainConfig.read(tmp_path / "run.json")):
        assert one == config
        np.testing.assert_array_equal(train(X, config=one).sae.W_dec, expected.W_dec)
        np.testing.assert_array_equal(train_many(X, {"a": one})["a"].sae.W_dec, expected.W_dec)


YAML = """
data: x.npy
out: run
architecture:        # the field's names
  name: topk
  k: 2
d_sae: 16
n_tokens: 1e3
batch_size: 100
seed: 5
betas: [0.8, .99]
schedule: cosine
lr: 1e-3
resampling: {at: [0.5]}
"""


def test_the_shell_reads_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    Path("run.yaml").write_text(YAML)
    assert main(["train", "--config", "run.yaml"]) == 0
    expected = train("x.npy", TopK(k=2), **FULL).sae
    np.testing.assert_array_equal(sparse_sae.load("run/sae").W_dec, expected.W_dec)
    options = [
        "--seed",
        "6",
        "--k",
        "3",
        "--lr",
        "2e-3",
        "--out",
        "other",
        "--tokens",
        "5e2",
        "--schedule",
        "linear",
    ]
    assert main(["train", "--config", "run.yaml", *options]) == 0
    other = {**FULL, "seed": 6, "lr": 2e-3, "n_tokens": 500, "schedule": "linear"}
    expected = train("x.npy", TopK(k=3), **other).sae
    np.testing.assert_array_equal(sparse_sae.load("other/sae").W_dec, expected.W_dec)
    Path("run.yaml").write_text(YAML.replace("seed", "sead"))
    assert main(["train", "--config", "run.yaml"]) == 1
    assert (
        "config: got 'sead' (did you mean 'seed'?), expected some of architecture" in capsys.readouterr().err
    )
    Path("run.yaml").write_text(YAML.replace("out: run", ""))
    with pytest.raises(SystemExit):
        main(["train", "--config", "run.yaml"])
    assert "out: missing; give --out, or out in the file of --config" in capsys.readouterr().err


def test_numbers_and_texts_in_files(tmp_path: Path) -> None:
    text = "{a: 2e7, b: 1e-3, c: 6.25e-10, d: 20_000, e: 2.0, f: x1, g: [1, .5], h: null, i: true, j: -3, k: '7'}"
    expected = {
        "a": 20_000_000,
        "b": 0.001,
        "c": 6.25e-10,
        "d": 20_000,
        "e": 2.0,
        "f": "x1",
        "g": [1, 0.5],
        "h": None,
        "i": True,
        "j": -3,
        "k": "7",
    }
    (tmp_path / "a.yaml").write_text(text)
    found = read_values(tmp_path / "a.yaml")
    assert found == expected and [type(v) for v in found.values()] == [type(v) for v in expected.values()]
    (tmp_path / "a.json").write_text('{"n": 2e7, "lr": 1e-3}')
    assert read_values(tmp_path / "a.json") == {"n": 20_000_000, "lr": 0.001}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "a = 1", "expected a file that ends in .yaml"),
        ("a.yaml", "a: [1", "is not YAML"),
        ("a.json", "{", "is not JSON"),
        ("a.yaml", "- 1", "holds a list, expected names and values"),
        ("a.yaml", "a: !!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_files_that_hold_no_config(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=rf"^config: .*{said}"):
        TrainConfig.read(tmp_path / name)


def test_from_dict_is_strict() -> None:
    good = TrainConfig(TopK(k=2), **HOW).to_dict()
    assert TrainConfig.from_dict({**HOW, "architecture": "jumprelu"}).architecture == JumpReLU()
    assert TrainConfig.from_dict({**good, "coder": "transcoder"}).coder == Coder("transcoder")
    for wrong, said in (
        ({"warm_up": 1}, "config: got 'warm_up' \\(did you mean 'warmup'\\?\\)"),
        (
            {"architecture": {"name": "topk", "kk": 1}},
            "architecture topk: got 'kk' \\(did you mean 'k'\\?\\)",
        ),
        ({"coder": {"kind": "sae", "skp": 1}}, "coder: got 'skp'"),
        ({"resampling": {"row": 1}}, "resampling: got 'row' \\(did you mean 'rows'\\?\\)"),
        ({"d_sae": None}, "config: no d_sae"),
    ):
        with pytest.raises(TypeError, match=said):
            TrainConfig.from_dict({**good, **wrong})
    with pytest.raises(ValueError, match="architecture: got 'top', expected one of"):
        TrainConfig.from_dict({**good, "architecture": "top"})
    with pytest.raises(TypeError, match="config: got 3, expected names and values"):
        TrainConfig.from_dict(3)  # type: ignore[arg-type]


def test_config_or_arguments() -> None:
    config = TrainConfig(TopK(k=2), **HOW)
    with pytest.raises(TypeError, match="lr: given beside config, which holds it"):
        train(X, config=config, lr=1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="architecture: given beside config"):
        train(X, TopK(k=2), config=config)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"config: got .*expected a TrainConfig"):
        train(X, config=config.to_dict())  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="arguments: got 'warm_up' \\(did you mean 'warmup'\\?\\)"):
        train(X, TopK(k=2), **HOW, warm_up=1)  # type: ignore[call-overload]
    for missing in ("d_sae", "n_tokens"):
        with pytest.raises(TypeError, match=f"{missing}: got None, expected"):
            train(X, TopK(k=2), **{**HOW, missing: None})
    with pytest.raises(TypeError, match="lr: given beside the TrainConfig of 'a'"):
        train_many(X, {"a": config}, lr=1)
    with pytest.raises(ValueError, match="n_tokens: got 500 for run 'b', expected 1000 like the others"):
        train_many(X, {"a": config, "b": {**HOW, "architecture": TopK(k=2), "n_tokens": 500}})


def test_types_and_signature_are_those_of_the_config() -> None:
    optional = {f.name for f in fields(TrainConfig) if (f.default, f.default_factory) != (MISSING, MISSING)}
    hints, types = get_type_hints(TrainOptions), get_type_hints(TrainConfig)
    assert hints.keys() == optional
    assert {name for name in optional if hints[name] != types[name]} == {
        "coder",
        "metadata",
    }  # also a kind, None
    shown = inspect.signature(train).parameters
    assert {f.name for f in fields(TrainConfig)} < shown.keys()
    assert shown["warmup"].default == TrainConfig(TopK(k=2), **HOW).warmup == 0.05
    assert shown["d_sae"].default is inspect.Parameter.empty


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: TopK(k=True), "k"),
        (lambda: TopK(anneal="x"), "anneal"),  # type: ignore[arg-type]
        (lambda: TopK(multi_coefficient=float("inf")), "multi_coefficient"),
        (lambda: L1(coefficient=float("nan")), "coefficient"),
        (lambda: JumpReLU(recipe="soft"), "recipe"),  # type: ignore[arg-type]
        (lambda: Matryoshka(widths=(2.5, 16)), "widths"),
        (lambda: Resampling(rows=2.5), "rows"),  # type: ignore[arg-type]
        (lambda: Coder("autoencoder"), "coder"),
        (lambda: Coder("transcoder", skip=1), "skip"),  # type: ignore[arg-type]
    ],
)
def test_wrong_hyperparameters_are_named_when_given(make: Any, name: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{name}.*: got .*expected"):
        make()


def test_groupmax_is_not_trained_and_coefficients_are_weights() -> None:
    from sparse_sae.activations import GroupMax

    with pytest.raises(TypeError, match=r"architecture: got GroupMax\(k=4\), which says how an SAE encodes"):
        train(X, GroupMax(k=4), **HOW)  # type: ignore[call-overload]
    for architecture in (TopK(k=2, aux_coefficient=-1), Gated(aux_coefficient=-0.1)):
        with pytest.raises(ValueError, match="aux_coefficient: got -"):
            TrainConfig(architecture, **HOW)


def test_metadata_is_kept_as_json_holds_it(tmp_path: Path) -> None:
    metadata = {"layer": np.int64(3), "scale": np.float32(0.5), "path": Path("a")}
    train(X, TopK(k=2), **HOW, out=tmp_path, metadata=metadata)
    kept = sparse_sae.load(tmp_path / "sae").metadata
    assert (kept["layer"], kept["scale"], kept["path"]) == (3, 0.5, "a")
    assert kept["train_config"]["d_sae"] == 16
    assert checkpoint.load(tmp_path)[1]["config"]["metadata"] == {"layer": 3, "scale": 0.5, "path": "a"}


def test_a_run_is_extended_where_its_rate_has_not_fallen(tmp_path: Path) -> None:
    how: dict[str, Any] = {"d_sae": 16, "batch_size": 100, "log_every": 1}
    constant: dict[str, Any] = {**how, "schedule": "constant"}
    train(X, TopK(k=2), **constant, n_tokens=2000, out=tmp_path / "a")
    longer = train(X, TopK(k=2), **constant, n_tokens=4000, out=tmp_path / "a", resume=True)
    assert (longer.stop_reason, longer.tokens, len(longer.history)) == ("n_tokens", 4000, 40)
    assert longer.history[19]["lr"] == longer.history[20]["lr"]
    # To the bit what a run of that length with the same rates would have been.
    same = longer.sae.metadata["train_config"]
    whole = train(X, config=TrainConfig.from_dict(same | {"warmup": 0.025})).sae
    assert same["n_tokens"] == 4000 and same["dead_after"] == 200
    np.testing.assert_array_equal(longer.sae.W_dec, whole.W_dec)

    train(X, TopK(k=2), **how, n_tokens=2000, out=tmp_path / "b")
    with pytest.raises(
        ValueError,
        match=r"n_tokens: got 4000.* 2000.*the learning rate had begun to fall.*Start a run of 4000",
    ):
        train(X, TopK(k=2), **how, n_tokens=4000, out=tmp_path / "b", resume=True)
    with pytest.raises(ValueError, match=r"n_tokens: got 1000.*40 steps are done"):
        train(X, TopK(k=2), **constant, n_tokens=1000, out=tmp_path / "a", resume=True)
    train(X, TopK(k=2), **how, n_tokens=2000, out=tmp_path / "c", callback=lambda r: r["step"] < 10)
    early = train(X, TopK(k=2), **how, n_tokens=2500, out=tmp_path / "c", resume=True)
    assert early.tokens == 2500
    slow = JumpReLU(warmup=0.9)
    train(X, slow, **constant, n_tokens=2000, out=tmp_path / "d", callback=lambda r: r["step"] < 10)
    with pytest.raises(ValueError, match=r"what rises over the first 0\.9 of the run is under way"):
        train(X, slow, **constant, n_tokens=4000, out=tmp_path / "d", resume=True)


EDITS: dict[str, tuple[Any, str]] = {
    "no state": (lambda groups, state: state.pop("variance"), "variance"),
    "adam_step": (
        lambda groups, state: state.update(adam_step=7),
        "adam_step is 7, expected tokens / batch_size",
    ),
    "tokens": (lambda groups, state: state.update(tokens=950), "tokens is 950, expected a multiple of 100"),
    "config": (lambda groups, state: state["config"].update(d_sae="x"), "config: d_sae: got 'x'"),
    "transforms": (lambda groups, state: state.update(transforms=["none", "none"]), "transforms is"),
    "no moments": (lambda groups, state: groups["m"].pop("W_enc"), "m.W_enc is None"),
    "a shape": (lambda groups, state: groups["v"].update(b_enc=np.zeros(3, "f4")), r"v.b_enc is \(\(3,\)"),
    "counter": (lambda groups, state: groups.pop("counter"), "counter.since_fired"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_checkpoint_names_the_field(edit: str, tmp_path: Path) -> None:
    """Even where the checksum was made to fit."""
    train(X, TopK(k=2), **HOW, out=tmp_path)
    groups, state = checkpoint.load(tmp_path)
    change, said = EDITS[edit]
    change(groups, state)
    checkpoint.save(tmp_path, groups, state)
    with pytest.raises(ValueError, match=f"resume: .*{said}"):
        train(X, TopK(k=2), **HOW, out=tmp_path, resume=True)
