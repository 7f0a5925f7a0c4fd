"""Many edits of a decision for the price of one reading: a prompt is read once, its last token once for each edit.

What a model answers is decided at the last token of the prompt. An edit of the activation there, at a hook point,
leaves everything before it as it was; so the prompt's keys and values serve all edits, and each needs one token more.
Copies of the last token stand behind the prompt at the same position, see what it sees, and do not see one another.
Below the hook point nothing differs yet, so the copies enter there and lower layers read the prompt alone.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparse_sae._io.arrays import Array
from sparse_sae.lm.model.hook_point import owned
from sparse_sae.lm.model.hooks import resolve, unwrap
from sparse_sae.lm.model.loading import LanguageModel
from sparse_sae.lm.model.prompts import Batch, Prompt, batches, continuation_ids, token_ids
from sparse_sae.lm.studies.reuse import layers_below
from sparse_sae.lm.studies.scores import prefix_cache, shared_prefix


@dataclass(frozen=True)
class Edits:
    """`count` edits of an activation: `apply` takes (batch, d_in) float32 and gives (batch, count, d_in)."""

    count: int
    apply: Callable[[Tensor], Tensor]

    @classmethod
    def of_rows(cls, count: int, apply: Callable[[Array], Array]) -> Edits:
        """Edits by a function of NumPy arrays of these shapes; no gradients go through it."""
        return cls(count, lambda x: torch.from_numpy(apply(x.detach().numpy())))


@dataclass(frozen=True)
class Decisions:
    """Answers of a model to n prompts, as it is and under E edits, among m choices.

    Attributes:
        plain: (n, m) float32, log-probabilities among the choices. edited: (n, E, m), the same under each edit.
        rows: (n, d_in) float32, the activation at the hook point on the last token.
    """

    plain: Array
    edited: Array
    rows: Array


def decide(
    lm: LanguageModel,
    prompts: Sequence[Prompt],
    choices: Sequence[str],
    hook: str,
    edits: Edits | None = None,
    *,
    batch_size: int = 16,
    block: int | None = None,
    memory: MutableMapping[str, tuple[Array, ...]] | None = None,
) -> Decisions:
    """Log-probabilities of choices of one token each after each prompt, under each edit of its last token.

    The same to rounding as a pass for each edit, attached at the last position alone. What all prompts begin with is
    read once.

    Args:
        hook: the hook point, such as "blocks.15.hook_resid_post".
        edits: of the activation on the last token.
        block: prompts are put into batches `block` at a time, so that a batch does not depend on prompts far behind it;
            None: all at once.
        memory: SHA-256 of a batch's tokens -> what came out of it. A batch that is found there is not run, so that a
            long study which was stopped goes on; the caller answers for it that model, choices and edits are the same.

    Raises:
        ValueError: a choice of several tokens, or two that are one. NotImplementedError: a model that bends its logits
            after the head, or whose layers do not all see every earlier token.

    >>> decide(lm, prompts, ["Yes", "No"], "blocks.15.hook_resid_post").plain  # doctest: +SKIP
    """
    module = unwrap(lm)
    head = _head(module, [continuation_ids(choice, lm.tokenizer) for choice in choices], choices)
    sequences = [token_ids(prompt, lm.tokenizer) for prompt in prompts]
    n = shared_prefix(sequences)
    point = resolve(lm, hook)
    memory = {} if memory is None else memory
    parts: list[Any] = [None] * len(sequences)
    with torch.inference_mode():
        prefix = prefix_cache(module, sequences[0][:n]) if n else None
        for batch in _in_blocks([ids[n:] for ids in sequences], batch_size, block or len(sequences)):
            name = _name(sequences[0][:n], batch)
            if name not in memory:
                scores, rows = _pass(module, point, batch, head, edits, prefix)
                memory[name] = scores.numpy(), rows.numpy()
            for i, score, row in zip(batch.index, *memory[name], strict=True):
                parts[i] = (score, row)
    answers = np.stack([score for score, _ in parts])
    return Decisions(answers[:, 0], answers[:, 1:], np.stack([row for _, row in parts]))


def _in_blocks(sequences: Sequence[Sequence[int]], size: int, block: int) -> Iterator[Batch]:
    """Batches of each `block` sequences after the other."""
    for start in range(0, len(sequences), block):
        for batch in batches(sequences[start : start + block], size, side="left"):
            yield Batch(batch.ids, batch.mask, [start + i for i in batch.index])


def _name(prefix: Sequence[int], batch: Batch) -> str:
    """SHA-256 of what a batch reads."""
    return hashlib.sha256(f"{list(prefix)} {batch.sha256}".encode()).hexdigest()


def decision_gradients(
    lm: LanguageModel, prompts: Sequence[Prompt], choices: Sequence[str], hook: str, *, batch_size: int = 8
) -> tuple[Array, Array]:
    """(n, d_in) activations on the last token, and (n, m, d_in) the gradients there of each choice's log-odds.

    The log-odds are of a choice against the others together.
    """
    module = unwrap(lm)
    head = _head(module, [continuation_ids(choice, lm.tokenizer) for choice in choices], choices)
    sequences = [token_ids(prompt, lm.tokenizer) for prompt in prompts]
    point = resolve(lm, hook)
    rows: list[Any] = [None] * len(sequences)
    gradients: list[Any] = [None] * len(sequences)
    n = shared_prefix(sequences)
    with torch.no_grad():
        prefix = prefix_cache(module, sequences[0][:n]) if n else None
    for batch in batches([ids[n:] for ids in sequences], batch_size, side="left"):
        leaf: list[Tensor] = []

        def apart(x: Tensor, leaf: list[Tensor] = leaf) -> Tensor:
            leaf.append(x.detach()[:, None].clone().requires_grad_())
            return leaf[0]

        with torch.enable_grad():
            scores, x = _pass(module, point, batch, head, Edits(1, apart), prefix)
            odds = log_odds(scores[:, 1])
            found = [
                torch.autograd.grad(odds[:, j].sum(), leaf[0], retain_graph=True)[0][:, 0]
                for j in range(odds.shape[1])
            ]
        for row, i in enumerate(batch.index):
            rows[i] = x[row].detach().numpy()
            gradients[i] = torch.stack([g[row] for g in found]).numpy()
    return np.stack(rows), np.stack(gradients)


def log_odds(logp: Any) -> Any:
    """log p - log(1 - p) of log-probabilities among choices; NumPy or torch, along the last axis.

    >>> log_odds(np.log([[0.5, 0.25, 0.25]])).round(3).tolist()
    [[0.0, -1.099, -1.099]]
    """
    if isinstance(logp, Tensor):
        others = [torch.cat([logp[..., :j], logp[..., j + 1 :]], -1) for j in range(logp.shape[-1])]
        return logp - torch.stack([rest.logsumexp(-1) for rest in others], -1)
    from scipy.special import logsumexp

    others = [logsumexp(np.delete(logp, j, -1), axis=-1) for j in range(logp.shape[-1])]
    return logp - np.stack(others, -1)


def _head(module: nn.Module, ids: Sequence[Sequence[int]], choices: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Rows (m, d) and biases (m,) of the output layer, float32."""
    long = [choice for choice, tokens in zip(choices, ids, strict=True) if len(tokens) != 1]
    if long or len({tokens[0] for tokens in ids}) < max(2, len(ids)):
        raise ValueError(
            f"choices: got {list(choices)}, expected at least two of one token each, all different; {long} have more"
        )
    owner: Any = module
    config, layer = owner.config, owner.get_output_embeddings()
    if not isinstance(layer, nn.Linear) or getattr(config, "final_logit_softcapping", None):
        raise NotImplementedError("model: its logits are not a linear map of the last activation")
    if getattr(config, "sliding_window", None):
        raise NotImplementedError(
            "model: layers with a sliding window do not see every earlier token; copies would"
        )
    at = torch.tensor([tokens[0] for tokens in ids])
    bias = torch.zeros(len(at)) if layer.bias is None else layer.bias[at].detach().float()
    return layer.weight[at].detach().float(), bias


def _pass(
    module: nn.Module, point: Any, batch: Batch, head: tuple[Tensor, Tensor], edits: Edits | None, prefix: Any
) -> tuple[Tensor, Tensor]:
    """(batch, 1 + E, m) log-probabilities among the choices, and (batch, d_in) activations on the last token."""
    rows, width = batch.ids.shape
    before = 0 if prefix is None else prefix.get_seq_length()
    copies = 0 if edits is None else edits.count
    ids = torch.cat([batch.ids, batch.ids[:, -1:].expand(rows, copies)], 1)
    positions = batch.positions + before
    positions = torch.cat([positions, positions[:, -1:].expand(rows, copies)], 1)
    cache = None
    if prefix is not None:
        cache = copy.deepcopy(prefix)
        cache.batch_repeat_interleave(rows)
    kept: list[Tensor] = []

    def at_hook(x: Tensor) -> Tensor | None:
        last = x[:, width - 1].float()
        kept.append(last)
        if edits is None:
            return None
        # detached: gradients go back to the edits and no further
        return torch.cat([x[:, :width].detach(), edits.apply(last).to(x.dtype)], 1)

    base: Any = getattr(module, "base_model", module)
    mask = _mask(batch.mask, copies, before, next(module.parameters()).dtype)
    lower = layers_below(module, point) if copies else []
    with _prompt_alone(lower, width, copies, before), point.attach(at_hook):
        out = base(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    last = out.last_hidden_state[:, width - 1 :].float()
    return (last @ head[0].T + head[1]).log_softmax(-1), kept[0]


@contextmanager
def _prompt_alone(layers: Sequence[nn.Module], width: int, copies: int, before: int) -> Iterator[None]:
    """While this is open, these layers get the first `width` positions; after the last of them the copies stand."""
    size = width + copies

    def narrow(value: Any) -> Any:
        if isinstance(value, tuple):  # cosines and sines of positions
            return tuple(map(narrow, value))
        if not isinstance(value, Tensor):
            return value
        if value.ndim == 4 and value.shape[2:] == (size, before + size):  # the mask
            return value[:, :, :width, : before + width]
        return value[:, :width] if value.ndim in (2, 3) and value.shape[1] == size else value

    def widen(x: Tensor) -> Tensor:
        return torch.cat([x, x[:, -1:].expand(-1, copies, -1)], 1)

    with owned() as ours, ExitStack() as stack:

        def into(_layer: nn.Module, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
            if not ours():
                return None
            return narrow(args), {name: narrow(value) for name, value in (kwargs or {}).items()}

        def out_of(_layer: nn.Module, _args: Any, out: Any) -> Any:
            if not ours():
                return None
            return (widen(out[0]), *out[1:]) if isinstance(out, tuple) else widen(out)

        for layer in layers:
            stack.callback(layer.register_forward_pre_hook(into, with_kwargs=True).remove)
        if layers:
            stack.callback(layers[-1].register_forward_hook(out_of).remove)
        yield


def _mask(mask: Tensor, copies: int, before: int, dtype: torch.dtype) -> Tensor:
    """(batch, 1, query, key) added to attention: causal, without padding; a copy sees what the last token sees."""
    rows, width = mask.shape
    size = width + copies
    sees = torch.zeros(rows, size, before + size, dtype=torch.bool)
    sees[:, :, :before] = True
    here = torch.ones(width, width, dtype=torch.bool).tril() & mask[:, None, :].bool()
    sees[:, :width, before : before + width] = here
    sees[:, width:, before : before + width - 1] = here[:, -1:, :-1]
    own = torch.arange(size)
    sees[:, own, before + own] = True  # padding too: a row that sees nothing would be NaN
    return torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[:, None]
