"""An SAE's reconstruction in the place of the activation it was made from, while a model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from sparse_sae.lm.model.engine import AnyModel, Point
from sparse_sae.lm.model.pairing import hook_of


@contextmanager
def reconstruct(
    model: AnyModel, saes: Any | Sequence[Any] | Mapping[str, Any], *, first: bool = True
) -> Iterator[None]:
    """Run the model through SAEs: each forward pass goes on with x̂ = sae.reconstruct(x) in place of x.

    SAELens' `HookedSAETransformer` calls this `run_with_saes`. Several SAEs are all in force, so that a later one
    reads what the earlier ones let through. Works with plain passes and with `generate`, beside `steer` at other
    hook points, and in the thread that opened it. To measure what it costs the model, see `model_quality`.

    Args:
        model: a `LanguageModel`, a transformers model, or any `Engine`.
        saes: an SAE, several, or hook point -> SAE; without a mapping each one's `metadata["hook_name"]` is used.
        first: whether first positions of the passes are replaced too. SAEs are not trained on them here, and what
            comes of replacing them is usually bad; with False they stay (texts padded on the right, no cache).

    Raises:
        ValueError: no SAE, a hook point that is missing or of another width, an SAE that does not reconstruct what it
            reads (a transcoder).
        RuntimeError: when running: the pass records gradients, which would silently end at the reconstruction.

    >>> with reconstruct(model, sae), torch.inference_mode():  # doctest: +SKIP
    ...     logits = model.model(**inputs).logits
    """
    pairs = placed(model, saes)
    with ExitStack() as stack:
        for point, sae in pairs:
            stack.enter_context(point.attach(_replacing(point, sae, first)))
        yield


def placed(model: AnyModel, saes: Any | Sequence[Any] | Mapping[str, Any]) -> list[tuple[Point, Any]]:
    """Each SAE with its hook point, checked to reconstruct what is there."""
    if isinstance(saes, Mapping):
        pairs = [(hook_of(model, sae, hook), sae) for hook, sae in saes.items()]
    else:
        listed = list(saes) if isinstance(saes, Sequence) else [saes]
        pairs = [(hook_of(model, sae, None), sae) for sae in listed]
    if not pairs:
        raise ValueError("saes is empty: give at least one SAE")
    for point, sae in pairs:
        if sae.d_out != sae.d_in or sae.metadata.get("hook_name_out") not in (
            None,
            sae.metadata.get("hook_name"),
        ):
            raise ValueError(
                f"saes: the one at {point.name} goes from {sae.d_in} to {sae.d_out} (a transcoder, or a crosscoder); "
                "expected an SAE that reconstructs this hook point"
            )
    return pairs


def reconstruction(sae: Any, x: Tensor) -> Tensor:
    """(…, d) float32: sae.reconstruct of a tensor (…, d)."""
    if torch.is_grad_enabled() and x.requires_grad:
        raise RuntimeError(
            "the SAE's reconstruction carries no gradient back to the activation: run the model in "
            "torch.inference_mode() or torch.no_grad()"
        )
    rows = x.detach().float().cpu().numpy()
    return torch.from_numpy(sae.reconstruct(rows.reshape(-1, rows.shape[-1])).reshape(rows.shape)).to(
        x.device
    )


def _replacing(point: Point, sae: Any, first: bool) -> Any:
    def replace(x: Tensor) -> Tensor:
        if x.shape[-1] != sae.d_in:
            raise ValueError(f"{point.name} holds activations {tuple(x.shape)}, the SAE is {sae.d_in} wide")
        new = reconstruction(sae, x).to(x.dtype)
        if not first:
            new[:, 0] = x[:, 0]
        return new

    return replace
