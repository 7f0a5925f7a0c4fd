"""How an SAE turns pre-activations into sparse codes. `architectures/` says how the weights for it are trained.

What an SAE stores is one of these: a file says nothing of losses, penalties or AuxK, and so an SAE does not either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from sparse_sae._arguments import conform, known_names, one_of, require
from sparse_sae._io.arrays import to_float
from sparse_sae.codes import Array, Codes, Params, stack
from sparse_sae.pursuit import inference
from sparse_sae.selection import above, top

_ROWS = 512


@dataclass(frozen=True)
class Activation(ABC):
    """Base of all activations: frozen dataclasses of what decides on codes, found by `name`."""

    name: ClassVar[str]
    competes: ClassVar[bool] = False  # whether codes of one latent depend on the pre-activations of others
    # Weights of its own, one entry a latent, without which it cannot encode.
    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        conform(self)

    def check(self, d_sae: int) -> None:
        """Raise a ValueError where the settings do not fit the dictionary."""

    def encode(
        self,
        params: Params,
        x: Array,
        center: Array | None,
        *,
        latents: Array | None = None,
        num_threads: int = 1,
    ) -> Codes:
        """Codes of rows x (N, d_in), of any float type, less center; with latents (L,), only those, by position."""
        return self._codes(params, x, center, latents, num_threads)

    @abstractmethod
    def _codes(
        self, params: Params, x: Array, center: Array | None, latents: Array | None, num_threads: int
    ) -> Codes:
        """The same with positional arguments."""

    def config(self) -> dict[str, Any]:
        """Settings as JSON values, `name` included."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class TopK(Activation):
    """The k largest positive pre-activations of a row.

    >>> TopK(k=8).config()
    {'name': 'topk', 'k': 8}
    """

    k: int = 32

    name: ClassVar[str] = "topk"
    competes: ClassVar[bool] = True
    absolute: ClassVar[bool] = False

    def check(self, d_sae: int) -> None:
        require(1 <= self.k <= d_sae, "k", self.k, f"1 to d_sae = {d_sae}")

    def _codes(
        self, params: Params, x: Array, center: Array | None, latents: Array | None, num_threads: int
    ) -> Codes:
        """The k largest pre-activations.

        Named latents are given by the positive part of their pre-activations, without the competition of the
        others: that would need all of them. Where a latent is among the k largest, the two agree.
        """
        if latents is not None and not self.absolute:
            return above(params, None, x, center, latents, num_threads)
        k = self.k if latents is None else len(latents)
        return top(params, x, k, center, latents, self.absolute, num_threads)[0]


@dataclass(frozen=True)
class AbsTopK(TopK):
    """The k pre-activations of largest magnitude, with their signs.

    >>> AbsTopK(k=8).config()
    {'name': 'abstopk', 'k': 8}
    """

    name: ClassVar[str] = "abstopk"
    absolute: ClassVar[bool] = True


@dataclass(frozen=True)
class ReLU(Activation):
    """Every positive pre-activation."""

    name: ClassVar[str] = "relu"

    def _codes(
        self, params: Params, x: Array, center: Array | None, latents: Array | None, num_threads: int
    ) -> Codes:
        return above(params, None, x, center, latents, num_threads)


@dataclass(frozen=True)
class JumpReLU(Activation):
    """Pre-activations above `threshold`, one for each latent."""

    name: ClassVar[str] = "jumprelu"
    needs: ClassVar[tuple[str, ...]] = ("threshold",)

    def _codes(
        self, params: Params, x: Array, center: Array | None, latents: Array | None, num_threads: int
    ) -> Codes:
        return above(params, params["threshold"], x, center, latents, num_threads)


@dataclass(frozen=True)
class Gate(Activation):
    """z = 1[π > 0] · ReLU(exp(r_mag) (π - b_enc) + b_mag) with the gate's pre-activation π."""

    name: ClassVar[str] = "gated"
    needs: ClassVar[tuple[str, ...]] = ("b_mag", "r_mag")

    def _codes(
        self, params: Params, x: Array, center: Array | None, latents: Array | None, num_threads: int
    ) -> Codes:
        """Magnitudes where the gate is open."""
        gate = above(params, None, x, center, latents, num_threads)
        index = gate.indices if latents is None else latents[gate.indices]
        size = magnitude(params, gate.values, index)
        return gate._replace(values=size).where(size > 0)


@dataclass(frozen=True)
class GroupMax(Activation):
    """Latents in k equal groups of neighbours; of each group the largest positive pre-activation is kept.

    EleutherAI's sparsify has it: such SAEs are read and used here, not trained.

    Args:
        k: groups, and so the most active latents of a row; it divides d_sae.

    >>> GroupMax(k=8).config()
    {'name': 'groupmax', 'k': 8}
    """

    k: int = 32

    name: ClassVar[str] = "groupmax"
    competes: ClassVar[bool] = True

    def check(self, d_sae: int) -> None:
        good = 1 <= self.k <= d_sae and d_sae % self.k == 0
        require(good, "k", self.k, f"a divisor of d_sae = {d_sae}: latents are in k equal groups")

    def _codes(
        self, params: Params, x: Array, center: Array | None, latents: Array | None, num_threads: int
    ) -> Codes:
        """The winners of the groups; ties go to the lower latent. Named latents: positive parts, unopposed."""
        if latents is not None:
            return above(params, None, x, center, latents, num_threads)
        size = len(params["W_enc"]) // self.k
        # By blocks, so that the positive pre-activations of all rows are never in memory at once.
        starts = range(0, max(len(x), 1), _ROWS)
        positive = (above(params, None, x[i : i + _ROWS], center, None, num_threads) for i in starts)
        return stack(*(_winners(codes, size, self.k) for codes in positive))


@dataclass(frozen=True)
class Pursuit(Activation):
    """z = argmin over z >= 0 of |x - W_dec z - b_dec|² with a penalty or a limit on active latents.

    W_enc and b_enc are not read; `sparse_sae.pursuit.encode` says what it costs.

    Args:
        method: "reweighted", "lasso", "omp" or "iht".
        penalty: for the first two, in units of x. k: for the last two, the most active latents of a row.
        n_steps: gradient steps of iht, None for its default.
    """

    method: inference.Method = "reweighted"
    penalty: float | None = None
    k: int | None = None
    n_steps: int | None = None

    name: ClassVar[str] = "pursuit"
    competes: ClassVar[bool] = True

    def check(self, d_sae: int) -> None:
        inference.check_method(self.method, self.penalty, self.k, self.n_steps, d_sae)

    def _codes(
        self, params: Params, x: Array, center: Array | None, latents: Array | None, num_threads: int
    ) -> Codes:
        """The codes that `sparse_sae.pursuit.encode` finds. Latents compete: naming some saves nothing."""
        w = params["W_dec"]
        codes = inference.encode(to_float(x), w, center, **asdict(self), num_threads=num_threads)
        if latents is not None:
            codes = codes[:, latents].sorted_indices()
        return Codes(
            codes.indptr.astype(np.int32), codes.indices.astype(np.int32), codes.data.astype(w.dtype)
        )

    def config(self) -> dict[str, Any]:
        """Name and settings, without those that the method does not take."""
        return {"name": self.name, **{key: value for key, value in asdict(self).items() if value is not None}}


ACTIVATIONS: dict[str, type[Activation]] = {
    kind.name: kind for kind in (TopK, AbsTopK, ReLU, JumpReLU, Gate, GroupMax, Pursuit)
}


def from_config(config: Mapping[str, Any]) -> Activation:
    """The activation that `Activation.config` describes.

    >>> from_config({"name": "topk", "k": 8})
    TopK(k=8)
    """
    values = dict(config)
    name = values.pop("name", None)
    one_of("activation", name, sorted(ACTIVATIONS))
    known_names(f"activation {name}", values, [field.name for field in fields(ACTIVATIONS[name])])
    return ACTIVATIONS[name](**values)


def magnitude(params: Params, gate: Array, index: Array) -> Array:
    """What a gated latent would be, of gate pre-activations (nnz,) of latents (nnz,)."""
    scaled: Array = np.exp(params["r_mag"])[index] * (gate - params["b_enc"][index])
    return scaled + params["b_mag"][index]


def _winners(codes: Codes, size: int, k: int) -> Codes:
    """The largest entry of each row and group."""
    group = codes.rows() * k + codes.indices // size
    order = np.lexsort((codes.indices, -codes.values, group))
    first = np.ones(len(order), bool)
    first[1:] = group[order[1:]] != group[order[:-1]]
    kept = np.zeros(len(order), bool)
    kept[order[first]] = True
    before = np.concatenate([[0], np.cumsum(kept)])
    return Codes(before[codes.indptr].astype(np.int32), codes.indices[kept], codes.values[kept])
