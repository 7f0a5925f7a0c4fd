"""What a language model says, as numbers: log-probabilities of continuations, loss and divergence on texts.

Everything runs in batches of plain forward passes and sees whatever edits are attached to the model at the
time (`sparse_sae.lm.steering`), so one function measures the model with and without them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sparse_sae.lm.model.hooks import unwrap
from sparse_sae.lm.model.prompts import (
    Batch,
    Model,
    Prompt,
    batches,
    continuation_ids,
    logits_of,
    token_ids,
    tokenizer_for,
)

Floats: TypeAlias = NDArray[np.float64]


def choice_logprobs(
    model: Model,
    prompts: Sequence[Prompt],
    choices: Sequence[str | Sequence[int]],
    *,
    tokenizer: Any = None,
    batch_size: int = 16,
    share_prefix: bool = False,
) -> Floats:
    """Log-probability of each of several continuations after each prompt.

    A prompt is read once; choices of more than one token go on from its key-value cache. Steering counts
    their tokens as generated ones.

    Args:
        model: a `LanguageModel` or a transformers causal model.
        prompts: n prompts (`token_ids` says what one may be).
        choices: m continuations, as text or token ids; log-probabilities are summed over a continuation's
            tokens.
        tokenizer: needed for a bare transformers model and texts.
        batch_size: prompts in one pass.
        share_prefix: read the tokens that all prompts begin with, such as a system prompt, once a call, and go on
            from them; the same to rounding, and sooner by their share of the tokens. Only for edits whose effect
            on a position does not depend on where the prompt ends: `positions="all"`, or none.

    Returns:
        (n, m) float64, natural logarithms.

    >>> choice_logprobs(model, ["The sky is"], [" blue", " a lemon"])  # doctest: +SKIP
    array([[-2.1, -14.9]])
    """
    if not choices:
        raise ValueError("choices is empty: give at least one continuation")
    module = unwrap(model)
    words = tokenizer_for(model, [*prompts, *choices], tokenizer)
    wanted = [continuation_ids(c, words) if isinstance(c, str) else [int(i) for i in c] for c in choices]
    if not all(wanted):
        raise ValueError("choices: each continuation needs at least one token")
    sequences = [token_ids(p, words) for p in prompts]
    result = np.empty((len(sequences), len(wanted)))
    longer = any(len(ids) > 1 for ids in wanted)
    n = shared_prefix(sequences) if share_prefix else 0
    with torch.inference_mode():
        prefix = prefix_cache(module, sequences[0][:n]) if n else None
        for batch in batches([ids[n:] for ids in sequences], batch_size, side="left"):
            result[batch.index] = _score_choices(module, batch, wanted, longer, prefix)
    return result


def shared_prefix(sequences: list[list[int]]) -> int:
    """Tokens that all begin with; one of each sequence at least is left to go on with."""
    if len(sequences) < 2:
        return 0
    pairs = zip(min(sequences), max(sequences), strict=False)  # first and last differ where any two do
    n = next((i for i, (a, b) in enumerate(pairs) if a != b), len(min(sequences)))
    return min(n, min(map(len, sequences)) - 1)


def prefix_cache(module: nn.Module, ids: list[int]) -> Any:
    """The key-value cache after these tokens, for one row."""
    cache = _new_cache()
    base = getattr(module, "base_model", module)
    base(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
    return cache


def _score_choices(
    module: nn.Module, batch: Batch, choices: list[list[int]], longer: bool, prefix: Any = None
) -> Floats:
    rows = len(batch.ids)
    mask, positions, cache = batch.mask, batch.positions, _new_cache() if longer else None
    if prefix is not None:
        n = prefix.get_seq_length()
        mask = torch.cat([torch.ones(rows, n, dtype=torch.long), mask], 1)
        positions = positions + n
        cache = copy.deepcopy(prefix)
        cache.batch_repeat_interleave(rows)
    out = logits_of(
        module,
        batch.ids,
        keep=1,
        attention_mask=mask,
        position_ids=positions,
        use_cache=longer,
        **({} if cache is None else {"past_key_values": cache}),
    )
    first = out.logits[:, -1].float().log_softmax(-1)
    scores = torch.stack([first[:, ids[0]] for ids in choices], 1).double()
    for column, ids in enumerate(choices):
        if len(ids) == 1:
            continue
        rest = torch.tensor(ids).expand(rows, -1)
        n = len(ids) - 1
        more = logits_of(
            module,
            rest[:, :-1],
            attention_mask=torch.cat([mask, torch.ones(rows, n, dtype=torch.long)], 1),
            position_ids=positions[:, -1:] + 1 + torch.arange(n),
            past_key_values=out.past_key_values,
            use_cache=True,
        )
        logprobs = more.logits.float().log_softmax(-1)
        scores[:, column] += logprobs.gather(2, rest[:, 1:, None]).sum((1, 2)).double()
        out.past_key_values.crop(-n)  # back to the prompt
    result: Floats = scores.numpy()
    return result


def _new_cache() -> Any:
    from transformers import DynamicCache

    # without the configuration every layer keeps all positions, so that the cache can be cut back to the
    # prompt
    return DynamicCache()


@dataclass(frozen=True)
class TextScores:
    """How a model with an edit predicts texts, beside the unedited model.

    Attributes:
        loss: mean cross-entropy per predicted token, nats.
        kl: mean over predicted positions of KL(unedited ‖ edited), nats; 0 for the unedited model.
        loss_by_text, kl_by_text: sums over each text's predicted tokens, (n_texts,).
        tokens: predicted tokens of each text, (n_texts,).
    """

    loss_by_text: Floats
    kl_by_text: Floats
    tokens: NDArray[np.int64]

    @property
    def loss(self) -> float:
        return float(self.loss_by_text.sum() / self.tokens.sum())

    @property
    def kl(self) -> float:
        return float(self.kl_by_text.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return float(np.exp(self.loss))


def score_texts(
    model: Model,
    texts: Sequence[Prompt],
    edits: Mapping[str, Callable[[], AbstractContextManager[Any]]],
    *,
    tokenizer: Any = None,
    batch_size: int = 4,
    max_tokens: int = 256,
) -> dict[str, TextScores]:
    """Loss of texts under each of several edits of the model, and their divergence from the unedited model.

    Args:
        model: a `LanguageModel` or a transformers causal model.
        texts: strings, token ids or chats; each is cut to `max_tokens` tokens, and those of fewer than two
            tokens are refused, as they predict nothing.
        edits: name -> a function that opens a context in which the model is edited.
        batch_size: texts in one pass.
        max_tokens: tokens read of each text.

    Returns:
        name -> `TextScores`, with "unedited" first.
    """
    module = unwrap(model)
    words = tokenizer_for(model, [*texts], tokenizer)
    sequences = [token_ids(text, words)[:max_tokens] for text in texts]
    short = [i for i, ids in enumerate(sequences) if len(ids) < 2]
    if short or not sequences:
        raise ValueError(
            f"texts: at least one, each of two tokens or more, is needed; too short: {short[:5]}"
        )
    if "unedited" in edits:
        raise ValueError("edits: the name 'unedited' is taken by the model as it is")
    names = ["unedited", *edits]
    sums = {name: np.zeros((2, len(sequences))) for name in names}
    for batch in batches(sequences, batch_size):
        with torch.inference_mode():
            _score_batch(module, batch, edits, sums)
    tokens = np.array([len(ids) - 1 for ids in sequences])
    return {name: TextScores(sums[name][0], sums[name][1], tokens) for name in names}


def _score_batch(
    module: nn.Module,
    batch: Batch,
    edits: Mapping[str, Callable[[], AbstractContextManager[Any]]],
    sums: dict[str, NDArray[np.float64]],
) -> None:
    valid = batch.mask[:, 1:].bool()
    targets = batch.ids[:, 1:][valid]
    row = torch.arange(len(batch.ids))[:, None].expand_as(valid)[valid]

    def logprobs() -> Tensor:
        # only the predicted positions are kept: (tokens, vocabulary) is the largest array here
        logits = logits_of(module, batch.ids, attention_mask=batch.mask, use_cache=False).logits
        return logits[:, :-1][valid].float().log_softmax(-1)

    def add(name: str, which: int, values: Tensor) -> None:
        total = torch.zeros(len(batch.ids), dtype=torch.float64).index_add_(0, row, values.double())
        sums[name][which, batch.index] = total.numpy()

    def loss(p: Tensor) -> Tensor:
        return -p.gather(1, targets[:, None])[:, 0]

    plain = logprobs()
    add("unedited", 0, loss(plain))
    for name, edit in edits.items():
        with edit():
            edited = logprobs()
        add(name, 0, loss(edited))
        add(name, 1, nn.functional.kl_div(edited, plain, reduction="none", log_target=True).sum(1))
