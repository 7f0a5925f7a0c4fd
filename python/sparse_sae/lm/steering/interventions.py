"""Steering: change a few latents, or add a direction, while a model runs. The weights are not touched.

Every mode changes the activation x at the hook point by a combination of the latents' decoder rows d_j, and
by nothing else, so what the SAE does not reconstruct (its error) stays in the activation:

    mode        x becomes                              v leaves x as it is when   encodes
    add         x + v d_j                              v = 0                      nothing
    clamp       x + (v - a_j) d_j                      never                      latents
    scale       x + (v - 1) a_j d_j                    v = 1                      latents
    ablate      x - v a_j d_j                          v = 0                      latents
    orthogonal  x - v c_j d_j                          v = 0                      nothing

a_j is the latent's activation in the full encoding, where latents of a TopK SAE compete (`exact`), and c the
least-squares coordinates of x on the named decoder rows, so that `orthogonal` with v = 1 leaves nothing of their
span in x. Clamping with the error kept is the intervention of Templeton et al., "Scaling Monosemanticity" (2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sparse_sae._arguments import one_of
from sparse_sae.lm.model.engine import AnyModel, Point, engine_of
from sparse_sae.lm.model.pairing import hook_of, require_own_space
from sparse_sae.lm.steering.positions import Positions, Where

Mode: TypeAlias = Literal["add", "clamp", "scale", "ablate", "orthogonal"]

# the value with which a mode does nothing
_NEUTRAL = {"add": 0.0, "scale": 1.0, "ablate": 0.0, "orthogonal": 0.0}
_ENCODES = ("clamp", "scale", "ablate")


def steer(
    model: AnyModel,
    sae: Any,
    latents: Mapping[int, ArrayLike] | Sequence[int],
    mode: Mode = "add",
    *,
    positions: Positions = "all",
    hook: str | Point | None = None,
    prompt_length: int | None = None,
    exact: bool = True,
) -> Steering:
    """Steer latents of an SAE in every forward pass of `model` while the context is open.

    Works with plain forward passes and with `generate` (greedy, beam search, sampling). Several may be open
    at once, at one hook point (they act in the order opened) or at many.

    Args:
        model: a `LanguageModel`, a transformers model, or any `Engine`.
        sae: the SAE whose latents are meant.
        latents: latent -> value v of the table above, in units of the latent's activation (add, clamp) or as
            a factor (scale, ablate, orthogonal). A value may be an array with one entry per row of the batch;
            when `generate` makes several rows of one (beams, several samples), each gets its prompt's value.
            For ablate and orthogonal a plain sequence of latents means v = 1.
        mode: see the table.
        positions: "all"; "prompt" or "generated" tokens; token indices in the sequence, padding counted,
            negative ones from the end of the prompt; or a slice of indices.
        hook: hook point; by default the one the SAE was trained on (`sae.metadata["hook_name"]`).
        prompt_length: tokens in the prompt, padding included. Found by itself when `generate` runs with its
            cache; elsewhere needed for positions that refer to the prompt.
        exact: whether a latent's activation is the one it has in the full encoding, as `explain` measures it.
            Where latents compete (TopK, BatchTopK), that is 0 unless it wins, and all latents are encoded to
            know; elsewhere the named ones suffice and give the same bits. False: the named latents by
            themselves, ReLU(pre-activation), also where they lose the competition.

    Returns:
        A `Steering`, to be used in a `with` statement.

    Raises:
        ValueError: unknown mode or latent, a value that is not finite, a hook point that is missing or of
            another width; when running: rows of the batch that do not divide among the values given, or
            positions that cannot be known without `prompt_length`.

    >>> with steer(model, sae, {1903: 80.0}):  # doctest: +SKIP
    ...     model.model.generate(**inputs, num_beams=4, max_new_tokens=40)
    """
    one_of("mode", mode, Mode)
    if not isinstance(latents, Mapping) and mode not in ("ablate", "orthogonal"):
        raise ValueError(
            f"latents: got {type(latents).__name__}, expected a mapping latent -> value for mode={mode!r}"
        )
    encodes = mode in _ENCODES
    if encodes:
        require_own_space(sae)
    names = _checked_latents(list(latents), int(sae.d_sae))
    values: list[ArrayLike] = [1.0] * len(names)
    if isinstance(latents, Mapping):
        values = list(latents.values())
    rows = np.array(sae.rows["W_dec"][names], dtype=np.float32)
    return Steering(
        model,
        hook_of(model, sae, hook, writes=not encodes),
        rows,
        _values(values),
        mode,
        sae=sae,
        latents=names,
        positions=positions,
        prompt_length=prompt_length,
        exact=exact,
    )


def steer_direction(
    model: AnyModel,
    hook: str | Point,
    direction: ArrayLike,
    strength: ArrayLike,
    mode: Literal["add", "orthogonal"] = "add",
    *,
    positions: Positions = "all",
    prompt_length: int | None = None,
) -> Steering:
    """Steer along any direction, such as a difference of means or a random control; otherwise as `steer`.

    Args:
        direction: (d,) vector; x becomes x + strength · direction (add), or loses its component along it.

    >>> with steer_direction(model, "blocks.15.hook_resid_post", unit_vector, 50.0):  # doctest: +SKIP
    ...     model.model(**inputs)
    """
    if mode not in ("add", "orthogonal"):
        raise ValueError(f"mode: got {mode!r}, expected add or orthogonal for a direction without an encoder")
    vector = np.asarray(direction, dtype=np.float32)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise ValueError(f"direction: got shape {vector.shape}, expected a finite vector (d,)")
    point = engine_of(model).point(hook) if isinstance(hook, str) else hook
    return Steering(
        model,
        point,
        vector[None],
        _values([strength]),
        mode,
        positions=positions,
        prompt_length=prompt_length,
    )


class Steering:
    """An edit of a model's activations, in force between `__enter__` and `__exit__`; may be opened again.

    Attributes:
        edited: positions changed since it was last opened, over all rows, padding included.
    """

    edited: int = 0

    def __init__(
        self,
        model: AnyModel,
        point: Point,
        rows: NDArray[np.float32],
        values: NDArray[np.float32],
        mode: Mode,
        *,
        sae: Any = None,
        latents: list[int] | None = None,
        positions: Positions = "all",
        prompt_length: int | None = None,
        exact: bool = True,
    ) -> None:
        self.point, self.mode, self.exact = point, mode, exact
        self._where = Where(engine_of(model), positions, prompt_length)
        self._sae, self._latents = sae, latents
        self._rows, self._values = torch.from_numpy(rows), torch.from_numpy(values)
        # (L, d) rows of the pseudo-inverse: coordinates of x on the decoder rows
        self._dual = torch.linalg.pinv(self._rows).T if mode == "orthogonal" else None
        neutral = _NEUTRAL.get(mode)
        self._active = torch.ones(len(values), dtype=torch.bool)
        if neutral is not None:
            self._active = (self._values != neutral).any(1)
        self._open: ExitStack | None = None

    def __enter__(self) -> Steering:
        if self._open is not None:
            raise RuntimeError("this steering is already in force; make another one to apply it twice")
        self.edited = 0
        with ExitStack() as stack:
            stack.enter_context(self._where.follow())
            stack.enter_context(self.point.attach(self._edit))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        stack, self._open = self._open, None
        if stack is not None:
            stack.close()

    def _edit(self, x: Tensor) -> Tensor | None:
        batch, n_values = x.shape[0], len(self._values)
        if x.ndim != 3 or x.shape[2] != self._rows.shape[1]:
            raise ValueError(
                f"{self.point.name} holds activations {tuple(x.shape)}, the latents' decoder rows are "
                f"{self._rows.shape[1]} wide: another hook point is meant (hook=)"
            )
        if batch % n_values:
            raise ValueError(f"latents: values for {n_values} rows were given, the batch has {batch}")
        # generate() lays the beams or samples of one prompt side by side
        each = batch // n_values
        columns = self._where.columns(x.shape[1]).nonzero()[:, 0]
        rows = self._active.repeat_interleave(each).nonzero()[:, 0]
        if not len(rows) or not len(columns):
            return None
        self.edited += len(rows) * len(columns)
        part = x[rows[:, None], columns].float()
        change = self._coefficients(part, self._values.repeat_interleave(each, 0)[rows, None]) @ self._rows
        edited = x.clone()
        edited[rows[:, None], columns] = (part + change).to(x.dtype)
        return edited

    def _coefficients(self, x: Tensor, values: Tensor) -> Tensor:
        """How much of each decoder row to add: (rows, columns or 1, latents) for x (rows, columns, d)."""
        if self.mode == "add":
            return values
        if self._dual is not None:
            return -values * (x @ self._dual.T)
        active = self._activations(x)
        if self.mode == "clamp":
            return values - active
        return (values - 1) * active if self.mode == "scale" else -values * active

    def _activations(self, x: Tensor) -> Tensor:
        flat = x.detach().reshape(-1, x.shape[2]).numpy()
        codes = (
            self._sae.encode(flat)[:, self._latents]
            if self.exact and self._sae.activation.competes
            else self._sae.encode(flat, latents=self._latents)
        )
        return torch.from_numpy(codes.toarray()).reshape(*x.shape[:2], -1)


def _checked_latents(latents: list[int], d_sae: int) -> list[int]:
    if not latents:
        raise ValueError("latents is empty: name at least one")
    whole = [isinstance(j, int | np.integer) and not isinstance(j, bool) for j in latents]
    wrong = [j for j, fits in zip(latents, whole, strict=True) if not fits or not 0 <= j < d_sae]
    if wrong or len(set(latents)) < len(latents):
        raise ValueError(
            f"latents: got {wrong or latents}, expected distinct whole numbers from 0 to {d_sae - 1}"
        )
    return [int(j) for j in latents]


def _values(given: list[ArrayLike]) -> NDArray[np.float32]:
    """(rows, latents): one row, or one per row of the batch."""
    columns = [np.atleast_1d(np.asarray(value, dtype=np.float32)) for value in given]
    try:
        values = np.stack(np.broadcast_arrays(*columns), axis=1)
    except ValueError:
        sizes = [len(c) for c in columns]
        raise ValueError(
            f"latents: got values of lengths {sizes}, expected numbers or arrays of one entry per row"
        ) from None
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(
            "latents: got values that are not finite, expected finite numbers or arrays (rows,) of them"
        )
    return values
