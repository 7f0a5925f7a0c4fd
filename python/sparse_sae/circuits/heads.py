"""What heads do on sequences that repeat themselves: look one place back, or at what followed last time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_sae._arguments import whole
from sparse_sae.circuits.families import transformer_of


@dataclass(frozen=True)
class HeadScores:
    """Mean attention of every head, (n_layers, H); layers with fewer heads end in NaN.

    Attributes:
        prefix_matching: from the second time a token occurs to the place after its first time (Olsson et al. 2022,
            "In-context Learning and Induction Heads").
        previous_token: to the place before.
        chance: what even attention would give to one place, averaged over the same queries.
    """

    prefix_matching: NDArray[np.float64]
    previous_token: NDArray[np.float64]
    chance: float

    def induction(self, least: float = 0.3) -> list[tuple[int, int]]:
        """(layer, head) with prefix matching of `least` or more, the strongest first."""
        return _above(self.prefix_matching, least)

    def previous(self, least: float = 0.3) -> list[tuple[int, int]]:
        """(layer, head) that look one place back with `least` or more, the strongest first."""
        return _above(self.previous_token, least)


def head_scores(
    model: Any, *, n_sequences: int = 4, length: int = 25, seed: int = 0, tokens: NDArray[Any] | None = None
) -> HeadScores:
    """Score the heads on random tokens that occur twice, as a block and again.

    Args:
        model: a `LanguageModel` or a transformers model of a family in `sparse_sae.circuits.families`.
        n_sequences: how many.
        length: tokens of the block; a sequence is BOS, where the model has one, and the block twice.
        seed: of the tokens. tokens: (n,) which are drawn from; None for the whole vocabulary but the special ones.

    >>> head_scores(model).induction()[:2]  # doctest: +SKIP
    [(6, 1), (4, 0)]
    """
    n_sequences, length = whole("n_sequences", n_sequences, 1), whole("length", length, 2)
    tf = transformer_of(model)
    config: Any = tf.model.config
    named = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    special = {int(i) for ids in named if ids is not None for i in np.ravel(ids)}
    pool = np.setdiff1d(np.arange(tf.d_vocab) if tokens is None else np.asarray(tokens), sorted(special))
    if len(pool) < length:
        raise ValueError(
            f"length: got {length}, but there are {len(pool)} tokens to draw from, each once in a block"
        )
    rng = np.random.default_rng(seed)
    first = [] if config.bos_token_id is None else [int(config.bos_token_id)]
    b = len(first)
    again = torch.arange(b + length, b + 2 * length)
    heads = max(w.n_heads for w in tf.layers)
    found = np.zeros((2, tf.n_layers, heads))
    for _ in range(n_sequences):
        block = rng.choice(pool, length, replace=False).tolist()
        seen = tf.read([*first, *block, *block])
        for layer, w in enumerate(tf.layers):
            pattern = tf.pattern(layer, seen.q[layer], seen.k[layer])
            for row, keys in enumerate((again - length + 1, again - 1)):
                found[row, layer, : w.n_heads] += pattern[:, again, keys].mean(1).cpu().numpy() / n_sequences
                found[row, layer, w.n_heads :] = np.nan
    return HeadScores(found[0], found[1], float((1 / (again + 1)).mean()))


def _above(scores: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    order = np.argsort(-np.nan_to_num(scores, nan=-1), axis=None, kind="stable")
    places = [divmod(int(i), scores.shape[1]) for i in order]
    return [place for place in places if scores[place] >= least]
