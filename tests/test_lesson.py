"""The lesson's example: trains, saves an SAE that loads, and states matches beside chance."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import sparse_sae
from sparse_sae.match import match
from sparse_sae.pursuit import learning
from sparse_sae.synthetic import lesson

EXAMPLE = Path(__file__).parents[1] / "examples" / "lesson.py"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("lesson_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_saves_an_sae_and_prints_matches_beside_chance(example, tmp_path, monkeypatch, capsys):
    """The whole path with a training too short to find everything."""
    data = lesson(n_samples=800)
    monkeypatch.setattr(example, "lesson", lambda seed: data)
    monkeypatch.setattr(
        example, "learn", lambda x, m, **how: learning.learn(x, m, n_steps=12, n_polish=2, restarts=2, **how)
    )
    result = example.run(0, tmp_path / "sae", d_sae=24)
    printed = capsys.readouterr().out
    assert "chance" in printed
    assert "above 0.9" in printed
    sae = sparse_sae.load(tmp_path / "sae")
    m = match(sae, data, chance=0)
    assert result["match"]["mcc"]["score"] == pytest.approx(m.mcc, abs=1e-6)
    assert result["match"]["mcc"]["random"]["mean"] < 0.8
    assert result["l0"] == pytest.approx(sae.encode(data.x).nnz / 800)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "data_seed"), [(0, 42), (1, 42), (0, 1)])
def test_recovers_every_feature(example, tmp_path, seed, data_seed):
    result = example.run(seed, tmp_path / "sae", data_seed)
    assert result["match"]["above_0.9"]["count"] == 32
    assert result["match"]["above_0.95"]["count"] >= 30
    assert result["latents"] <= 64
    assert result["l0"] <= 5
    assert np.isfinite(result["fvu"])
