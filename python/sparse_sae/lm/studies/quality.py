"""Quality of an SAE measured on the model it was trained on: what the model still says through it.

Loss recovered = (CE(ablated) - CE(SAE)) / (CE(ablated) - CE(model)), where the activation at the hook point
is replaced by the SAE's reconstruction, by zero, or by its mean. 1 means that the SAE costs nothing, 0 that
it is as bad as the ablation. Zero ablation is the usual yardstick and a lenient one; the mean is the
stricter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_sae._arguments import one_of
from sparse_sae.data.store import massive_threshold
from sparse_sae.lm.model.engine import Point
from sparse_sae.lm.model.hooks import read_hooks, unwrap
from sparse_sae.lm.model.loading import LanguageModel
from sparse_sae.lm.model.prompts import Model, Prompt, batches, token_ids, tokenizer_for
from sparse_sae.lm.steering.reconstruction import placed, reconstruction
from sparse_sae.lm.studies.reuse import layers_below, reuse_below
from sparse_sae.lm.studies.scores import TextScores, score_texts

Positions: TypeAlias = Literal["all", "kept"]


@dataclass(frozen=True)
class HookQuality:
    """One SAE at one hook point.

    Attributes:
        hook: the hook point.
        positions: "all": everything is replaced. "kept": the first position of each text and massive
            activations stay as the model made them, as they were left out of training.
        loss, loss_sae, loss_zero, loss_mean: cross-entropy in nats per predicted token: of the model, and
            with the activation replaced by the reconstruction, zero, or the mean.
        kl_sae, kl_zero, kl_mean: KL(model ‖ edited model), nats per predicted token.
        tokens: predicted tokens.
        read, first, massive: positions at the hook point, and how many of them are first positions and
            massive.
    """

    hook: str
    positions: Positions
    loss: float
    loss_sae: float
    loss_zero: float
    loss_mean: float
    kl_sae: float
    kl_zero: float
    kl_mean: float
    tokens: int
    read: int
    first: int
    massive: int

    @property
    def recovered_zero(self) -> float:
        """Loss recovered against zero ablation; nan where zero ablation does not hurt."""
        return loss_recovered(self.loss, self.loss_sae, self.loss_zero)

    @property
    def recovered_mean(self) -> float:
        """Loss recovered against mean ablation; nan where mean ablation does not hurt."""
        return loss_recovered(self.loss, self.loss_sae, self.loss_mean)


def loss_recovered(plain: float, sae: float, ablated: float) -> float:
    """(ablated - sae) / (ablated - plain); nan where the ablation does not hurt."""
    return (ablated - sae) / (ablated - plain) if ablated - plain > 1e-9 else float("nan")


@dataclass(frozen=True)
class ModelQuality:
    """Rows of `model_quality`, one for each SAE and choice of positions; prints as a table."""

    rows: list[HookQuality]

    def to_dict(self) -> list[dict[str, Any]]:
        """Rows as dicts, loss recovered included (None where it is not defined)."""
        out = []
        for row in self.rows:
            scores = {"recovered_zero": row.recovered_zero, "recovered_mean": row.recovered_mean}
            out.append({**asdict(row), **{k: None if np.isnan(v) else v for k, v in scores.items()}})
        return out

    def __str__(self) -> str:
        names = ("CE", "CE SAE", "CE zero", "CE mean", "rec. zero", "rec. mean", "KL SAE", "KL mean")
        lines = [f"{'hook point':<32} {'positions':<9}" + "".join(f"{name:>10}" for name in names)]
        for r in self.rows:
            losses = (r.loss, r.loss_sae, r.loss_zero, r.loss_mean, r.recovered_zero, r.recovered_mean)
            values = "".join(f"{value:>10.4f}" for value in (*losses, r.kl_sae, r.kl_mean))
            lines.append(f"{r.hook:<32} {r.positions:<9}{values}")
        for r in {r.hook: r for r in self.rows}.values():
            out = f"{r.first:,} first positions and {r.massive:,} massive activations of {r.read:,} read"
            lines.append(f"{r.hook}: {r.tokens:,} predicted tokens; the row 'kept' leaves {out} as they are")
        return "\n".join(lines)


def model_quality(
    model: Model,
    saes: Any | Sequence[Any] | Mapping[str, Any],
    texts: Sequence[Prompt],
    *,
    tokenizer: Any = None,
    positions: Sequence[Positions] = ("all", "kept"),
    batch_size: int = 4,
    max_tokens: int = 256,
) -> ModelQuality:
    """Cross-entropy and KL of the model on held-out texts with each SAE's reconstruction put in its place.

    Args:
        model: a `LanguageModel` or a transformers causal model.
        saes: an SAE, several, or hook point -> SAE; without a mapping each one's `metadata["hook_name"]` is
            used. Each is measured by itself.
        texts: held-out texts, each cut to `max_tokens`; the mean activation is taken over their kept
            positions.
        tokenizer: for a bare transformers model.
        positions: "all": everything is replaced; "kept": what training left out stays. Each costs three passes over
            the texts, beside one of the model as it is.
        batch_size: texts in one forward pass.

    Returns:
        A `ModelQuality` with a row for each SAE and choice of positions, in this order.

    Raises:
        ValueError: an SAE of another width, no texts long enough, or other positions.

    >>> print(model_quality(model, sae, held_out))  # doctest: +SKIP
    """
    for name in positions:
        one_of("positions", name, Positions)
    pairs = placed(model, saes)
    words = tokenizer_for(model, texts, tokenizer)
    sequences = [token_ids(text, words)[:max_tokens] for text in texts]
    rows = []
    for point, sae in pairs:
        usual = usual_activations(model, point, sequences, batch_size)
        if sae.d_in != len(usual.mean):
            raise ValueError(
                f"hook {point.name} is {len(usual.mean)} wide, the SAE {sae.d_in}: another hook point is meant"
            )
        edits = _replacements(point, sae, usual, positions)
        with reuse_below(model, point) if layers_below(model, point) else nullcontext():
            scores = score_texts(model, sequences, edits, batch_size=batch_size, max_tokens=max_tokens)
        rows += [_row(point.name, where, scores, usual) for where in positions]
    return ModelQuality(rows)


@dataclass(frozen=True)
class Usual:
    """What activations at a hook point are like: mean of the kept ones, norm above which one is massive, counts."""

    mean: NDArray[np.float32]
    limit: float
    read: int
    first: int
    massive: int


def usual_activations(model: Model, point: Point, sequences: list[list[int]], batch_size: int) -> Usual:
    """Measure what is usual at a hook point on these sequences."""
    return usual_of(model, [point], sequences, batch_size)[point.name]


def usual_of(
    model: Model, points: Sequence[Point], sequences: list[list[int]], batch_size: int
) -> dict[str, Usual]:
    """`usual_activations` of several hook points, by name, from the same passes."""
    blocks: dict[str, list[NDArray[np.float32]]] = {point.name: [] for point in points}
    first = []
    with torch.inference_mode():
        for batch in batches(sequences, batch_size):
            seen = read_hooks(model, list(blocks), batch.ids, batch.mask)
            valid = batch.mask.bool()
            for name, x in seen.items():
                blocks[name].append(x.float()[valid].numpy())
            first.append((torch.arange(valid.shape[1]) == 0).expand_as(valid)[valid].numpy())
    is_first = np.concatenate(first)
    return {name: _usual(np.concatenate(parts), is_first) for name, parts in blocks.items()}


def _usual(x: NDArray[np.float32], is_first: NDArray[np.bool_]) -> Usual:
    norms = np.linalg.norm(x, axis=1)
    limit = massive_threshold(norms[~is_first] if not is_first.all() else norms)
    kept = ~is_first & (norms <= limit)
    if not kept.any():
        raise ValueError(
            "texts: no position is left once the first of each text is excluded; give longer texts"
        )
    massive = int((~is_first & (norms > limit)).sum())
    return Usual(
        x[kept].mean(0, dtype=np.float64).astype(np.float32), limit, len(x), int(is_first.sum()), massive
    )


def _replacements(
    point: Point, sae: Any, usual: Usual, positions: Sequence[Positions]
) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    mean = torch.from_numpy(usual.mean)

    fills: dict[str, Callable[[Tensor], Tensor]] = {
        "sae": lambda x: reconstruction(sae, x),
        "zero": torch.zeros_like,
        "mean": lambda x: mean.expand_as(x),
    }

    def edit(fill: Callable[[Tensor], Tensor], keep: bool) -> Callable[[], AbstractContextManager[None]]:
        def replaced(x: Tensor) -> Tensor:
            wide = x.float()
            new = fill(wide)
            if keep:
                stays = wide.norm(dim=-1) > usual.limit
                stays[:, 0] = True  # texts are padded on the right
                new = torch.where(stays[..., None], wide, new)
            return new

        return lambda: point.attach(replaced)

    return {
        f"{name} {where}": edit(fill, where == "kept") for name, fill in fills.items() for where in positions
    }


def _row(hook: str, positions: Positions, scores: dict[str, TextScores], usual: Usual) -> HookQuality:
    sae, zero, mean = (scores[f"{name} {positions}"] for name in ("sae", "zero", "mean"))
    plain = scores["unedited"]
    return HookQuality(
        hook,
        positions,
        plain.loss,
        sae.loss,
        zero.loss,
        mean.loss,
        sae.kl,
        zero.kl,
        mean.kl,
        int(plain.tokens.sum()),
        usual.read,
        usual.first,
        usual.massive,
    )


def randomise(model: Model, seed: int = 0, *, embeddings: bool = True) -> Model:
    """A copy of a model with random weights: the control that says what an SAE finds where nothing was
    learned.

    Each weight matrix is drawn anew from a Gaussian of its own mean and standard deviation; norms and biases
    stay (Heap et al. 2025, arXiv 2501.17727, find many SAE scores much the same on such models). Capture,
    train and score the SAE on it with the same recipe.

    Args:
        embeddings: False leaves the token embeddings (and an unembedding tied to them) as they are.

    >>> control = randomise(model, seed=1)  # doctest: +SKIP
    """
    module = copy.deepcopy(unwrap(model))
    generator = torch.Generator().manual_seed(seed)
    kept = set() if embeddings else {id(p) for p in module.get_input_embeddings().parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2 and id(parameter) not in kept:
                wide = parameter.float()
                fresh = torch.randn(wide.shape, generator=generator) * wide.std() + wide.mean()
                parameter.copy_(fresh)
    if isinstance(model, LanguageModel):
        return replace(model, model=module, name=f"{model.name} with random weights")
    return module
