"""Examples run from top to bottom on small data, and stay short enough to read at once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def loaded(name: str) -> ModuleType:
    (path,) = (p for p in EXAMPLES if p.stem == name)
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text()
    assert EXAMPLES
    for path in EXAMPLES:
        assert f'loaded("{path.stem}")' in here or path.stem == "lesson"  # tests/test_lesson.py


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_examples_are_short_and_say_how_to_run_them(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert f"python examples/{path.name}" in text


def test_planted() -> None:
    found = loaded("planted").main(features=64, d_in=48, samples=8_000, passes=12)
    assert found.mcc > 0.95 > 0.5 > found.chance["random"].mcc.mean


def test_architectures(capsys: pytest.CaptureFixture[str]) -> None:
    results = loaded("architectures").main(features=32, d_in=16, samples=3_000, passes=2)
    printed = capsys.readouterr().out
    assert len(results) == 6
    assert all(name in printed for name in results)


def test_larger_than_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert loaded("larger_than_memory").main(tmp_path, blocks=4, rows=3_000)
    assert "stopped (callback)" in capsys.readouterr().out


def test_language_model(tiny_lm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = loaded("language_model")
    example.ANSWER = "refund is not available"
    texts = ["please can you refund my late parcel", "my order is late and we are angry"] * 40
    found = example.main(
        tmp_path,
        tiny_lm,
        "blocks.1.hook_resid_post",
        tokens=None,
        d_sae=64,
        texts=texts,
        prompt="my parcel is late",
    )
    printed = capsys.readouterr().out
    assert found.effects[0].ablation is not None
    assert "log-probability of 'refund is not available'" in printed
    assert "[[" in printed


def test_circuits(tiny_lm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = loaded("circuits").main(
        tmp_path,
        tiny_lm,
        [0, 2],
        ("late", "approved"),
        ("refund", "money"),
        prompt="my parcel is {} please",
        capture_tokens=1500,
        n_tokens=2000,
        context=64,
        batch_size=200,
        d_sae=48,
        num_threads=1,
    )
    printed = capsys.readouterr().out
    assert "confirmed" in printed and "in the graph of 'late' alone" in printed
    assert all((tmp_path / f"{word}.html").stat().st_size > 10_000 for word in found)
