"""Three tests of a latent: does it detect, does steering with it cause, does removing it silence.

Each is held against directions of equal norm, since any push of that size may do the same; and what each edit does to
benign text is measured beside it. The three answers need not agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparse_sae._io.arrays import Array
from sparse_sae.lm.model.hooks import resolve
from sparse_sae.lm.model.loading import LanguageModel
from sparse_sae.lm.model.pairing import hook_of, require_own_space
from sparse_sae.lm.steering.interventions import steer_direction
from sparse_sae.lm.studies.scores import choice_logprobs, score_texts


@dataclass(frozen=True)
class Effect:
    """What an edit along one direction does.

    Attributes:
        change: mean over prompts of the change of log p(first choice) - log p(second choice), nats.
        perplexity, kl: of benign texts under it: exp(nats a token), and KL(plain ‖ edited), nats a token.
    """

    change: float
    perplexity: float
    kl: float


@dataclass(frozen=True)
class Causal:
    """Steering and silencing by a latent, and by controls of equal norm.

    Attributes:
        before, steered, silenced: (n,) log-odds of the first choice for each prompt.
        steer, steer_controls: adding strength · d, and as much along random directions.
        silence, silence_controls: taking the latent's activation times d away, and as much along random directions.
        perplexity: of the benign texts, unedited.
    """

    before: Array
    steered: Array
    silenced: Array
    steer: Effect
    steer_controls: list[Effect]
    silence: Effect
    silence_controls: list[Effect]
    perplexity: float

    @staticmethod
    def p_value(effect: Effect, controls: Sequence[Effect]) -> float:
        """Share of latent and controls, the latent counted, whose change is at least as large as the latent's."""
        at_least = sum(abs(control.change) >= abs(effect.change) for control in controls)
        return (1 + at_least) / (1 + len(controls))


def causal_tests(
    lm: LanguageModel,
    sae: Any,
    latent: int,
    prompts: Sequence[Any],
    choices: tuple[str, str],
    benign: Sequence[str],
    *,
    strength: float,
    hook: str | None = None,
    controls: int = 9,
    seed: int = 0,
) -> Causal:
    """Steer with a latent, and silence it, on the same prompts; with random directions of the same norm beside.

    Args:
        prompts: held-out prompts. choices: the outcome is log p(first) - log p(second) after each.
        benign: texts that have nothing to do with it.
        strength: how much of the decoder row is added at every position.
        controls: random directions; p cannot be below 1 / (controls + 1).

    Raises:
        ValueError: no such latent, or its decoder row is 0.
    """
    if not 0 <= latent < sae.d_sae:
        raise ValueError(f"latent: got {latent}, expected 0 to d_sae - 1 = {sae.d_sae - 1}")
    require_own_space(sae)
    point: Any = hook_of(lm, sae, hook)
    point = resolve(lm, point.name)
    row = np.asarray(sae.rows["W_dec"][latent], np.float32)
    norm = float(np.linalg.norm(row))
    if not norm > 0:
        raise ValueError(f"latent: the decoder row of {latent} is 0; it can neither steer nor be silenced")
    random = np.random.default_rng(seed).standard_normal((controls, len(row)))
    random *= norm / np.linalg.norm(random, axis=1, keepdims=True)
    directions = [row, *random.astype(np.float32)]

    def add(vector: Array) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: steer_direction(lm, point, vector, strength)

    def remove(vector: Array) -> Callable[[], AbstractContextManager[Any]]:
        along = torch.from_numpy(np.ascontiguousarray(vector))

        def edit(x: Tensor) -> Tensor:
            rows = x.detach().float().reshape(-1, x.shape[-1]).numpy()
            codes = sae.encode(rows)[:, [latent]].toarray()
            active = torch.from_numpy(np.ascontiguousarray(codes)).reshape(*x.shape[:-1], 1)
            return x - (active * along).to(x.dtype)

        return lambda: point.attach(edit)

    def odds() -> Array:
        both = choice_logprobs(lm, prompts, list(choices))
        return np.asarray(both[:, 0] - both[:, 1])

    before = odds()
    edits = {("add", i): add(v) for i, v in enumerate(directions)}
    edits |= {("remove", i): remove(v) for i, v in enumerate(directions)}
    after = {}
    for name, edit in edits.items():
        with edit():
            after[name] = odds()
    sides = score_texts(lm, benign, {f"{kind} {i}": edit for (kind, i), edit in edits.items()})

    def effect(kind: str, i: int) -> Effect:
        side = sides[f"{kind} {i}"]
        return Effect(float((after[kind, i] - before).mean()), side.perplexity, side.kl)

    rest = range(1, len(directions))
    return Causal(
        before,
        after["add", 0],
        after["remove", 0],
        effect("add", 0),
        [effect("add", i) for i in rest],
        effect("remove", 0),
        [effect("remove", i) for i in rest],
        sides["unedited"].perplexity,
    )
