"""Which hook point of which model an SAE belongs to, and whether this model and this place are the ones."""

from __future__ import annotations

import warnings
from typing import Any

from sparse_sae.data.provenance import canonical_hook, short_model
from sparse_sae.lm.model.engine import AnyModel, Point, engine_of


def hook_of(model: AnyModel, sae: Any, hook: str | Point | None = None, *, writes: bool = False) -> Point:
    """The hook point given, or the one the SAE was trained on; checked against model and SAE.

    Every function that puts an SAE and a model together comes through here.

    Args:
        model: a `LanguageModel`, a transformers model, or any `Engine`.
        sae: its `metadata` name the model (`model_name`) and the hook point (`hook_name`, and `hook_name_out` for
            what a transcoder writes), as `train` leaves them and SAELens' files have them.
        hook: a hook point, in place of the SAE's own.
        writes: whether decoder rows are added there (else the activation there is encoded).

    Raises:
        ValueError: no hook point is given or known, the model does not have it, or it is of another width.

    Warns:
        UserWarning: the SAE is of another model or another hook point by their names.

    >>> hook_of(model, sae).name  # doctest: +SKIP
    'blocks.15.hook_resid_post'
    """
    metadata = sae.metadata
    own = [metadata[key] for key in ("hook_name", "hook_name_out") if metadata.get(key)]
    if hook is None and not own:
        raise ValueError(
            "hook: the SAE's metadata name no hook point; give hook='blocks.15.hook_resid_post' or the like"
        )
    chosen = hook if hook is not None else own[-1 if writes else 0]
    engine = engine_of(model)
    point = engine.point(chosen) if isinstance(chosen, str) else chosen
    wide, found = int(sae.d_out if writes else sae.d_in), engine.width(point)
    if found not in (None, wide):
        raise ValueError(
            f"hook: {point.name} of this model is {found} wide, the SAE {wide}: another hook point or another "
            f"model is meant (the SAE is of {own[0] if own else 'no named hook point'} of "
            f"{metadata.get('model_name') or 'no named model'})"
        )
    if own and canonical_hook(point.name) not in [canonical_hook(name) for name in own]:
        warnings.warn(
            f"hook: {point.name!r} is used with an SAE of {own[0]!r}; its latents mean nothing elsewhere",
            UserWarning,
            stacklevel=3,
        )
    ours, theirs = engine.name, str(metadata.get("model_name") or "")
    if ours and theirs and short_model(ours) != short_model(theirs):
        warnings.warn(
            f"model: {ours!r} is used with an SAE of {theirs!r}; its latents mean nothing in another model",
            UserWarning,
            stacklevel=3,
        )
    return point


def require_own_space(sae: Any) -> None:
    """Refuse SAEs whose codes cannot be read off, and put back into, the activation at one hook point.

    Raises:
        NotImplementedError: a transcoder, a crosscoder, or an input normalisation that depends on the token.
    """
    if sae.kind != "sae":
        raise NotImplementedError(
            "a transcoder or crosscoder reads one place and writes another; steer it with mode='add'"
        )
    if not sae.transform.is_identity:
        raise NotImplementedError(
            "this SAE normalises each token by itself, so its codes are not in the units of the activation; "
            "fold the normalisation or use mode='add'"
        )
