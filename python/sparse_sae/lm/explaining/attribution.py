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

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from sparse_sae.data.store import massive_threshold
from sparse_sae.lm.explaining.explanation import Effect, Explanation, Place
from sparse_sae.lm.explaining.targets import Measure, Target, target_measure
from sparse_sae.lm.model.engine import Point
from sparse_sae.lm.model.hooks import unwrap
from sparse_sae.lm.model.pairing import hook_of, require_own_space
from sparse_sae.lm.model.prompts import Model, Prompt, logits_of, token_ids, tokenizer_for


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
    module = unwrap(model)
    require_own_space(sae)
    point = hook_of(model, sae, hook)
    if method not in ("gradient", "integrated"):
        raise ValueError(f"method must be 'gradient' or 'integrated', got {method!r}")
    if steps < 1 or top < 0 or batch_size < 1:
        raise ValueError(
            f"steps and batch_size must be at least 1 and top at least 0; got {steps}, {batch_size}, {top}"
        )
    words = tokenizer_for(model, [prompt, *([target] if isinstance(target, str) else [])], tokenizer)
    prompt_ids = token_ids(prompt, words)
    measure = target_measure(target, words)
    ids = prompt_ids + measure.appended
    run = _Run(module, point, torch.tensor([ids]), measure)

    x = run.activation()
    if x.shape[1] != sae.d_in:
        raise ValueError(
            f"hook {point.name} is {x.shape[1]} wide, the SAE {sae.d_in}: another hook point is meant"
        )
    at = _positions(positions, len(prompt_ids), x)
    codes: csr_array = sae.encode(x[at])
    decoder = sae.rows["W_dec"]
    parts = np.zeros_like(x)
    parts[at] = codes @ decoder
    value, gradients = run.gradient(np.zeros_like(x)[None], 1)
    gradient = gradients.mean(0)
    if method == "integrated":
        scale = np.asarray((np.arange(steps) + 0.5) / steps - 1, dtype=np.float32)
        _, gradients = run.gradient(scale[:, None, None] * parts, batch_size)
        gradient = gradients.mean(0)
    estimates = _first_order(codes, decoder, gradient[at])
    totals = np.asarray(estimates.sum(0)).ravel()

    active = np.unique(codes.indices)
    order = active[np.argsort(-np.abs(totals[active]), kind="stable")]
    by_latent = codes.tocsc()
    changes = []
    for latent in order[:top]:
        change = np.zeros_like(x)
        change[at] = -by_latent[:, [latent]].toarray() * decoder[latent]
        changes.append(change)
    ablations = run.ablations(changes, batch_size)
    pieces = [words.decode([i]) if words is not None else str(i) for i in ids]
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
    error = x[at] - parts[at] - sae.b_dec
    return Explanation(
        value=float(value[0]),
        target=measure.name,
        method=method,
        hook=point.name,
        tokens=pieces,
        effects=effects,
        error_estimate=float(np.vdot(error, gradient[at])),
        bias_estimate=float((gradient[at] @ sae.b_dec).sum()),
        agreement=_correlation(totals[order[:top]], ablations),
    )


def _positions(
    given: Literal["all", "prompt"] | Sequence[int], prompt: int, x: NDArray[np.float32]
) -> NDArray[np.intp]:
    """Positions whose latents count, ascending."""
    total = len(x)
    if isinstance(given, str):
        if given not in ("all", "prompt"):
            raise ValueError(f"positions must be 'all', 'prompt' or indices, got {given!r}")
        norms = np.linalg.norm(x, axis=1)
        ordinary = (np.arange(total) > 0) & (norms <= massive_threshold(norms[1:]))
        chosen = np.flatnonzero(ordinary[: total if given == "all" else prompt])
        if not len(chosen):
            raise ValueError(
                "prompt: nothing is left of it without its first position; name positions by index"
            )
        return chosen
    chosen = np.unique([int(i) + prompt if i < 0 else int(i) for i in given])
    if not len(chosen) or chosen[0] < 0 or chosen[-1] >= total:
        raise ValueError(f"positions must lie in 0 … {total - 1} or -{prompt} … -1, got {list(given)}")
    return chosen


class _Run:
    """Forward passes over one token sequence with the activation at one hook point changed."""

    def __init__(self, module: nn.Module, point: Point, ids: Tensor, measure: Measure) -> None:
        self._module, self._point, self._ids, self._measure = module, point, ids, measure

    def _values(self, rows: int, edit: Callable[[Tensor], Tensor | None]) -> list[Tensor]:
        with self._point.attach(edit):
            ids = self._ids.expand(rows, -1)
            logits = logits_of(self._module, ids, keep=self._measure.keep, use_cache=False).logits.float()
        values = [self._measure.read(row) for row in logits]
        for value in values:
            if not isinstance(value, Tensor) or value.numel() != 1 or not torch.isfinite(value).all():
                raise ValueError(f"target must give one finite number as a tensor, got {value!r}")
        return [value.reshape(()) for value in values]

    def activation(self) -> NDArray[np.float32]:
        """(positions, d) at the hook point, unedited."""
        seen: list[Tensor] = []
        with torch.inference_mode():
            self._values(1, seen.append)
        x: NDArray[np.float32] = seen[0][0].float().numpy()
        return x

    def gradient(
        self, changes: NDArray[np.float32], batch_size: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Target and its gradient at the hook point, with each of `changes` (rows, positions, d) added."""
        values, gradients = [], []
        for start in range(0, len(changes), batch_size):
            change = torch.from_numpy(changes[start : start + batch_size])
            leaves: list[Tensor] = []

            def edit(x: Tensor, change: Tensor = change, leaves: list[Tensor] = leaves) -> Tensor:
                leaves.append((x.detach() + change.to(x.dtype)).requires_grad_())
                return leaves[-1]

            with torch.enable_grad():
                out = torch.stack(self._values(len(change), edit))
                (grad,) = torch.autograd.grad(out.sum(), leaves)
            values.append(out.detach().double().numpy())
            gradients.append(grad.float().numpy())
        return np.concatenate(values), np.concatenate(gradients)

    def ablations(self, changes: list[NDArray[np.float32]], batch_size: int) -> NDArray[np.float64]:
        """Target without a change minus target with it, both rows of one pass so that rounding is shared."""
        drops = []
        for start in range(0, len(changes), batch_size):
            batch = changes[start : start + batch_size]
            change = torch.from_numpy(np.stack([np.zeros_like(batch[0]), *batch]))

            def edit(x: Tensor, change: Tensor = change) -> Tensor:
                return x + change.to(x.dtype)

            with torch.inference_mode():
                values = torch.stack(self._values(len(change), edit)).double()
            drops.append((values[0] - values[1:]).numpy())
        return np.concatenate(drops) if drops else np.empty(0)


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
