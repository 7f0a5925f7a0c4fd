"""Pairs of prompts that differ in what is asked, and passes of a model over them with activations read or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_sae._arguments import whole
from sparse_sae.lm import read_hooks, resolve
from sparse_sae.lm.model.hooks import unwrap
from sparse_sae.lm.model.prompts import logits_of, token_ids, tokenizer_for

Edit = Callable[[Tensor], "Tensor | None"]


@dataclass(frozen=True)
class Pair:
    """Two prompts of equal length and the answers to them: m = logit(right) - logit(wrong) after the clean one.

    Attributes:
        clean: a text, or token ids.
        patch: the same with what matters changed, so that `wrong` is right.
        right, wrong: one token each, as text or number.
    """

    clean: str | Sequence[int]
    patch: str | Sequence[int]
    right: str | int
    wrong: str | int


@dataclass(frozen=True)
class Batch:
    """Pairs of one length: their numbers (B,), ids (B, T), answers (B,)."""

    number: Tensor
    clean: Tensor
    patch: Tensor
    right: Tensor
    wrong: Tensor

    def __len__(self) -> int:
        return len(self.clean)


def batches_of(model: Any, pairs: Sequence[Pair], batch_size: int) -> list[Batch]:
    """Pairs by length, in batches.

    Raises:
        ValueError: no pairs, prompts of different lengths or of one token, another first token, an answer that is not
            one token.
    """
    if not pairs:
        raise ValueError("pairs: none given, expected at least one")
    words = tokenizer_for(model, [p for pair in pairs for p in (pair.clean, pair.patch)])
    rows: dict[int, list[tuple[int, list[int], list[int], int, int]]] = {}
    for number, pair in enumerate(pairs):
        clean, patch = token_ids(pair.clean, words), token_ids(pair.patch, words)
        if len(clean) != len(patch) or len(clean) < 2:
            raise ValueError(
                f"pairs[{number}]: clean has {len(clean)} tokens and patch {len(patch)}, expected the same number, two "
                "or more; choose words of as many tokens"
            )
        if clean[0] != patch[0]:
            raise ValueError(
                f"pairs[{number}]: the first tokens are {clean[0]} and {patch[0]}; the first position is no node, so "
                "both prompts must begin with the same token (put the model's BOS, or the same word, before both)"
            )
        right, wrong = (_answer(number, a, words) for a in (pair.right, pair.wrong))
        rows.setdefault(len(clean), []).append((number, clean, patch, right, wrong))
    out = []
    for _, group in sorted(rows.items()):
        for start in range(0, len(group), batch_size):
            columns = zip(*group[start : start + batch_size], strict=True)
            out.append(Batch(*(torch.tensor(column) for column in columns)))
    return out


def _answer(number: int, answer: str | int, words: Any) -> int:
    if not isinstance(answer, str):
        return int(answer)
    if words is None:
        raise ValueError(
            f"pairs[{number}]: answer {answer!r}: the model has no tokenizer; give the token's number"
        )
    ids = words(answer, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise ValueError(
            f"pairs[{number}]: answer {answer!r} is {len(ids)} tokens, expected one; name it by number"
        )
    return int(ids[0])


class Passes:
    """Forward and backward passes of a model with activations at hook points read or replaced."""

    def __init__(self, model: Any, hooks: Sequence[str]) -> None:
        self.model, self.hooks = unwrap(model), list(hooks)
        self._points = {hook: resolve(model, hook) for hook in hooks}

    def metric(self, ids: Tensor, batch: Batch, edits: Mapping[str, Edit]) -> Tensor:
        """(B,) m of each row, with edits at hook points."""
        with ExitStack() as stack:
            for hook, edit in edits.items():
                stack.enter_context(self._points[hook].attach(edit))
            logits = logits_of(self.model, ids, keep=1, use_cache=False).logits[:, -1]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        rows = torch.arange(len(ids))
        return logits[rows, batch.right] - logits[rows, batch.wrong]

    def values(self, ids: Tensor, batch: Batch, edits: Mapping[str, Edit]) -> NDArray[np.float64]:
        """`metric` without gradients."""
        with torch.no_grad():
            out: NDArray[np.float64] = self.metric(ids, batch, edits).double().cpu().numpy()
        return out

    def read(self, ids: Tensor) -> dict[str, NDArray[np.float32]]:
        """(B, T, D) at every hook point."""
        with torch.no_grad():
            seen = read_hooks(self.model, self.hooks, ids)
        return {hook: seen[hook].float().cpu().numpy() for hook in self.hooks}

    def gradients(
        self, ids: Tensor, batch: Batch, start: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float64]]:
        """((B, T, D) gradient of m at every hook point, m); `start` replaces activations first."""
        places: dict[str, Tensor] = {}
        wanted = self.hooks if start is None else list(start)

        def edit(hook: str) -> Edit:
            def see(x: Tensor) -> Tensor:
                if start is not None:
                    x = start[hook].to(x.dtype)
                x = x if places else x.detach().requires_grad_(True)
                places[hook] = x.view_as(x) if x.grad_fn is not None else x
                return places[hook]

            return see

        with torch.enable_grad():
            m = self.metric(ids, batch, {hook: edit(hook) for hook in wanted})
            found = torch.autograd.grad(m.sum(), [places[hook] for hook in wanted])
        return (
            {hook: g.float().cpu().numpy() for hook, g in zip(wanted, found, strict=True)},
            m.detach().double().cpu().numpy(),
        )

    def pull(
        self, ids: Tensor, below: str, above: str, scalar: Callable[[Tensor], Tensor]
    ) -> NDArray[np.float32]:
        """(B, T, D) gradient at `below` of the sum of a scalar (B,) of what is then at `above`."""
        places: list[Tensor] = []

        def leaf(x: Tensor) -> Tensor:
            places.append(x.detach().requires_grad_(True))
            return places[0]

        with torch.enable_grad(), self._points[below].attach(leaf):
            x = read_hooks(self.model, [self._points[above]], ids)[above]
            (gradient,) = torch.autograd.grad(scalar(x.float()).sum(), places)
        out: NDArray[np.float32] = gradient.float().cpu().numpy()
        return out


def pair_margins(model: Any, pairs: Sequence[Pair], *, batch_size: int = 16) -> NDArray[np.float64]:
    """(n, 2) by how many logits the model prefers what is right after each prompt of a pair: clean, then patch.

    The patch prompt makes `wrong` right, so a pair that the model does is positive twice; circuits of others explain
    nothing.

    Raises:
        ValueError: as of `feature_circuit`.

    >>> kept = [p for p, m in zip(pairs, pair_margins(lm, pairs)) if (m > 0).all()]  # doctest: +SKIP
    """
    passes, out = Passes(model, []), np.empty((len(pairs), 2))
    for b in batches_of(model, pairs, whole("batch_size", batch_size, least=1)):
        out[b.number.numpy(), 0] = passes.values(b.clean, b, {})
        out[b.number.numpy(), 1] = -passes.values(b.patch, b, {})
    return out


def in_order(model: Any, hooks: Sequence[str]) -> list[str]:
    """Hook points from the first that a forward pass reaches to the last."""
    module = unwrap(model)
    reached: list[str] = []

    def see(hook: str) -> Edit:
        def note(_x: Tensor) -> None:
            reached.append(hook)

        return note

    with ExitStack() as stack, torch.no_grad():
        for hook in hooks:
            stack.enter_context(resolve(model, hook).attach(see(hook)))
        logits_of(module, torch.zeros((1, 2), dtype=torch.long), use_cache=False)
    return list(dict.fromkeys(reached))


def chunks(total: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` over `total`."""
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))
