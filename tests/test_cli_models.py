"""The shell's way from a model to a steered answer: what one command learns, the next one knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparse_sae import load
from sparse_sae.cli import main

pytest.importorskip("torch")
pytest.importorskip("transformers")

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def here(tiny_lm: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model, texts, and nothing else."""
    tiny_lm.model.save_pretrained(tmp_path / "tiny-llama")
    tiny_tokenizer.save_pretrained(tmp_path / "tiny-llama")
    words = sorted(tiny_tokenizer.get_vocab().keys() - {"<unk>", "<pad>"})
    lines = [" ".join(words[(i * 7 + j * j) % len(words)] for j in range(30)) for i in range(60)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_model_and_hook_point_go_along(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = ["capture", "--model", "tiny-llama", "--hook", HOOK, "--texts", "texts.txt", "--out", "store"]
    assert main([*capture, "--tokens", "1.5e3", "--dtype", "float32"]) == 0
    train = ["train", "store", "--out", "run", "--k", "4", "--d-sae", "48", "--tokens", "5e3"]
    assert main([*train, "--batch-size", "100"]) == 0
    assert load("run/sae").metadata.items() >= {"model_name": "tiny-llama", "hook_name": HOOK}.items()
    assert main(["evaluate", "run/sae", "store"]) == 0
    capsys.readouterr()

    prompt = "the parcel is late please refund"
    assert main(["explain", "run/sae", prompt, "--target", "sorry", "--plain", "--json", "found.json"]) == 0
    found = json.loads(Path("found.json").read_text())
    latent = found["effects"][0]["latent"]
    steer = ["steer", "run/sae", prompt, "--plain", "--new-tokens", "8", "--latent"]
    capsys.readouterr()
    assert main([*steer, f"{latent}=0"]) == 0
    plain = capsys.readouterr().out
    assert main([*steer, f"{latent}=500"]) == 0
    assert capsys.readouterr().out != plain


def test_a_model_that_is_not_here_is_asked_for(
    here: Path, tiny_sae: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tiny_sae.metadata["model_name"] = "../elsewhere"
    tiny_sae.save("sae")
    assert main(["explain", "sae", "the parcel", "--target", "sorry", "--plain"]) == 1
    assert "--model: the SAE is of '../elsewhere'" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="'tiny-llama' is used with an SAE of '../elsewhere'"):
        assert (
            main(["explain", "sae", "the parcel", "--target", "sorry", "--plain", "--model", "tiny-llama"])
            == 0
        )
