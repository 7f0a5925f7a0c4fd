"""How the benchmark measures, with a clock of the test's own: nothing here takes or needs time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparse_sae import bench
from sparse_sae.bench import runs, timing


class Clock:
    """Stands still while a task runs, and goes on by a hundredth of a turn whenever it is read at another time."""

    def __init__(self) -> None:
        self.now, self.runs, self.just_ran = 0.0, 0, False

    def read(self) -> float:
        if not self.just_ran:
            self.now += timing.TURN / 100
        self.just_ran = False
        return self.now

    def task(self) -> None:
        self.just_ran, self.runs = True, self.runs + 1
        if self.runs > 10_000:
            raise AssertionError("the turn does not end")


def test_a_task_that_takes_no_time_ends_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", clock.read)
    monkeypatch.setattr(timing.time, "sleep", lambda seconds: None)
    timing.in_turns({"a": clock.task, "b": clock.task}, repeats=2)
    assert 4 * 50 < clock.runs < 4 * 200


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes so small and turns so short that the whole benchmark runs in a test; its numbers mean nothing."""
    monkeypatch.setattr(timing, "TURN", 1e-9)
    monkeypatch.setattr(timing, "REST", 0)
    monkeypatch.setattr(runs, "_STEPS", 30)
    for name in bench.SIZES:
        monkeypatch.setitem(bench.SIZES, name, bench.Size(1 if name == "row" else 40, 16, 128, 4))


@pytest.mark.usefixtures("tiny")
def test_the_whole_benchmark_checks_its_answers_and_fills_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "now.json"
    assert bench.main(file, threads=1, against=tmp_path) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("This machine ")
    assert "No result of this CPU family" in printed
    works = {(line["work"], line["size"]) for line in json.loads(file.read_text())["lines"]}
    for size in ("small", "medium", "large"):
        assert {("encode + TopK", size), ("training step", size), ("training step, half dead", size)} <= works
    assert {("step from a store", "real"), ("step, Gated", "real"), ("encode, BatchTopK", "medium")} <= works
    assert ("encode one row", "row") in works


def result(**ratios: float) -> dict[str, Any]:
    """One line a work, at the medium size."""
    lines = [
        timing.Line(work.replace("_", " "), "medium", ratio, "G", 1.0, 1.0).as_dict()
        for work, ratio in ratios.items()
    ]
    return {"machine": {"level": "best", "openmp": True, "family": "x"}, "lines": lines}


def test_the_verdict_names_what_is_far_off() -> None:
    assert bench.verdict(result(training_step=0.8), ["best"]).startswith(
        "This machine runs as it should: 1 of 1"
    )
    slow = bench.verdict(result(training_step=5.08), ["best"])
    assert "does NOT run as it should: training step, medium: 5.08 G, expected at most 1.5" in slow
    assert "level best runs where better could" in bench.verdict(
        result(training_step=0.8), ["better", "best"]
    )
    serial = result(training_step=0.8)
    serial["machine"]["openmp"] = False
    assert "without OpenMP" in bench.verdict(serial, ["best"])


def test_regressions_are_named() -> None:
    before = result(training_step=0.8, decode=1.0)
    assert bench.regressions(result(training_step=0.9, decode=1.2), before) == []
    assert bench.regressions(result(training_step=1.1, new=9.0), before) == [
        "training step, medium: 1.10 G, was 0.80"
    ]


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="sizes: got huge, expected some of small"):
        bench.run(("huge",))
