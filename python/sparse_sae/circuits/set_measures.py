"""What a model still says through a set of dictionaries: each alone, and all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparse_sae.circuits.dictionaries import DictionarySet
from sparse_sae.circuits.in_place import paired
from sparse_sae.lm import resolve, score_texts
from sparse_sae.lm.model.hook_point import HookPoint
from sparse_sae.lm.model.prompts import Model, Prompt, token_ids, tokenizer_for
from sparse_sae.lm.steering.reconstruction import reconstruction
from sparse_sae.lm.studies.quality import Usual, loss_recovered, usual_of
from sparse_sae.lm.studies.reuse import layers_below, reuse_below

Replace = Callable[[Tensor, Tensor], Tensor]  # what is read, what is written -> what is written instead
_FILLS = ("dictionary", "with_errors", "zero", "mean")


@dataclass(frozen=True)
class InPlace:
    """Something that stands in for what a model has at a hook point.

    Attributes:
        reads: hook point of its input. writes: what it stands in for; the same for an SAE.
        rebuild: (…, D) read and (…, D) written of a pass -> (…, D) written instead.
    """

    reads: str
    writes: str
    rebuild: Replace


@dataclass(frozen=True)
class Replacement:
    """Loss with some dictionaries in place of what they reconstruct.

    Attributes:
        hooks: the hook points written.
        loss: of the model, in nats per predicted token.
        loss_dictionary, kl_dictionary: with the reconstructions; each reads what the earlier ones let through.
        loss_with_errors: with what each left out in the plain pass added to it: the model itself up to rounding,
            which shows that the errors are the only thing missing.
        loss_zero, loss_mean: with zeros, or the mean, in their place.
        tokens: predicted tokens.
    """

    hooks: tuple[str, ...]
    loss: float
    loss_dictionary: float
    kl_dictionary: float
    loss_with_errors: float
    loss_zero: float
    loss_mean: float
    tokens: int

    @property
    def recovered_zero(self) -> float:
        """Loss recovered against zeros."""
        return loss_recovered(self.loss, self.loss_dictionary, self.loss_zero)

    @property
    def recovered_mean(self) -> float:
        """Loss recovered against the mean, the stricter yardstick."""
        return loss_recovered(self.loss, self.loss_dictionary, self.loss_mean)


@dataclass(frozen=True)
class SetQuality:
    """Rows of `set_quality`: one a dictionary, then all at once; prints as a table."""

    rows: list[Replacement]

    @property
    def joint(self) -> Replacement:
        """All at once."""
        return self.rows[-1]

    def to_dict(self) -> list[dict[str, Any]]:
        """Rows as dicts, loss recovered included (None where it is not defined)."""
        scores = [{"recovered_zero": r.recovered_zero, "recovered_mean": r.recovered_mean} for r in self.rows]
        return [
            {**asdict(row), **{name: None if np.isnan(v) else v for name, v in score.items()}}
            for row, score in zip(self.rows, scores, strict=True)
        ]

    def __str__(self) -> str:
        names = ("CE", "CE set", "+ errors", "CE zero", "CE mean", "rec. zero", "rec. mean", "KL")
        lines = [f"{'in place':<30}" + "".join(f"{name:>10}" for name in names)]
        for r in self.rows:
            what = r.hooks[0] if len(r.hooks) == 1 else f"all {len(r.hooks)} at once"
            values = (
                r.loss,
                r.loss_dictionary,
                r.loss_with_errors,
                r.loss_zero,
                r.loss_mean,
                r.recovered_zero,
                r.recovered_mean,
                r.kl_dictionary,
            )
            lines.append(f"{what:<30}" + "".join(f"{value:>10.4f}" for value in values))
        return "\n".join(lines)


def set_quality(
    model: Model,
    dictionaries: DictionarySet,
    texts: Sequence[Prompt],
    *,
    tokenizer: Any = None,
    batch_size: int = 4,
    max_tokens: int = 256,
    each: bool = True,
    any_name: bool = False,
) -> SetQuality:
    """Cross-entropy of the model on held-out texts with each dictionary in place, and with all of them.

    First positions and massive activations stay as the model made them, as in training.

    Args:
        model: a `LanguageModel` or a transformers causal model.
        dictionaries: the set.
        texts: held-out texts, each cut to `max_tokens`.
        tokenizer: for a bare transformers model.
        batch_size: texts in one forward pass.
        each: also measure every dictionary alone, which takes as many more passes as there are.
        any_name: accept a set made for a model of another name.

    >>> print(set_quality(lm, DictionarySet.load("set"), held_out))  # doctest: +SKIP
    """
    dictionaries.check(model, any_name=any_name)
    found = [InPlace(d.reads, d.writes, _through(d.sae)) for d in dictionaries.values()]
    return replacement_quality(
        model, found, texts, tokenizer=tokenizer, batch_size=batch_size, max_tokens=max_tokens, each=each
    )


def replacement_quality(
    model: Model,
    replacements: Sequence[InPlace],
    texts: Sequence[Prompt],
    *,
    tokenizer: Any = None,
    batch_size: int = 4,
    max_tokens: int = 256,
    each: bool = True,
) -> SetQuality:
    """`set_quality` of anything that stands in for hook points: other dictionaries, a linear map, two of them in a row.

    Args:
        model: a `LanguageModel` or a transformers causal model.
        replacements: what stands in, from the bottom of the model up.
        texts, tokenizer, batch_size, max_tokens, each: as in `set_quality`.

    >>> halved = InPlace("blocks.3.hook_mlp_out", "blocks.3.hook_mlp_out", lambda read, _: read / 2)
    >>> print(replacement_quality(lm, [halved], held_out))  # doctest: +SKIP
    """
    words = tokenizer_for(model, texts, tokenizer)
    sequences = [token_ids(text, words)[:max_tokens] for text in texts]
    writes = [resolve(model, r.writes) for r in replacements]
    usual = usual_of(model, writes, sequences, batch_size)
    places = [
        _Place(r.rebuild, resolve(model, r.reads), point, usual[point.name])
        for r, point in zip(replacements, writes, strict=True)
    ]
    clean = _Clean(places)
    groups = [[place] for place in places] if each else []
    if len(places) > 1 or not each:
        groups.append(places)
    edits = {
        f"{fill} {number}": _edit(group, fill, clean)
        for number, group in enumerate(groups)
        for fill in _FILLS
    }
    with _below_once(model, places), clean.recorded():
        scores = score_texts(model, sequences, edits, batch_size=batch_size, max_tokens=max_tokens)
    rows = []
    for number, group in enumerate(groups):
        loss = {fill: scores[f"{fill} {number}"].loss for fill in _FILLS}
        rows.append(
            Replacement(
                tuple(p.writes.name for p in group),
                scores["unedited"].loss,
                loss["dictionary"],
                scores[f"dictionary {number}"].kl,
                loss["with_errors"],
                loss["zero"],
                loss["mean"],
                int(scores["unedited"].tokens.sum()),
            )
        )
    return SetQuality(rows)


def _below_once(model: Model, places: Sequence[_Place]) -> AbstractContextManager[Any]:
    """Layers below all places are run once for each batch, where they can be."""
    layers = [point.layer for place in places for point in (place.reads, place.writes)]
    least = min((-1 if layer is None else layer for layer in layers), default=-1)
    try:
        point = resolve(model, f"blocks.{least}.hook_resid_pre") if least > 0 else None
    except ValueError:  # a model without such names
        point = None
    return reuse_below(model, point) if point and layers_below(model, point) else nullcontext()


def _through(sae: Any) -> Replace:
    return lambda read, _: reconstruction(sae, read)


@dataclass(frozen=True)
class _Place:
    """What stands in at its two hook points, and what is usual where it writes."""

    rebuild: Replace
    reads: HookPoint
    writes: HookPoint
    usual: Usual

    @contextmanager
    def attached(
        self, replace: Replace | None, look: Callable[[Tensor, Tensor], None] | None = None
    ) -> Iterator[None]:
        """Put `replace` in force, or only look at what is read and written."""

        def edit(read: Tensor, written: Tensor) -> Tensor | None:
            if look is not None:
                look(read, written)
            return None if replace is None else self._ordinary(written, replace(read, written))

        with paired(self.reads, self.writes, edit):
            yield

    def _ordinary(self, x: Tensor, new: Tensor) -> Tensor:
        stays = x.float().norm(dim=-1) > self.usual.limit
        stays[:, 0] = True  # texts are padded on the right
        return torch.where(stays[..., None], x, new.to(x.dtype))


class _Clean:
    """What each dictionary leaves out in the latest pass without an edit."""

    def __init__(self, places: Sequence[_Place]) -> None:
        self.places, self.editing = places, False
        self.errors: dict[str, Tensor] = {}

    @contextmanager
    def recorded(self) -> Iterator[None]:
        with ExitStack() as stack:
            for place in self.places:
                stack.enter_context(place.attached(None, self._look(place)))
            yield

    def _look(self, place: _Place) -> Callable[[Tensor, Tensor], None]:
        def look(read: Tensor, written: Tensor) -> None:
            if not self.editing:
                self.errors[place.writes.name] = written.float() - place.rebuild(read, written)

        return look


def _edit(group: Sequence[_Place], fill: str, clean: _Clean) -> Callable[[], AbstractContextManager[None]]:
    def replacement(place: _Place) -> Replace:
        mean = torch.from_numpy(place.usual.mean)
        ways: Mapping[str, Replace] = {
            "dictionary": place.rebuild,
            "with_errors": lambda read, written: (
                place.rebuild(read, written) + clean.errors[place.writes.name]
            ),
            "zero": lambda _, written: torch.zeros_like(written),
            "mean": lambda _, written: mean.expand_as(written),
        }
        return ways[fill]

    @contextmanager
    def edited() -> Iterator[None]:
        clean.editing = True
        try:
            with ExitStack() as stack:
                for place in group:
                    stack.enter_context(place.attached(replacement(place)))
                yield
        finally:
            clean.editing = False

    return edited
