"""Forward passes for harvesting: the widths of hook points, the faster dtype, rows without padding."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_sae._arguments import one_of
from sparse_sae.lm.harvest.sequences import Window
from sparse_sae.lm.model.engine import Engine, engine_of
from sparse_sae.lm.model.hooks import read_hooks
from sparse_sae.lm.model.loading import LanguageModel

F32 = NDArray[np.float32]

_FASTER = 1.15  # bfloat16 must be this much faster to be worth its rounding
ComputeDtype: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]


class Reader:
    """A model made ready to give the activations of batches at some hook points.

    Args:
        model: from `load_model`, or any `Engine`.
        hooks: names of hook points.
        context: longest sequence it will get.
        compute_dtype: dtype of the forward pass; "auto" measures (`fastest_compute_dtype`). Other engines have one of
            their own, and only that or "auto" is accepted.

    Attributes:
        widths: hook point -> width of its rows.
        compute_dtype: name of the dtype in use.
        bos: the token that the model expects before every text, or None.

    Raises:
        TypeError: model is not a `LanguageModel` or an `Engine`.
        ValueError: an unknown hook point or dtype, or a context beyond the model's.
    """

    def __init__(
        self,
        model: LanguageModel | Engine,
        hooks: Sequence[str],
        *,
        context: int,
        compute_dtype: ComputeDtype = "auto",
    ) -> None:
        if not isinstance(model, LanguageModel | Engine):
            raise TypeError(
                f"model: got {type(model).__name__}, expected a LanguageModel or an Engine: load_model(path) gives "
                "one, and so does LanguageModel(model, tokenizer, name)"
            )
        one_of("compute_dtype", compute_dtype, ComputeDtype)
        engine = engine_of(model)
        longest = engine.max_context
        if context < 2 or (longest is not None and context > longest):
            raise ValueError(f"context: got {context}, expected from 2 to the model's {longest} tokens")
        if not hooks or len(set(hooks)) < len(hooks):
            raise ValueError(f"hooks: got {list(hooks)}, expected one or several different names")
        for hook in hooks:
            engine.point(hook)  # names an unknown one before anything is measured
        if isinstance(model, LanguageModel):
            chosen: str = compute_dtype
            if chosen == "auto":
                chosen = fastest_compute_dtype(model, hooks, tokens=min(context, 128))
            engine = engine_of(in_dtype(model, chosen))
        elif compute_dtype not in ("auto", engine.compute_dtype):
            raise ValueError(
                f"compute_dtype: got {compute_dtype!r}, expected 'auto' or {engine.compute_dtype!r}, which this engine "
                "computes in"
            )
        self.compute_dtype = engine.compute_dtype
        self._engine, self._hooks = engine, list(hooks)
        self.bos = _expected_bos(engine.tokenizer)
        seen = engine.read(self._hooks, torch.zeros((1, 2), dtype=torch.long))
        for name, value in seen.items():
            if value.ndim != 3 or value.shape[:2] != (1, 2):
                raise ValueError(
                    f"hooks: {name} gives {tuple(value.shape)} for (1, 2) tokens, expected (1, 2, width)"
                )
        self.widths = {name: seen[name].shape[2] for name in hooks}

    def read(self, window: Window, n: int | None = None) -> dict[str, F32]:
        """Hook point -> (n, width) float32 rows of the window's first n tokens (None: all), in its order.

        Batches are those of the whole window, so a row has the same bits whatever n is.
        """
        n = window.n_tokens if n is None else n
        lengths = np.array([len(piece.tokens) for piece in window.pieces])
        starts = np.cumsum(lengths) - lengths
        out = {name: np.empty((window.n_tokens, width), np.float32) for name, width in self.widths.items()}
        for batch in window.batches():
            if all(starts[piece] >= n for piece in batch.which):
                continue
            seen = self._engine.read(self._hooks, torch.from_numpy(batch.ids).to(torch.long))
            for name, value in seen.items():
                rows = value.float().cpu().numpy()
                for i, piece in enumerate(batch.which):
                    out[name][starts[piece] : starts[piece] + lengths[piece]] = rows[i, : lengths[piece]]
        return {name: rows[:n] for name, rows in out.items()}


def in_dtype(model: LanguageModel, dtype: torch.dtype | str) -> LanguageModel:
    """The model with parameters of that dtype, or of torch's dtype of that name: itself, or a copy."""
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    if model.dtype == dtype:
        return model
    return LanguageModel(copy.deepcopy(model.model).to(dtype), model.tokenizer, model.name)


def fastest_compute_dtype(model: LanguageModel, hooks: Sequence[str], tokens: int = 128) -> str:
    """Which of "float32" and "bfloat16" runs faster up to these hook points here, by a short measurement.

    bfloat16 must win by 15 %, as it rounds to three digits; on a processor without instructions for it, it is
    several times slower. A model loaded in another dtype than float32 keeps its dtype.
    """
    if model.dtype != torch.float32:
        return str(model.dtype).removeprefix("torch.")
    # One product of matrices costs nothing and settles it where there are no instructions for bfloat16.
    if _product_seconds(model, torch.bfloat16) > _product_seconds(model, torch.float32):
        return "float32"
    exact = _seconds(model, hooks, tokens, runs=3)
    narrow = _seconds(in_dtype(model, torch.bfloat16), hooks, tokens, runs=3)
    return "bfloat16" if narrow * _FASTER < exact else "float32"


def _product_seconds(model: LanguageModel, dtype: torch.dtype) -> float:
    x = torch.ones((256, model.d_model), dtype=dtype, device=model.device)
    weights = torch.ones((4 * model.d_model, model.d_model), dtype=dtype, device=model.device)
    times = []
    with torch.inference_mode():
        for _ in range(4):
            begin = time.perf_counter()
            float((x @ weights.T)[0, 0])  # waits for a device that runs behind
            times.append(time.perf_counter() - begin)
    return min(times)


def _seconds(model: LanguageModel, hooks: Sequence[str], tokens: int, runs: int) -> float:
    ids = torch.arange(tokens, device=model.device)[None] % int(model.config.vocab_size)
    times = []
    with torch.inference_mode():
        for _ in range(runs):
            begin = time.perf_counter()
            for value in read_hooks(model, hooks, ids).values():
                value.float().cpu()  # waits for a device that runs behind
            times.append(time.perf_counter() - begin)
    return min(times)


def _expected_bos(tokenizer: Any) -> int | None:
    """The token that the tokenizer itself would put first."""
    if tokenizer is None:
        return None
    first = list(tokenizer("a")["input_ids"])[:1]
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos if bos is not None and first == [bos] else None
