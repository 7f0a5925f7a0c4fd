"""From rows of activations to events: pooled values token by token, and the thresholds they rise above.

`Monitor` is the door to this: it checks what comes in and knows sequences by name. Here a sequence is a number (slot),
rows are float32, and every way of delivering a token comes to the same bits.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from sparse_sae import _kernels
from sparse_sae._io.arrays import Array
from sparse_sae.audit.events import Answered, Event, OnEvent
from sparse_sae.audit.pooling import Pooling, Pools
from sparse_sae.audit.readout import Plain, Readout


class Tracker(Answered):
    """Pooled values of sequences, judged.

    Args:
        readouts: what is read on every token. explain: what is read on the token of an event, or None.
        skip: how many tokens at the beginning of a sequence are not judged.
        pooling, ema, on_event, max_events: see `Monitor`.

    Attributes:
        watches: what is watched, in the order of the columns. tokens: rows seen.
    """

    def __init__(
        self,
        readouts: Sequence[Readout],
        explain: Readout | None,
        skip: int,
        pooling: Pooling,
        ema: float,
        on_event: OnEvent | None,
        max_events: int,
    ) -> None:
        super().__init__(readouts[0].d_in, on_event, max_events)
        self.skip, self.pooling, self._ema = skip, pooling, ema
        self._readouts, self._explain = readouts, explain
        self.watches = [w for readout in readouts for w in readout.watches]
        self._thresholds = np.concatenate([r.thresholds for r in readouts]).astype(np.float64)
        self._only = only = readouts[0] if len(readouts) == 1 else None
        # The largest so far is also the threshold below which the kernel need return nothing.
        self._rising = only.plain if only is not None and pooling == "max" else None
        self.reset()

    def reset(self) -> None:
        """Forget all sequences and events."""
        self._forget_events()
        self.tokens = 0
        self._slots: dict[Hashable, int] = {}
        self._begun = 0
        self._state = Pools(self.pooling, self._ema, self._start_values())

    def _start_values(self) -> Array:
        """(L,) what pooled values begin with; a latent's is never below 0."""
        width = len(self._thresholds)
        if self._rising is not None:
            return np.zeros(width, np.float32)
        return np.full(width, -np.inf if self.pooling == "max" else 0.0)

    def _slot(self, name: Hashable) -> int:
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = self._begun
            self._begun += 1
            if slot >= len(self._state.count):
                self._state = self._state.grown(max(8, 2 * slot))
        return slot

    def _require_finite(self, x: Array) -> None:
        bad = _kernels.first_nonfinite_row(x)
        if bad >= 0:
            raise ValueError(
                f"rows: row {bad} holds a NaN or an infinity; the model or its dtype is at fault"
            )

    def _values(self, x: Array) -> Array:
        self._require_finite(x)
        if len(self._readouts) == 1:
            return self._readouts[0](x)
        return np.concatenate([readout(x) for readout in self._readouts], axis=1)

    def _step(self, x: Array, slots: Array, ids: Array | None) -> list[Event]:
        """One token of each of the sequences `slots`."""
        self.tokens += len(x)
        state = self._state
        values = self._values(x)
        state.count[slots] += 1
        judged = state.count[slots] > self.skip
        if not judged.all():
            slots, values, x = slots[judged], values[judged], x[judged]
            ids = None if ids is None else ids[judged]
            if not len(slots):
                return []
        pooled = state.several(slots, values, state.count[slots] - self.skip)
        above = pooled > self._thresholds
        new = above & ~state.above[slots]
        state.above[slots] = above
        if not new.any():
            return []
        pairs = np.argwhere(new)
        return [self._event(int(slots[i]), int(j), x[i], float(values[i, j]), ids, i) for i, j in pairs]

    def _one(self, x: Array, slot: int, ids: Array | None) -> list[Event]:
        """One token of one sequence: what `_step` does, by views, without looking sequences up."""
        state = self._state
        count = state.count.item(slot)
        seen = count + 1 - self.skip
        if seen < 1:
            return self._step(x, np.array([slot]), ids)
        if self._rising is not None:
            return self._rise(x, slot, ids, self._rising)
        values = None if self._only is None else self._only.one(x)
        if values is None:
            values = self._values(x)[0]
        self.tokens += 1
        state.count[slot] = count + 1
        pooled = state.one(slot, values, seen)
        above, was = pooled > self._thresholds, state.above[slot]
        if above.tobytes() == was.tobytes():  # nearly always, and sooner known than what is new
            return []
        new = above > was
        was[:] = above
        return [self._event(slot, int(j), x[0], float(values[j]), ids, 0) for j in np.flatnonzero(new)]

    def _rise(self, x: Array, slot: int, ids: Array | None, plain: Plain) -> list[Event]:
        """One token, pooled by max: the kernel returns only what is above the largest value so far."""
        self._require_finite(x)
        self.tokens += 1
        state = self._state
        state.count[slot] += 1
        largest = state.pooled[slot]
        assert plain.least is not None  # those of latents
        _, index, values = _kernels.encode_threshold(
            x, plain.rows, plain.bias, np.maximum(largest, plain.least), center=plain.center, num_threads=1
        )
        if not len(index):
            return []
        largest[index] = values
        hit = (values > self._thresholds[index]) > state.above[slot, index]
        if not hit.any():
            return []
        state.above[slot, index[hit]] = True
        pairs = zip(index[hit].tolist(), values[hit].tolist(), strict=True)
        return [self._event(slot, j, x[0], value, ids, 0) for j, value in pairs]

    def _run(self, x: Array, slot: int, ids: Array | None) -> list[Event]:
        """The next tokens of one sequence."""
        if len(x) == 1:
            return self._one(x, slot, ids)
        self.tokens += len(x)
        state, skip = self._state, self.skip
        first = int(state.count[slot])
        values = self._values(x)
        late = max(0, skip - first)  # rows that are not judged
        state.count[slot] += len(x)
        values = values[late:]
        if not len(values):
            return []
        seen = first + late - skip + 1 + np.arange(len(values))
        pooled = state.chunk(slot, values, seen)
        above = pooled > self._thresholds
        new = above & ~np.concatenate([state.above[slot][None], above[:-1]])
        state.above[slot] = above[-1]
        found = []
        for t, j in np.argwhere(new):
            state.pooled[slot], at = pooled[t], int(first + late + t)
            found.append(self._event(slot, int(j), x[late + t], float(values[t, j]), ids, late + int(t), at))
        state.pooled[slot] = pooled[-1]
        return found

    def _event(
        self, slot: int, j: int, row: Array, value: float, ids: Array | None, i: int, at: int | None = None
    ) -> Event:
        watch, token = self.watches[j], None if ids is None else int(ids[i])
        event = Event(
            watch.name,
            watch.reason,
            watch.kind,
            slot,
            int(self._state.count[slot]) - 1 if at is None else at,
            token,
            None if token is None else self._text(token),
            value,
            float(self._state.pooled[slot, j]),
            watch.threshold,
            () if self._explain is None else self._explain.active(row),
        )
        self._note(event)
        return event

    def _text(self, token: int) -> str | None:
        """A token decoded; nothing here knows how."""
