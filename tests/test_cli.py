"""The command line: what it writes, what it says, how it exits."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparse_sae
from sparse_sae.cli import main
from sparse_sae.cli._parsing import count


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).standard_normal((2000, 8)).astype(np.float32))
    return str(path)


def test_train_evaluate_info(tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    command = ["train", data, "--out", out, "--k", "2", "--d-sae", "16", "--tokens", "4e3", "--profile"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "FVU" in printed
    assert "gradients and Adam" in printed
    records = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert records[-1]["tokens"] == 4000
    assert main(["evaluate", f"{out}/sae", data, "--json", str(tmp_path / "m.json")]) == 0
    assert json.loads((tmp_path / "m.json").read_text())["l0"] == 2
    assert main(["info", f"{out}/sae"]) == 0
    assert "d_sae=16" in capsys.readouterr().out
    assert main([*command, "--resume"]) == 0


def test_evaluate_warns(tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Gaussian data has no features; other data ten times as large is not reconstructed by this SAE."""
    from sparse_sae import TopK, train

    x = np.load(data)
    paths = [str(tmp_path / f"{seed}") for seed in (0, 1)]
    for seed, path in enumerate(paths):
        train(x, TopK(k=4), d_sae=16, n_tokens=20_000, batch_size=200, lr=1e-2, seed=seed).sae.save(path)
    other, truth = str(tmp_path / "other.npy"), str(tmp_path / "truth.npy")
    np.save(other, np.roll(x, 1, axis=1) ** 3)
    np.save(truth, np.random.default_rng(1).standard_normal((16, 8)))
    command = ["evaluate", paths[0], data]
    assert main(command) == 0
    assert "WARNING" not in capsys.readouterr().out
    evidence = ["--other", other, "--seeds", paths[1], "--truth", truth, "--control", paths[1], data]
    assert main([*command, *evidence, "--json", str(tmp_path / "m.json")]) == 0
    printed = capsys.readouterr().out
    measured = json.loads((tmp_path / "m.json").read_text())
    assert measured["checked"][1:-1] == [
        "narrow training data",
        "matches at chance level",
        "unstable across seeds",
    ]
    for warning in measured["warnings"]:
        assert f"WARNING {warning['name']}: " in printed
    assert {"matches at chance level", "as good as control"} <= {w["name"] for w in measured["warnings"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "missing.npy", "--out", "o", "--k", "2", "--d-sae", "8", "--tokens", "10"], "missing.npy"),
        (["evaluate", "nowhere", "x.npy"], "nowhere does not exist"),
        (["train", "DATA", "--out", "o", "--k", "9", "--d-sae", "8", "--tokens", "1000"], "k: got 9"),
        (
            ["train", "DATA", "--out", "o", "--set", "q=1", "--d-sae", "8", "--tokens", "10"],
            "topk: got 'q', expected",
        ),
        (["train", "DATA", "--out", "o", "--set", "q", "--d-sae", "8", "--tokens", "10"], "NAME=VALUE"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    said: str,
    data: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([data if a == "DATA" else a for a in arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("sparse-sae: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["train"], ["demo", "--tokens", "0"], ["demo", "--tokens", "x"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["demo"], ["train"], ["evaluate"], ["info"]):
        with pytest.raises(SystemExit) as stop:
            main([*command, "--help"])
        assert stop.value.code == 0
    assert "usage: sparse-sae" in capsys.readouterr().out


def test_info_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert "level" in capsys.readouterr().out


def test_demo_synthetic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--synthetic", "--json", str(tmp_path / "demo.json")]) == 0
    result = json.loads((tmp_path / "demo.json").read_text())
    above = result["match"]["above_0.9"]
    assert above["count"] > above["random"] + 5
    assert "chance" in capsys.readouterr().out


def test_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "sparse_sae", "info"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "level" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.split() == ["sparse-sae", sparse_sae.__version__]


def test_what_cannot_be_trained_is_not_offered(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", data, "--architecture", "groupmax", "--out", "o", "--d-sae", "8", "--tokens", "10"])
    assert "invalid choice: 'groupmax'" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "value"), [("2e4", 20_000), ("60_000", 60_000), ("1.5e3", 1500), ("7", 7)])
def test_numbers_as_people_write_them(text: str, value: int) -> None:
    assert count(text) == value


@pytest.mark.parametrize("text", ["0", "-2", "1.5", "1e-3", "nan", "inf", "many", ""])
def test_numbers_that_count_nothing(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="not a"):
        count(text)
