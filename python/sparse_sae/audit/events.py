"""What a monitor says: events, and what a callback may ask for in answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from sparse_sae._io.arrays import Array


@dataclass(frozen=True)
class Event:
    """The pooled value of a watch rose above its threshold.

    Attributes:
        name, reason, kind: of the watch; kind is "latent" or "direction".
        sequence: number of the sequence, in the order in which the monitor saw them begin.
        position: the token's place in its sequence, padding not counted, from 0.
        token: its id, or None where the monitor was given activations only. text: the same decoded, or None.
        value: of this token. pooled: of the sequence up to this token. threshold: of the watch.
        explained: (name, value) of the watched latents active on this token, largest first, where directions detect
            and latents explain.
    """

    name: str
    reason: str
    kind: str
    sequence: int
    position: int
    token: int | None
    text: str | None
    value: float
    pooled: float
    threshold: float
    explained: tuple[tuple[str, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "explained": [list(pair) for pair in self.explained]}

    def __str__(self) -> str:
        where = f"sequence {self.sequence}, token {self.position}"
        shown = "" if self.text is None else f" {self.text!r}"
        return f"{self.name}: {self.pooled:.3g} > {self.threshold:.3g} at {where}{shown} ({self.reason})"


@dataclass(frozen=True, eq=False)
class Steer:
    """A callback's wish: from this token on, add strength · direction to the activations of its sequence.

    Args:
        direction: (d_in,) finite numbers. strength: in units of its length.
    """

    direction: Array
    strength: float = 1.0

    def __post_init__(self) -> None:
        vector = np.asarray(self.direction, np.float32)
        if vector.ndim != 1 or not np.isfinite(vector).all() or not np.isfinite(self.strength):
            raise ValueError(f"direction: shape {vector.shape}, expected finite numbers (d_in,)")
        object.__setattr__(self, "direction", vector * np.float32(self.strength))


Answer: TypeAlias = "Literal['stop'] | Steer | None"
OnEvent: TypeAlias = Callable[[Event], Answer]


class Answered:
    """Events in the order in which they came, the callback that is asked about each, and what it has answered.

    Attributes:
        events: the first `max_events`; `dropped` counts those beyond, which the callback is given too.
        stopped: sequence -> the event that stopped it. steered: sequence -> what is added to its activations.
    """

    def __init__(self, d_in: int, on_event: OnEvent | None, max_events: int) -> None:
        self.d_in, self.on_event, self.max_events = d_in, on_event, max_events
        self._forget_events()

    def _forget_events(self) -> None:
        self.events: list[Event] = []
        self.dropped = 0
        self.stopped: dict[int, Event] = {}
        self.steered: dict[int, Array] = {}
        self._steered_from: dict[int, int] = {}  # the first token that is

    def _note(self, event: Event) -> None:
        if len(self.events) < self.max_events:
            self.events.append(event)
        else:
            self.dropped += 1
        if self.on_event is not None:
            self._heed(event, self.on_event(event))

    def _heed(self, event: Event, answer: Answer) -> None:
        if answer is None:
            return
        if answer == "stop":
            self.stopped.setdefault(event.sequence, event)
        elif isinstance(answer, Steer):
            if len(answer.direction) != self.d_in:
                raise ValueError(f"direction: {len(answer.direction)} numbers, expected d_in = {self.d_in}")
            self.steered[event.sequence] = answer.direction
            self._steered_from.setdefault(event.sequence, event.position)
        else:
            raise TypeError(f"on_event: returned {answer!r}, expected None, 'stop' or a Steer")


class GenerationStopped(RuntimeError):
    """A callback asked for a sequence to stop, and the model went on with it; `event` says why."""

    def __init__(self, event: Event) -> None:
        super().__init__(
            f"a monitor's callback stopped sequence {event.sequence} ({event}), and it was gone on with; pass "
            "stopping_criteria=[m.stopping] to generate() to get the text up to there instead of this error"
        )
        self.event = event
