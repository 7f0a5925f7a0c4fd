"""Edits of a running model that read one hook point and write another, as transcoders do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sparse_sae._arguments import whole
from sparse_sae.circuits.dictionaries import DictionarySet
from sparse_sae.lm import resolve
from sparse_sae.lm.model.hook_point import HookPoint

Edit: TypeAlias = Callable[
    [Tensor, Tensor], "Tensor | None"
]  # what is read, what is written -> written instead


@contextmanager
def paired(reads: HookPoint, writes: HookPoint, edit: Edit) -> Iterator[None]:
    """Call `edit` with what a pass has at two hook points, the second after the first; the same one twice, if equal."""
    if reads.name == writes.name:
        with writes.attach(lambda x: edit(x, x)):
            yield
        return
    waiting: list[Tensor] = []

    def keep(x: Tensor) -> None:
        waiting[:] = [x]

    with ExitStack() as stack:
        stack.enter_context(reads.attach(keep))
        stack.enter_context(writes.attach(lambda x: edit(waiting.pop(), x)))
        yield


@contextmanager
def ablated(
    model: Any,
    dictionaries: DictionarySet,
    features: Sequence[tuple[int, int]],
    *,
    first: bool = False,
    any_name: bool = False,
) -> Iterator[None]:
    """Run the model without some features of its transcoders: what each would write is taken from the MLP's output.

    Activations are those of the running pass, so a feature whose input was removed below writes less, and less is
    removed. Everything else, errors included, stays.

    Args:
        model: a `LanguageModel` or a transformers model.
        dictionaries: the set.
        features: (layer, latent) of transcoders that write `blocks.layer.hook_mlp_out`.
        first: whether first positions are edited too; transcoders are not trained on them.
        any_name: accept a set made for a model of another name.

    Raises:
        ValueError: no features, a layer without transcoder, or a latent that it does not have.

    >>> with ablated(lm, made, [(12, 345)]):  # doctest: +SKIP
    ...     choice_logprobs(lm, [prompt], [" Yes", " No"])
    """
    if not features:
        raise ValueError("features: none, expected at least one (layer, latent)")
    dictionaries.check(model, any_name=any_name)
    by_hook: dict[str, list[int]] = {}
    for layer, latent in dict.fromkeys(features):
        hook = f"blocks.{layer}.hook_mlp_out"
        if hook not in dictionaries:
            raise ValueError(
                f"features: no transcoder writes {hook!r}, expected one of {', '.join(dictionaries)}"
            )
        whole("latent", latent, least=0, most=dictionaries[hook].sae.d_sae - 1)
        by_hook.setdefault(hook, []).append(latent)
    with ExitStack() as stack:
        for hook, latents in by_hook.items():
            d = dictionaries[hook]
            stack.enter_context(
                paired(resolve(model, d.reads), resolve(model, d.writes), _removing(d.sae, latents, first))
            )
        yield


def _removing(sae: Any, latents: list[int], first: bool) -> Edit:
    rows = np.asarray(sae.rows["W_dec"])[latents]

    def remove(read: Tensor, written: Tensor) -> Tensor:
        x = read.detach().float().cpu().numpy()
        codes = sae.encode(x.reshape(-1, x.shape[-1]))[:, latents]
        change = torch.from_numpy(np.asarray(codes @ rows, np.float32)).to(written.device).view(written.shape)
        if not first:
            change[:, 0] = 0
        return written - change.to(written.dtype)

    return remove
