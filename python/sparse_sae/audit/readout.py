"""Values of watched latents and directions on rows of activations: only their own weights are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import _kernels
from .._io.arrays import Array, to_float
from ..activations import Activation, JumpReLU, ReLU, TopK
from .watchlist import Watch

_EVERYTHING = np.float32(-3e38)  # below any pre-activation, so that the kernel keeps them all


class Plain(NamedTuple):
    """Latents whose code is their pre-activation wherever it is above `least` (L,) >= 0: what the kernel is given."""

    rows: Array
    bias: Array
    least: Array
    center: Array | None


class Readout:
    """Values of one kind of watch: rows (n, d_in) -> (n, L) float32, with the bits that the full encoding gives.

    Pre-activations come from the kernels' canonical dot product, so a value does not depend on how many rows come at
    once, nor on what else is watched.

    Args:
        watches: all latents, or all directions.
        sae: the SAE of the latents; not used for directions.
        exact: see `WatchList`.

    Attributes:
        plain: the latents' weights where thresholded pre-activations are all there is to it, else None.
    """

    def __init__(self, watches: Sequence[Watch], sae: Any = None, *, exact: bool = True) -> None:
        self.watches = list(watches)
        self.thresholds = np.array([watch.threshold for watch in watches], np.float32)
        self.plain: Plain | None = None
        if watches[0].kind == "direction":
            self._encode, self.d_in = _directions(self.watches)
        else:
            self._encode, self.plain = _latents(self.watches, sae, exact)
            self.d_in = int(sae.d_in)

    def __len__(self) -> int:
        return len(self.watches)

    def __call__(self, rows: Array) -> Array:
        """(n, L) values of rows (n, d_in): float16, float32, float64, or bfloat16 bits in uint16; all finite."""
        indptr, indices, values = self._encode(rows)
        n, width = len(rows), len(self)
        if len(values) == n * width:
            return np.asarray(values).reshape(n, width)
        out = np.zeros((n, width), np.float32)
        if n == 1:
            out[0, indices] = values
        else:
            out[np.repeat(np.arange(n), np.diff(indptr)), indices] = values
        return out

    def active(self, row: Array) -> tuple[tuple[str, float], ...]:
        """(name, value) of the watches above 0 on a row (d_in,), largest first."""
        values = self(row[None])[0]
        order = np.argsort(-values, kind="stable")
        return tuple((self.watches[j].name, float(values[j])) for j in order if values[j] > 0)


def _directions(watches: list[Watch]) -> tuple[Callable[[Array], Any], int]:
    rows = np.array([watch.direction for watch in watches], np.float32)
    bias = np.array([watch.bias for watch in watches], np.float32)
    least = np.full(len(watches), _EVERYTHING)
    return lambda x: _kernels.encode_threshold(x, rows, bias, least, num_threads=1), rows.shape[1]


def _latents(watches: list[Watch], sae: Any, exact: bool) -> tuple[Callable[[Array], Any], Plain | None]:
    latents = np.array([watch.latent for watch in watches], np.int32)
    activation, transform = sae.activation, sae.transform
    center = sae.b_dec if sae.apply_b_dec_to_input else None
    if exact and activation.competes:
        if len(set(latents.tolist())) < len(latents):
            raise NotImplementedError("watches: one latent under two names, read exactly; give it one name")
        return lambda x: _chosen(activation.encode(sae.params, _seen(transform, x), center), latents), None
    own = {"W_enc", "W_dec", "b_enc", *activation.needs}
    params = {
        name: np.ascontiguousarray(value[latents]) if name in own else value
        for name, value in sae.params.items()
    }
    every = np.arange(len(latents), dtype=np.int32)  # named, so that latents do not compete with one another
    least = _least(activation, params)
    plain = None
    if least is not None and transform.is_identity:
        plain = Plain(params["W_enc"], params["b_enc"], least, center)
    return (
        lambda x: activation.encode(params, _seen(transform, x), center, latents=every, num_threads=1),
        plain,
    )


def _least(activation: Activation, params: dict[str, Array]) -> Array | None:
    """(L,) thresholds above which a latent's code is its pre-activation; None where there is more to it."""
    zero = np.zeros(len(params["W_enc"]), np.float32)
    if isinstance(activation, JumpReLU):
        return np.asarray(np.maximum(params["threshold"], zero))
    if isinstance(activation, ReLU) or (type(activation) is TopK):
        return zero
    return None


def _seen(transform: Any, x: Array) -> Array:
    return x if transform.is_identity else np.asarray(transform.apply(to_float(x))[0])


def _chosen(codes: Any, latents: Array) -> tuple[Array, Array, Array]:
    """The columns `latents` of full codes, as CSR over positions in the list."""
    order = np.argsort(latents, kind="stable")
    at = np.minimum(np.searchsorted(latents[order], codes.indices), len(latents) - 1)
    kept = latents[order][at] == codes.indices
    counts = np.concatenate([[0], np.cumsum(kept)])
    return counts[codes.indptr], order[at[kept]], codes.values[kept]
