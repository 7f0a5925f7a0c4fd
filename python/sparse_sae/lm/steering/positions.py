"""Which positions of a sequence an edit is meant for, followed through the passes of a generation."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sparse_sae.lm.model.engine import Engine, Pass

Positions: TypeAlias = Literal["all", "prompt", "generated"] | Sequence[int] | slice


class _Progress(threading.local):
    """Where a thread's current pass begins in the sequence, and where its prompt ends if that is known."""

    def __init__(self, prompt: int | None) -> None:
        self.start, self.prompt = 0, prompt


class Where:
    """Positions chosen by the user, as columns of each forward pass.

    A generation reads the prompt in one pass and then one token a pass; the engine says where in the sequence a pass
    begins.

    Args:
        engine: what runs the model.
        positions: "all"; "prompt" or "generated"; token indices, padding counted, negative ones from the end
            of the prompt; or a slice of indices.
        prompt_length: tokens in the prompt, or None to learn it from the first pass with a cache.
    """

    def __init__(self, engine: Engine, positions: Positions, prompt_length: int | None) -> None:
        if isinstance(positions, str):
            if positions not in ("all", "prompt", "generated"):
                raise ValueError(
                    f"positions: got {positions!r}, expected 'all', 'prompt', 'generated', indices or a slice"
                )
            relative = positions != "all"
        elif isinstance(positions, slice):
            if positions.step is not None and positions.step < 1:
                raise ValueError(f"positions: got a slice of step {positions.step}, expected a positive one")
            relative = any(i is not None and i < 0 for i in (positions.start, positions.stop))
        else:
            wrong = [i for i in positions if not isinstance(i, int | np.integer)]
            if wrong:
                raise ValueError(f"positions: got {wrong[0]!r}, expected whole numbers")
            relative = any(i < 0 for i in positions)
        if prompt_length is not None and prompt_length < 1:
            raise ValueError(f"prompt_length: got {prompt_length}, expected at least 1")
        self._engine = engine
        self._positions, self._relative, self._given = positions, relative, prompt_length
        self._at = _Progress(prompt_length)

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Keep track of where each forward pass begins while the context is open."""
        self._at = _Progress(self._given)
        if isinstance(self._positions, str) and self._positions == "all":
            yield
            return
        with self._engine.follow(self._begin):
            yield

    def _begin(self, this: Pass) -> None:
        at = self._at
        at.start = this.start
        if self._given is not None:
            return
        if not this.cached:
            at.prompt = None  # nothing says where the prompt ends
        elif this.tokens is not None and (this.start == 0 or at.prompt is None):
            at.prompt = this.start + this.tokens

    def columns(self, length: int) -> Tensor:
        """Which of this pass's `length` positions are chosen: (length,) bool."""
        chosen, at = self._positions, self._at
        if self._relative and at.prompt is None:
            raise ValueError(
                f"positions={chosen!r} refers to the prompt, and a pass without a key-value cache does not "
                "say where the prompt ends: give prompt_length="
            )
        prompt = at.prompt or 0
        where = torch.arange(at.start, at.start + length)
        if isinstance(chosen, str):
            if chosen == "all":
                return torch.ones(length, dtype=torch.bool)
            return where < prompt if chosen == "prompt" else where >= prompt

        def absolute(index: int) -> int:
            return index + prompt if index < 0 else index

        if isinstance(chosen, slice):
            start = absolute(chosen.start or 0)
            inside = (where >= start) & ((where - start) % (chosen.step or 1) == 0)
            return inside if chosen.stop is None else inside & (where < absolute(chosen.stop))
        return torch.isin(where, torch.tensor([absolute(int(i)) for i in chosen]))
