"""A prompt, a target and an SAE, read once; and the passes of the model with the activation there changed.

At the hook point x = Σ a_j d_j + b_dec + error. A change is a (positions, d) array added to x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from sparse_sae.data.store import massive_threshold
from sparse_sae.lm.explaining.targets import Measure, Target, target_measure
from sparse_sae.lm.model.engine import Point
from sparse_sae.lm.model.hooks import unwrap
from sparse_sae.lm.model.pairing import hook_of, require_own_space
from sparse_sae.lm.model.prompts import Model, Prompt, logits_of, token_ids, tokenizer_for


@dataclass(frozen=True)
class Subject:
    """What every explanation starts from.

    Attributes:
        x: (positions, d) the activation at the hook point, unedited.
        at: (n,) the positions at which latents count, ascending.
        codes: (n, d_sae) codes at these positions.
        decoder: (d_sae, d) decoder rows. bias: (d,) b_dec.
        pieces: the tokens as text, prompt and continuation.
        passes: runs the model with the activation changed.
    """

    x: NDArray[np.float32]
    at: NDArray[np.intp]
    codes: csr_array
    decoder: NDArray[np.float32]
    bias: NDArray[np.float32]
    pieces: list[str]
    passes: Passes

    def without(self, latents: Sequence[int] | None = None) -> NDArray[np.float32]:
        """The change that ablates these latents, None: all."""
        change = np.zeros_like(self.x)
        if latents is None:
            change[self.at] = -(self.codes @ self.decoder)
        else:
            named = list(latents)
            change[self.at] = -(self.codes.tocsc()[:, named].toarray() @ self.decoder[named])
        return change

    def without_error(self) -> NDArray[np.float32]:
        """The change that leaves of the activation what the SAE reconstructs."""
        change = np.zeros_like(self.x)
        change[self.at] = self.codes @ self.decoder + self.bias - self.x[self.at]
        return change


def subject(
    model: Model,
    sae: Any,
    prompt: Prompt,
    target: Target,
    *,
    positions: Literal["all", "prompt"] | Sequence[int] = "all",
    hook: str | Point | None = None,
    tokenizer: Any = None,
) -> Subject:
    """Read the prompt once. Arguments and errors are those of `explain`."""
    module = unwrap(model)
    require_own_space(sae)
    point = hook_of(model, sae, hook)
    words = tokenizer_for(model, [prompt, *([target] if isinstance(target, str) else [])], tokenizer)
    prompt_ids = token_ids(prompt, words)
    measure = target_measure(target, words)
    ids = prompt_ids + measure.appended
    passes = Passes(module, point, torch.tensor([ids]), measure)
    x = passes.activation()
    if x.shape[1] != sae.d_in:
        raise ValueError(
            f"hook: {point.name} is {x.shape[1]} wide, the SAE {sae.d_in}: another hook point is meant"
        )
    at = chosen_positions(positions, len(prompt_ids), x)
    pieces = [words.decode([i]) if words is not None else str(i) for i in ids]
    return Subject(x, at, sae.encode(x[at]), sae.rows["W_dec"], sae.b_dec, pieces, passes)


def chosen_positions(
    given: Literal["all", "prompt"] | Sequence[int], prompt: int, x: NDArray[np.float32]
) -> NDArray[np.intp]:
    """Positions whose latents count, ascending."""
    total = len(x)
    if isinstance(given, str):
        if given not in ("all", "prompt"):
            raise ValueError(f"positions: got {given!r}, expected 'all', 'prompt' or indices")
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
        raise ValueError(
            f"positions: got {list(given)}, expected indices in 0 … {total - 1} or -{prompt} … -1"
        )
    return chosen


class Passes:
    """Forward passes over one token sequence with the activation at one hook point changed."""

    def __init__(self, module: nn.Module, point: Point, ids: Tensor, measure: Measure) -> None:
        self._module, self._point, self._ids, self._measure = module, point, ids, measure
        self.hook, self.target = point.name, measure.name

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
