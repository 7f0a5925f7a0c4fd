"""Values of watched latents and directions on rows of activations: only their own weights are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparse_sae import _kernels
from sparse_sae._io.arrays import Array, to_float
from sparse_sae.activations import Activation, JumpReLU, ReLU, TopK
from sparse_sae.audit.watchlist import Watch

_ZERO = np.zeros((), np.float32)
_EVERYTHING = np.float32(-3e38)  # below any pre-activation, so that the kernel keeps them all


class Plain(NamedTuple):
    """Latents whose code is their pre-activation wherever it is above `least` (L,) >= 0, or directions, whose value it
    always is: what the kernel is given."""

    rows: Array
    bias: Array
    least: Array | None
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
        direct: the same for `one`, directions too, which have no `least`.
    """

    def __init__(self, watches: Sequence[Watch], sae: Any = None, *, exact: bool = True) -> None:
        self.watches = list(watches)
        self.thresholds = np.array([watch.threshold for watch in watches], np.float32)
        self.plain: Plain | None = None
        self.direct: Plain | None
        if watches[0].kind == "direction":
            self._encode, self.direct = _directions(self.watches)
            self.d_in = self.direct.rows.shape[1]
        else:
            self._encode, self.plain = _latents(self.watches, sae, exact)
            self.direct, self.d_in = self.plain, int(sae.d_in)
        self._all, self._low = np.full(len(self.watches), _EVERYTHING), np.empty(len(self.watches), bool)

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

    def one(self, row: Array) -> Array | None:
        """(L,) values of one row (1, d_in) without a look for NaN, in half the time; None where that does not do.

        A NaN or an infinity in the row leaves no product with it finite, so the values tell of it: all of them are
        there, and the first is finite, only where the row is.
        """
        if self.direct is None:
            return None
        rows, bias, least, center = self.direct
        values: Array = _kernels.encode_threshold(row, rows, bias, self._all, center=center, num_threads=1)[2]
        if len(values) != len(self._all) or not values[0] < np.inf:
            return None
        if least is not None:
            np.copyto(values, _ZERO, where=np.less_equal(values, least, out=self._low))
        return values

    def active(self, row: Array) -> tuple[tuple[str, float], ...]:
        """(name, value) of the watches above 0 on a row (d_in,), largest first."""
        values = self(row[None])[0]
        order = np.argsort(-values, kind="stable")
        return tuple((self.watches[j].name, float(values[j])) for j in order if values[j] > 0)


def _directions(watches: list[Watch]) -> tuple[Callable[[Array], Any], Plain]:
    rows = np.array([watch.direction for watch in watches], np.float32)
    bias = np.array([watch.bias for watch in watches], np.float32)
    least = np.full(len(watches), _EVERYTHING)
    plain = Plain(rows, bias, None, None)
    return lambda x: _kernels.encode_threshold(x, rows, bias, least, num_threads=1), plain


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
