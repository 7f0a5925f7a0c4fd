"""How the benchmark measures, with a clock of the test's own: nothing here takes or needs time."""

from __future__ import annotations

import pytest

from sparse_sae.bench import timing


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
