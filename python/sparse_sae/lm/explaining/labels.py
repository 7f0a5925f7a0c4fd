"""What a latent stands for, in words that are read off: where it fires, and which tokens it promotes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparse_sae.lm.explaining.logit_lens import direct_logits
from sparse_sae.lm.model.hooks import unwrap
from sparse_sae.lm.model.prompts import Model, tokenizer_for
from sparse_sae.probing import Context, top_contexts

if TYPE_CHECKING:
    from sparse_sae.data.store import ActivationStore


@dataclass(frozen=True)
class LatentLabel:
    """Evidence about one latent, without anyone's interpretation.

    Attributes:
        latent: its index.
        name: what the caller knows it as, or "".
        fires_on: tokens on which it fires most, the commonest first.
        promotes: tokens that its decoder row adds most to the logits of, strongest first; empty where it does not
            write to the residual stream.
        contexts: where it fires most, as text, strongest first.
    """

    latent: int
    name: str
    fires_on: tuple[str, ...]
    promotes: tuple[str, ...]
    contexts: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"“{self.name}”"] if self.name else []
        for verb, tokens in (("fires on", self.fires_on), ("promotes", self.promotes)):
            if tokens:
                parts.append(f"{verb} {', '.join(f'‘{token}’' for token in tokens[:3])}")
        return f"latent {self.latent}" + (f" ({'; '.join(parts)})" if parts else "")


def label_latents(
    model: Model,
    sae: Any,
    latents: Sequence[int],
    *,
    store: ActivationStore | None = None,
    names: dict[int, str] | None = None,
    n_contexts: int = 10,
    tokenizer: Any = None,
) -> list[LatentLabel]:
    """Labels of latents from a store of activations (where they fire) and from the model (what they promote).

    Args:
        model: a `LanguageModel` or a transformers causal model.
        sae: the SAE whose latents are meant.
        latents: which, distinct.
        store: activations at the SAE's hook point; None: `fires_on` and `contexts` stay empty.
        names: latent -> a name known beforehand, such as a label that it detects.
        n_contexts: strongest tokens looked at.
        tokenizer: for a bare transformers model.

    >>> print(*label_latents(lm, sae, [1903], store=store))  # doctest: +SKIP
    latent 1903 (fires on ‘refund’, ‘refunds’; promotes ‘policy’, ‘eligible’, ‘available’)
    """
    words = tokenizer_for(model, [], tokenizer)
    listed = [int(latent) for latent in latents]
    found: dict[int, list[Context]] = {}
    if store is not None and words is not None and listed:
        found = top_contexts(sae, store, listed, n_contexts)
    promoted = _promoted(model, sae, listed, words)
    return [
        LatentLabel(
            latent,
            (names or {}).get(latent, ""),
            common([words.decode([c.tokens[c.at]]) for c in found.get(latent, [])]),
            promoted.get(latent, ()),
            tuple(context.text(words) for context in found.get(latent, [])),
        )
        for latent in listed
    ]


def common(tokens: Sequence[str]) -> tuple[str, ...]:
    """Distinct tokens without the spaces around them, the commonest first; ties in the order of appearance."""
    return tuple(token for token, _ in Counter(shown(token) for token in tokens).most_common())


def shown(token: str) -> str:
    """A token as it is printed: without spaces around it, or escaped where nothing else is left."""
    return token.strip() or repr(token)[1:-1]


def _promoted(model: Model, sae: Any, latents: list[int], words: Any) -> dict[int, tuple[str, ...]]:
    head: Any = unwrap(model).get_output_embeddings()
    if words is None or not latents or head is None or head.weight.shape[1] != sae.d_out:
        return {}
    found = {}
    for latent, logits in zip(latents, direct_logits(model, sae, latents), strict=True):
        order = [int(i) for i in (-logits).argsort(kind="stable")[:10] if logits[i] > 0]
        found[latent] = tuple(dict.fromkeys(shown(words.decode([i])) for i in order))[:5]
    return found
