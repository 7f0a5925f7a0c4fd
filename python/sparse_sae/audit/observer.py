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

from sparse_sae._arguments import one_of, real
from sparse_sae._io.arrays import Array, as_array
from sparse_sae.audit.detecting import Detect, readouts
from sparse_sae.audit.events import Event, OnEvent
from sparse_sae.audit.pooling import Pooling
from sparse_sae.audit.tracking import Tracker
from sparse_sae.audit.watchlist import WatchList

_MANY = (list, np.ndarray)  # what holds a name for each row; a union would be made anew for each token


class Monitor(Tracker):
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
        self.watch = watch
        self.detect, every, explain = readouts(watch, sae, detect)
        super().__init__(every, explain, watch.skip, pooling, float(ema), on_event, max_events)

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
        values[state.count[:n] <= self.skip] = np.nan
        return values
