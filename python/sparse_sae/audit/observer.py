"""A monitor on rows of activations, whoever computes them: pooled values of a watch-list, and events.

`sparse_sae.audit.monitor` attaches one to a transformers model; another runtime hands over its rows itself:

    m = Monitor(watch, sae)
    events = m.observe(rows, sequence=7, tokens=ids)      # (n, d_in), the next tokens of sequence 7
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparse_sae import _kernels
from sparse_sae._arguments import one_of, real
from sparse_sae._io.arrays import Array, as_array
from sparse_sae.audit.detecting import Detect, readouts
from sparse_sae.audit.events import Answered, Event, OnEvent
from sparse_sae.audit.pooling import Pooling, Pools
from sparse_sae.audit.readout import Plain
from sparse_sae.audit.watchlist import WatchList

_MANY = (list, np.ndarray)  # what holds a name for each row; a union would be made anew for each token


class Monitor(Answered):
    """Watches sequences of activations and says when a pooled value rises above its threshold.

    | pooling | the value of a sequence after token t |
    |---|---|
    | max | the largest of any token so far |
    | mean | the mean over the tokens so far |
    | ema | a · v_t + (1 - a) · the value before; v_0 at first |
    | last | v_t |

    An event begins where the pooled value goes from at most the threshold to above it: once a sequence for max, and
    again after it had fallen for the others. The first `watch.skip` tokens of a sequence are not judged.

    Args:
        watch: the watch-list.
        sae: the SAE of its latents; checked by its SHA-256.
        pooling: see the table.
        ema: a, the weight of the newest token, above 0 and at most 1.
        detect: what is watched: "directions", "latents", "both", or "cascade": directions detect, and on the token of
            an event the latents are read too, to explain it. None: "cascade" if the list has both, else what it has.
        on_event: called with each `Event`; what it returns is an `Answer`: None, "stop" or a `Steer`.
        max_events: how many events are kept; further ones are counted in `dropped` and still given to `on_event`.

    Attributes:
        events: what was found, in order. dropped: events beyond max_events.
        tokens: rows seen. stopped: sequence -> event that stopped it. steered: sequence -> vector to add.

    Raises:
        ValueError: the SAE is not the list's, or detect names what the list does not have.

    >>> from sparse_sae.audit import Watch, WatchList
    >>> watch = WatchList([Watch("up", 0.5, "an example", direction=[1.0, 0.0])], hook="x", skip=0)
    >>> m = Monitor(watch, pooling="mean")
    >>> [e.position for e in m.observe(np.array([[0, 0], [0.9, 0], [0.9, 0]], np.float32))]
    [2]
    """

    def __init__(
        self,
        watch: WatchList,
        sae: Any = None,
        *,
        pooling: Pooling = "max",
        ema: float = 0.1,
        detect: Detect | None = None,
        on_event: OnEvent | None = None,
        max_events: int = 10_000,
    ) -> None:
        one_of("pooling", pooling, Pooling)
        if real("ema", ema, above=0) > 1:
            raise ValueError(f"ema: got {ema}, expected a weight above 0, at most 1")
        self.watch, self.pooling = watch, pooling
        self.detect, self._readouts, self._explain = readouts(watch, sae, detect)
        super().__init__(self._readouts[0].d_in, on_event, max_events)
        self.watches = [w for readout in self._readouts for w in readout.watches]
        self._thresholds = np.concatenate([r.thresholds for r in self._readouts]).astype(np.float64)
        self._ema = float(ema)
        self._only = only = self._readouts[0] if len(self._readouts) == 1 else None
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

    def observe(
        self,
        rows: ArrayLike | Any,
        *,
        sequence: Hashable | Sequence[Hashable] = 0,
        tokens: ArrayLike | None = None,
    ) -> list[Event]:
        """The next tokens of one sequence, or one token of each of several.

        Args:
            rows: (d_in,) or (n, d_in) activations at the watch-list's hook point.
            sequence: any name of the sequence that all rows belong to, in order; or a list of n names, one a row, as a
                runtime delivers a batch of streams. A new name begins a sequence.
            tokens: (n,) token ids, for the events.

        Returns:
            The events that these rows caused, which `events` holds too.

        Raises:
            ValueError: rows of another width, a NaN or an infinity, or as many names or tokens as there are not rows.
        """
        # float32 arrays are the common case, and looking for others takes a microsecond
        x = rows if type(rows) is np.ndarray and rows.dtype == np.float32 else as_array(rows, "rows")
        x = x[None] if x.ndim == 1 else x
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise ValueError(f"rows: shape {x.shape}, expected (n, d_in = {self.d_in})")
        ids = None if tokens is None else np.asarray(tokens).reshape(-1)
        if ids is not None and len(ids) != len(x):
            raise ValueError(f"tokens: got {len(ids)}, expected {len(x)}, one a row")
        if not isinstance(sequence, _MANY):
            slot = self._slot(sequence)
            return self._one(x, slot, ids) if len(x) == 1 else self._run(x, slot, ids)
        names = list(sequence)
        if len(names) != len(x):
            raise ValueError(f"sequence: got {len(names)} names, expected {len(x)}, one a row")
        slots = np.array([self._slot(name) for name in names])
        if len(set(names)) == len(names):
            return self._step(x, slots, ids)
        found: list[Event] = []
        for slot in dict.fromkeys(slots.tolist()):
            own = slots == slot
            found += self._run(np.ascontiguousarray(x[own]), slot, None if ids is None else ids[own])
        return found

    def end(self, sequence: Hashable = 0) -> dict[str, float]:
        """Forget a sequence, and return its pooled values by name.

        Raises:
            KeyError: no such sequence.
        """
        slot = self._slots.pop(sequence)
        return dict(zip(self.names, self.pooled[slot].tolist(), strict=True))

    @property
    def names(self) -> list[str]:
        """Names of the columns of `pooled`."""
        return [watch.name for watch in self.watches]

    @property
    def pooled(self) -> Array:
        """(sequences, watches) float64: the pooled values now, in the order in which sequences began; NaN before a
        judged token."""
        state, n = self._state, self._begun
        values = state.pooled[:n].astype(np.float64)
        values[state.count[:n] <= self.watch.skip] = np.nan
        return values

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
        judged = state.count[slots] > self.watch.skip
        if not judged.all():
            slots, values, x = slots[judged], values[judged], x[judged]
            ids = None if ids is None else ids[judged]
            if not len(slots):
                return []
        pooled = state.several(slots, values, state.count[slots] - self.watch.skip)
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
        seen = count + 1 - self.watch.skip
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
        state, skip = self._state, self.watch.skip
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
