"""The judge of `run.py`, and its gradient: what a push at every position of a ticket does to first order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch

from sparse_sae.demo.tickets import Ticket
from sparse_sae.lm import Judge, LanguageModel, calibrated_judge, english_documents
from sparse_sae.lm.model.hooks import resolve, unwrap
from sparse_sae.lm.model.prompts import Batch, batches, continuation_ids, logits_of, token_ids
from sparse_sae.lm.steering.interventions import steer_direction
from sparse_sae.lm.studies.reuse import reuse_below
from sparse_sae.lm.studies.scores import prefix_cache

SPOKEN_OF = ("refund_asked", "shipping_delay")
EXAMPLES = (
    ("The lamp has not arrived. Please refund me.", True),
    ("The lamp arrived on time. Please send me the manual.", False),
)
INSTRUCTION = "What does the customer want?"
FRAME = {"before": "Customer: ", "after": "\nThe customer wants", "yes": " money", "no": " information"}


def short(ticket: Ticket) -> str:
    """The two sentences of a ticket that a refund depends on (and its ending, if that follows): what is judged."""
    starts = sorted(ticket.onsets.values())
    ends = dict(zip(starts, [*starts[1:], len(ticket.text)], strict=True))
    parts = sorted(ticket.onsets[label] for label in SPOKEN_OF)
    return " ".join(ticket.text[start : ends[start]].strip() for start in parts)


def neutral_texts() -> list[str]:
    """English prose that has nothing to do with refunds, far behind what the SAE was trained on."""
    return [text[:400] for text in islice(english_documents(), 1200, 1204)]


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector at norm 1."""
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def judge_of(lm: LanguageModel, items: Sequence[Ticket]) -> Judge:
    """A judge of whether a refund is asked for, its threshold calibrated on these tickets."""
    asked = [item.labels["refund_asked"] for item in items]
    return calibrated_judge(lm, INSTRUCTION, EXAMPLES, [short(item) for item in items], asked, **FRAME)


class Bench:
    """Tickets before the judge, pushed at the hook point from their first word on (what stands before is left alone).

    Args:
        lm: the model. judge: see `judge_of`. hook: where pushes are added.
    """

    def __init__(self, lm: LanguageModel, judge: Judge, hook: str) -> None:
        self.lm, self.judge, self.hook = lm, judge, hook
        # without the white space at the end: a tokenizer joins it with what follows, or cuts it otherwise
        self._examples = token_ids((judge.preface + judge.before).rstrip(), lm.tokenizer)
        self.first = len(self._examples)  # before it are the examples, and what introduces the ticket
        yes, no = (continuation_ids(answer, lm.tokenizer) for answer in (judge.yes, judge.no))
        if len(yes) != 1 or len(no) != 1:
            raise ValueError(f"judge: got answers of {len(yes)} and {len(no)} tokens, expected one each")
        self.yes, self.no = yes[0], no[0]
        self._end = token_ids(judge.after, lm.tokenizer)  # what follows the ticket
        with torch.no_grad():  # what no push reaches is read once, before there is any
            self._read = prefix_cache(unwrap(lm), self._examples)

    def margins(
        self,
        items: Sequence[Ticket],
        pushes: Mapping[str, np.ndarray],
        *,
        chunk: int = 32,
        done: Callable[[int, dict[str, np.ndarray]], None] | None = None,
        each: Callable[[str, np.ndarray], None] | None = None,
        inside: bool = False,
    ) -> dict[str, np.ndarray]:
        """(n,) margins under each push, and under none ("unsteered"); what no push changes is run once.

        Args:
            pushes: name -> (d_in,) vector that is added.
            done: called after each chunk with the number of tickets, and the margins so far.
            each: called after each push, with the margins of the chunk.
            inside: push at the ticket's own words alone, and not where the judge goes on after it.
        """
        found: dict[str, list[np.ndarray]] = {name: [] for name in ("unsteered", *pushes)}
        for start in range(0, len(items), chunk):
            sequences = self.tokens(items[start : start + chunk])
            # prompts end at the same column, whatever their length
            stop = max(map(len, sequences)) - len(self._end) if inside else None
            with reuse_below(self.lm, self.hook):
                for name in found:
                    with self.push(pushes[name], stop) if name in pushes else nullcontext():
                        found[name].append(self._margins(sequences))
                    if each is not None:
                        each(name, found[name][-1])
            if done is not None:
                so_far = {name: np.concatenate(parts) for name, parts in found.items()}
                done(min(start + chunk, len(items)), so_far)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def tokens(self, items: Sequence[Ticket]) -> list[list[int]]:
        """Token ids of the prompts, all of which begin with the examples'."""
        found = [token_ids(self.judge.prompt(short(item)), self.lm.tokenizer) for item in items]
        if any(ids[: self.first] != self._examples for ids in found):
            raise ValueError(
                "judge: got words before the ticket whose last token goes on into it; end them with a space"
            )
        if any(ids[-len(self._end) :] != self._end for ids in found):
            raise ValueError(
                "judge: got words after the ticket whose first token begins in it; start a new line"
            )
        return found

    def logits(self, part: Batch, **options: Any) -> torch.Tensor:
        """(n, vocabulary) logits after each prompt, going on from the examples."""
        seen = torch.ones(len(part.ids), self.first, dtype=torch.long)
        cache = copy.deepcopy(self._read)
        cache.batch_repeat_interleave(len(part.ids))
        out = logits_of(
            unwrap(self.lm),
            part.ids,
            keep=1,
            attention_mask=torch.cat([seen, part.mask], 1),
            position_ids=part.positions + self.first,
            past_key_values=cache,
            **options,
        )
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def _margins(self, sequences: list[list[int]]) -> np.ndarray:
        found = np.zeros(len(sequences))
        with torch.inference_mode():
            for part in batches([ids[self.first :] for ids in sequences], len(sequences), side="left"):
                # as in `Judge`: one token each, so that log p(yes) - log p(no) is a difference of logits
                logits = self.logits(part, use_cache=False).double()
                found[part.index] = (logits[:, self.yes] - logits[:, self.no]).numpy() - self.judge.threshold
        return found

    def push(self, vector: np.ndarray, stop: int | None = None) -> Any:
        """A context in which the vector is added from the ticket's first word on, up to a column."""
        return steer_direction(self.lm, self.hook, vector, 1.0, positions=slice(self.first, stop))

    def read(self, items: Sequence[Ticket], batch: int = 16) -> tuple[np.ndarray, list[np.ndarray]]:
        """What a first-order estimate needs, ticket by ticket.

        Returns:
            (n, d_in) gradient of the margin by a vector added at all positions of the ticket, and for each ticket the
            (positions, d_in) activations there.
        """
        module = unwrap(self.lm)
        sequences = self.tokens(items)
        gradients = np.zeros((len(items), module.config.hidden_size), np.float32)
        activations: list[Any] = [None] * len(items)
        for part in batches([ids[self.first :] for ids in sequences], batch, side="left"):
            push = torch.zeros(len(part.ids), 1, module.config.hidden_size, requires_grad=True)
            kept: list[torch.Tensor] = []

            def add(
                x: torch.Tensor, push: torch.Tensor = push, kept: list[torch.Tensor] = kept
            ) -> torch.Tensor:
                kept.append(x.detach())
                return x + push

            with torch.enable_grad(), resolve(self.lm, self.hook).attach(add):
                logits = self.logits(part, use_cache=True)
                margin = logits[:, self.yes] - logits[:, self.no]
                (slope,) = torch.autograd.grad(margin.sum(), push)
            gradients[part.index] = slope[:, 0].numpy()
            for row, i in enumerate(part.index):
                activations[i] = kept[0][row][part.mask[row].bool()].float().numpy()
        return gradients, activations
