"""Which latents made the model say this?

`explain` ranks an SAE's latents by their causal effect on a number read from the logits. At the hook point
x = Σ a_j d_j + b_dec + error; every intervention changes codes a_j only and leaves the rest in place, so with
no change the model is the unedited one, bit for bit.

    gradient    a_j ⟨d_j, ∂m/∂x⟩, one backward pass for all latents and positions
    integrated  the same with the gradient averaged over codes scaled from 0 to a_j (Sundararajan et al. 2017;
                as in Marks et al., "Sparse Feature Circuits", 2024); summed over latents it tends to what all
                codes together change
    ablation    m(unedited) - m(a_j set to 0), one more row of a forward pass a latent; what the ranking is by
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae.lm.explaining.explanation import Effect, Explanation, Place
from sparse_sae.lm.explaining.passes import subject
from sparse_sae.lm.explaining.targets import Target
from sparse_sae.lm.model.engine import Point
from sparse_sae.lm.model.prompts import Model, Prompt


def explain(
    model: Model,
    sae: Any,
    prompt: Prompt,
    target: Target,
    *,
    method: Literal["gradient", "integrated"] = "gradient",
    steps: int = 10,
    top: int = 20,
    positions: Literal["all", "prompt"] | Sequence[int] = "all",
    hook: str | Point | None = None,
    tokenizer: Any = None,
    batch_size: int = 8,
) -> Explanation:
    """Latents of `sae` ranked by their causal effect on what the model says after `prompt`.

    All active latents get an estimate; the `top` ones by |estimate| are ablated, each for itself, and ranked
    by what that changes. A latent that a first-order estimate misses altogether is not ablated: raise `top`,
    or use `method="integrated"`, where that matters.

    Args:
        model: a `LanguageModel` or a transformers causal model; in float32 for gradients worth having.
        sae: an SAE on the activations of `hook`.
        prompt: text, token ids or chat messages.
        target: what to explain. A string: the log-probability that the prompt continues with it, summed over
            its tokens. A token id: its log-probability as the next token. A pair (a, b) of token ids or
            one-token
            strings: logit of a minus logit of b at the next token. A function: (positions, vocabulary) logits
                of
            the prompt -> a scalar tensor.
        method: how the estimate is made; see the table at the top of this module.
        steps: points of the integral (midpoints), for method="integrated".
        top: latents to ablate; 0 for estimates only.
        positions: positions at which latents count: "all", which includes those of a continuation's tokens
            (all but the last, which predicts nothing), or "prompt", both without the first position and
            massive activations, on which SAEs are not trained and whose codes mean nothing; or indices,
            negative ones from the end of the prompt.
        hook: hook point; by default `sae.metadata["hook_name"]`.
        tokenizer: for a bare transformers model.
        batch_size: rows of one forward pass, for ablations and integration.

    Raises:
        ValueError: a target of several tokens where one is needed, positions outside the sequence, a hook
            point of another width, a function target that does not return one finite number.

    >>> print(explain(model, sae, chat, "Refunds are not available"))  # doctest: +SKIP
    """
    if method not in ("gradient", "integrated"):
        raise ValueError(f"method: got {method!r}, expected 'gradient' or 'integrated'")
    for name, given, least in (("steps", steps, 1), ("batch_size", batch_size, 1), ("top", top, 0)):
        if given < least:
            raise ValueError(f"{name}: got {given}, expected at least {least}")
    read = subject(model, sae, prompt, target, positions=positions, hook=hook, tokenizer=tokenizer)
    x, at, codes, decoder, run, pieces = read.x, read.at, read.codes, read.decoder, read.passes, read.pieces
    value, gradients = run.gradient(np.zeros_like(x)[None], 1)
    gradient = gradients.mean(0)
    if method == "integrated":
        scale = np.asarray((np.arange(steps) + 0.5) / steps - 1, dtype=np.float32)
        _, gradients = run.gradient(-scale[:, None, None] * read.without(), batch_size)
        gradient = gradients.mean(0)
    estimates = _first_order(codes, decoder, gradient[at])
    totals = np.asarray(estimates.sum(0)).ravel()

    active = np.unique(codes.indices)
    order = active[np.argsort(-np.abs(totals[active]), kind="stable")]
    by_latent = codes.tocsc()
    ablations = run.ablations([read.without([latent]) for latent in order[:top]], batch_size)
    sparse_estimates = estimates.tocsc()
    effects = [
        Effect(
            int(latent),
            float(totals[latent]),
            float(ablations[rank]) if rank < len(ablations) else None,
            _places(int(latent), by_latent, sparse_estimates, at, pieces),
        )
        for rank, latent in enumerate(order)
    ]
    effects[: len(ablations)] = sorted(effects[: len(ablations)], key=lambda e: -abs(e.ablation or 0.0))
    return Explanation(
        value=float(value[0]),
        target=run.target,
        method=method,
        hook=run.hook,
        tokens=pieces,
        effects=effects,
        error_estimate=float(np.vdot(-read.without_error()[at], gradient[at])),
        bias_estimate=float((gradient[at] @ sae.b_dec).sum()),
        agreement=_correlation(totals[order[:top]], ablations),
    )


def _first_order(codes: csr_array, decoder: NDArray[np.float32], gradient: NDArray[np.float32]) -> csr_array:
    """a_j ⟨d_j, g⟩ for the active latents of each position."""
    estimates = codes.copy()
    for row in range(codes.shape[0]):
        active = slice(codes.indptr[row], codes.indptr[row + 1])
        estimates.data[active] *= decoder[codes.indices[active]] @ gradient[row]
    return estimates


def _places(latent: int, codes: Any, estimates: Any, at: NDArray[np.intp], pieces: list[str]) -> list[Place]:
    active = slice(codes.indptr[latent], codes.indptr[latent + 1])
    rows = zip(codes.indices[active], codes.data[active], estimates.data[active], strict=True)
    places = [Place(int(at[i]), pieces[at[i]], float(a), float(e)) for i, a, e in rows]
    return sorted(places, key=lambda place: -abs(place.estimate))


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    if len(b) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a[: len(b)], b)[0, 1])
