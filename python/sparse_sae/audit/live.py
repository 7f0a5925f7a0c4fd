"""A monitor on a transformers model: forward passes, batches and generation, none of whose numbers it changes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from sparse_sae._io.arrays import as_array
from sparse_sae.audit.detecting import Detect
from sparse_sae.audit.events import GenerationStopped, OnEvent
from sparse_sae.audit.observer import Monitor
from sparse_sae.audit.pooling import Pooling
from sparse_sae.audit.watchlist import WatchList
from sparse_sae.lm.model.engine import engine_of
from sparse_sae.lm.model.hook_point import owned
from sparse_sae.lm.model.hooks import resolve, unwrap
from sparse_sae.lm.model.loading import LanguageModel

if TYPE_CHECKING:
    from torch import Tensor, nn


def monitor(
    lm: LanguageModel | nn.Module,
    watch: WatchList,
    sae: Any = None,
    *,
    pooling: Pooling = "max",
    ema: float = 0.1,
    detect: Detect | None = None,
    on_event: OnEvent | None = None,
    max_events: int = 10_000,
) -> LiveMonitor:
    """Watch every token that passes `watch.hook` while the context is open.

    Works with plain forward passes, batches padded on either side, and `generate` (greedy, sampling, beam search, whose
    values follow the beams). Each row of a batch is a sequence; a pass that does not go on where the last one ended
    begins new ones. Unless a callback steers, logits are the same to the bit as without a monitor. As with every hook
    of this package, passes of other threads are not seen.

    Args:
        lm: a `LanguageModel` (whose tokenizer decodes the events' tokens) or a transformers model.
        watch, sae, pooling, ema, detect, max_events: see `Monitor`.
        on_event: called with each event while the model runs. It may return "stop": with
            `generate(…, stopping_criteria=[m.stopping])` the sequence ends there, else the next pass that goes on with
            it raises `GenerationStopped`. Or a `Steer`: its vector is added from this token on.

    Raises:
        ValueError: the hook point is missing or of another width, the SAE is not the list's; when running: a NaN or
            infinity. NotImplementedError: an attention mask that is not (batch, position).

    >>> with monitor(lm, watch, sae) as m:  # doctest: +SKIP
    ...     lm.model.generate(**inputs, max_new_tokens=40)
    >>> m.events  # doctest: +SKIP
    """
    return LiveMonitor(
        lm, watch, sae, pooling=pooling, ema=ema, detect=detect, on_event=on_event, max_events=max_events
    )


class LiveMonitor(Monitor):
    """What `monitor` returns: a `Monitor` in a `with` statement, which feeds itself; may be opened again.

    Attributes:
        stopping: a stopping criterion for `generate`.
    """

    def __init__(
        self, lm: LanguageModel | nn.Module, watch: WatchList, sae: Any = None, **settings: Any
    ) -> None:
        super().__init__(watch, sae, **settings)
        self.point = resolve(lm, watch.hook)
        width = engine_of(lm).width(self.point)
        if width not in (None, self.d_in):
            raise ValueError(f"hook: {watch.hook} of this model is {width} wide, what is watched {self.d_in}")
        module = unwrap(lm)
        self._base: Any = getattr(module, "base_model", module)
        self._tokenizer = lm.tokenizer if isinstance(lm, LanguageModel) else None
        config = getattr(module, "generation_config", None)
        ends = getattr(config, "eos_token_id", None)
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        self._open: ExitStack | None = None
        self._forget_pass()

    def __enter__(self) -> LiveMonitor:
        if self._open is not None:
            raise RuntimeError("this monitor is already open; make another one")
        self._forget_pass()
        with ExitStack() as stack:
            ours = stack.enter_context(owned())
            handle = self._base.register_forward_pre_hook(
                lambda _m, args, kwargs: self._begin(args, kwargs) if ours() else None, with_kwargs=True
            )
            stack.callback(handle.remove)
            stack.enter_context(self.point.attach(self._read))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        stack, self._open = self._open, None
        if stack is not None:
            stack.close()

    def stopping(self, input_ids: Tensor, _scores: Any = None, **_more: Any) -> Tensor:
        """(batch,) bool: which sequences a callback has stopped; a criterion of transformers' `generate`."""
        import torch

        now = [slot in self.stopped for slot in self._rows.tolist()]
        self._heeded = True
        return torch.tensor(now if len(now) == len(input_ids) else [False] * len(input_ids))

    def _forget_pass(self) -> None:
        self._rows = np.zeros(0, np.int64)  # the slot of each row of the running batch
        self._done: list[bool] = []  # rows whose text has ended, and that are only padded on
        self._end = 0  # columns in the cache after the last pass
        self._ids: Any = None
        self._mask: Any = None
        self._start = 0
        self._heeded = False
        self._cache: Any = None

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        self._mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if self._mask is not None and (getattr(self._mask, "ndim", None) != 2):
            raise NotImplementedError("attention_mask: monitors read masks (batch, position) only")
        cache = kwargs.get("past_key_values")
        self._start = 0 if cache is None else int(cache.get_seq_length())
        self._ids = ids
        if cache is not None and cache is not self._cache and hasattr(cache, "reorder_cache"):
            self._follow_beams(cache)

    def _follow_beams(self, cache: Any) -> None:
        """Beam search moves rows by reordering the cache; pooled values go with their hypotheses."""
        inner, self._cache = cache.reorder_cache, cache

        def reorder(index: Tensor) -> None:
            inner(index)
            if len(index) == len(self._rows):
                source = self._rows[index.cpu().numpy()]
                self._state.move(self._rows, source)
                self._done = [self._done[i] for i in index.tolist()]

        cache.reorder_cache = reorder

    def _read(self, x: Tensor) -> Tensor | None:
        if x.ndim != 3:
            raise NotImplementedError(
                f"{self.point.name}: {tuple(x.shape)}, expected (batch, position, d_in)"
            )
        batch, length, _ = x.shape
        if self._start == 0 or self._start != self._end or batch != len(self._rows):
            self._rows = np.array([self._slot((None, self._begun)) for _ in range(batch)])
            self._done = [False] * batch
            self._heeded = False
        self._end = self._start + length
        flat = x.detach()
        if length == 1 and self._start:
            ids = None if self._ids is None else self._ids[:, 0].cpu().numpy()
            live = self._going_on(ids)
            if batch == 1 and live[0]:
                self._one(as_array(flat[0].contiguous()), int(self._rows[0]), ids)
            elif all(live):
                self._step(as_array(flat[:, 0].contiguous()), self._rows, ids)
            elif any(live):
                rows = as_array(flat[np.flatnonzero(live), 0].contiguous())
                self._step(rows, self._rows[live], None if ids is None else ids[live])
            first = np.zeros(batch, np.int64)
        else:
            first = self._prompts(flat)
        return self._steered(x, first) if self.steered else None

    def _going_on(self, ids: Any) -> list[bool]:
        """Which rows still hold text: not those that `generate` only pads after their end-of-text token."""
        live = [not done for done in self._done]
        if self.stopped:
            for i, slot in enumerate(self._rows.tolist()):
                if slot in self.stopped and live[i]:
                    if not self._heeded:
                        raise GenerationStopped(self.stopped[slot])
                    live[i] = False
        if ids is not None and self._ends:
            self._done = [
                done or token in self._ends for done, token in zip(self._done, ids.tolist(), strict=True)
            ]
        return live

    def _prompts(self, x: Tensor) -> Any:
        """Several tokens of each row; returns the column from which a row is steered."""
        kept = np.ones(x.shape[:2], bool)
        if self._mask is not None:
            kept = self._mask[:, self._start : self._end].bool().cpu().numpy()
        ids = None if self._ids is None else self._ids.cpu().numpy()
        first = np.full(len(x), x.shape[1], np.int64)
        for i, slot in enumerate(self._rows.tolist()):
            columns = np.flatnonzero(kept[i])
            was_steered = slot in self.steered
            before = int(self._state.count[slot])
            rows = x[i] if len(columns) == x.shape[1] else x[i, columns]
            if len(columns):
                self._run(as_array(rows.contiguous()), slot, None if ids is None else ids[i, columns])
            if was_steered:
                first[i] = 0
            elif slot in self.steered:
                first[i] = columns[self._steered_from[slot] - before]
        return first

    def _steered(self, x: Tensor, first: Any) -> Tensor | None:
        import torch

        edited = None
        for i, slot in enumerate(self._rows.tolist()):
            vector = self.steered.get(slot)
            if vector is not None and first[i] < x.shape[1]:
                edited = x.clone() if edited is None else edited
                edited[i, int(first[i]) :] += torch.from_numpy(vector).to(x.dtype)
        return edited

    def _text(self, token: int) -> str | None:
        return None if self._tokenizer is None else str(self._tokenizer.decode([token]))
