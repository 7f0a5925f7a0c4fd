"""Input normalisation as one explicit object: applied, undone, and folded into the weights where that is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from sparse_sae._arguments import one_of
from sparse_sae._io.arrays import Array

Normalize: TypeAlias = Literal["scale", "none", "whiten", "token_norm", "layer_norm"]
# SAELens adds this to the standard deviation; files trained with it need the same number.
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Transform:
    """x -> x' before an SAE, and x̂' -> x̂ after it.

    | kind | x' | folds into the weights |
    |---|---|---|
    | none | x | yes |
    | scale | (x - mean) · s, s = √d_in / √E|x - mean|² by source; mean is 0 unless `center` | yes |
    | token_norm | x · √d_in / |x| | no: depends on the token |
    | layer_norm | (x - mean) / (std + 1e-5) over the row, std unbiased | no |
    | whiten | (x - mean) @ matrix, identity covariance | yes |

    Args:
        kind: as above.
        arrays: scale: `scale` (d_in,), and `mean` (d_in,) where centred; whiten: `mean` (d_in,), `matrix` and
            `inverse` (d_in, d_in).

    >>> t = Transform.fit("scale", np.array([[3.0, 4.0], [0.0, 5.0]], np.float32))
    >>> t.apply(np.array([[3.0, 4.0]], np.float32))[0].round(3)
    array([[0.849, 1.131]], dtype=float32)
    """

    kind: Normalize = "none"
    arrays: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("transform", self.kind, Normalize)

    @staticmethod
    def fit(
        kind: Normalize, sample: Array, sources: tuple[int, ...] = (), *, center: bool = False
    ) -> Transform:
        """Estimate a transform from (n, d_in) sample rows; center: a scale also subtracts the mean."""
        if kind == "scale":
            mean = sample.mean(axis=0, dtype=np.float64).astype(sample.dtype)
            sample = sample - mean if center else sample
            scale = np.empty(sample.shape[1], sample.dtype)
            start = 0
            for width in sources or (sample.shape[1],):
                part = sample[:, start : start + width].astype(np.float64)
                power = float((part**2).sum(axis=1).mean())
                scale[start : start + width] = np.sqrt(width / power) if power > 0 else 1.0
                start += width
            return Transform("scale", {"scale": scale, "mean": mean} if center else {"scale": scale})
        if kind == "whiten":
            rows = sample.astype(np.float64)
            mean = rows.mean(axis=0)
            values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
            # Directions without variance would be blown up to noise; they are floored at a millionth of the largest.
            roots = np.sqrt(np.maximum(values, 1e-6 * values.max()))
            matrix, inverse = (vectors / roots) @ vectors.T, (vectors * roots) @ vectors.T
            arrays = {"mean": mean, "matrix": matrix, "inverse": inverse}
            return Transform("whiten", {k: np.ascontiguousarray(v, sample.dtype) for k, v in arrays.items()})
        return Transform(kind)

    @property
    def is_identity(self) -> bool:
        """Whether it does nothing."""
        return self.kind == "none"

    @property
    def folds(self) -> bool:
        """Whether it is the same affine map for every row, so that weights can absorb it."""
        return self.kind in ("none", "scale", "whiten")

    def apply(self, x: Array) -> tuple[Array, Callable[[Array], Array]]:
        """x' (n, d_in), and the function that undoes it on reconstructions of these rows."""
        if self.kind == "none":
            return x, lambda y: y
        if self.kind == "scale":
            scale, mean = self.arrays["scale"], self.arrays.get("mean")
            if mean is None:
                return x * scale, lambda y: y / scale
            return (x - mean) * scale, lambda y: y / scale + mean
        if self.kind == "whiten":
            a = self.arrays
            return np.ascontiguousarray((x - a["mean"]) @ a["matrix"]), lambda y: y @ a["inverse"] + a["mean"]
        if self.kind == "token_norm":
            norm = np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(x.shape[1]).astype(x.dtype)
            norm = np.where(norm > 0, norm, 1).astype(x.dtype)
            return x / norm, lambda y: y * norm
        mean = x.mean(axis=1, keepdims=True)
        std = x.std(axis=1, keepdims=True, ddof=1)
        # Undone without the 1e-5, as the projects whose files have this do it.
        return (x - mean) / (std + x.dtype.type(LAYER_NORM_EPS)), lambda y: y * std + mean

    def fold(self, params: dict[str, Array], *, encoder: bool, decoder: bool, centered: bool) -> None:
        """Rewrite params, in place, so that they act on raw rows.

        Args:
            encoder, decoder: which side saw this transform.
            centered: the encoder subtracts b_dec; its bias is then kept valid for the new b_dec.
        """
        if not self.folds:
            raise ValueError(
                f"transform {self.kind!r}: depends on the token and cannot be folded into weights"
            )
        if self.is_identity:
            return
        dtype = params["W_enc"].dtype
        if self.kind == "scale":
            scale = self.arrays["scale"].astype(np.float64)
            forward = backward = None
            mean = self.arrays.get("mean")
        else:
            scale = np.ones(1)
            forward, backward = (self.arrays[name].astype(np.float64) for name in ("matrix", "inverse"))
            mean = self.arrays["mean"]
        if encoder:
            _fold_input(params, lambda w: (w if forward is None else w @ forward.T) * scale, mean, centered)
        if decoder:
            _fold_output(params, lambda w: (w if backward is None else w @ backward) / scale, mean)
        for name, value in params.items():
            params[name] = np.ascontiguousarray(value, dtype=dtype)

    def config(self) -> dict[str, Any]:
        """The kind; arrays are stored beside the weights."""
        return {"kind": self.kind}


def _fold_input(
    params: dict[str, Array], apply: Callable[[Array], Array], mean: Array | None, centered: bool
) -> None:
    """The encoder, and a skip, see (x - mean) times a matrix that apply multiplies weights by."""
    params["W_enc"] = apply(params["W_enc"].astype(np.float64))
    skip = apply(params["W_skip"].astype(np.float64)) if "W_skip" in params else None
    if mean is not None and not centered:
        # Without centring by b_dec, the mean moves into the biases.
        shift = params["W_enc"] @ mean
        params["b_enc"] = params["b_enc"] - shift
        if "r_mag" in params:  # Gated scales the same products a second time
            params["b_mag"] = params["b_mag"] - np.exp(params["r_mag"]) * shift
        if skip is not None:
            params["b_dec"] = params["b_dec"] - skip @ mean
    if skip is not None:
        params["W_skip"] = skip


def _fold_output(params: dict[str, Array], undo: Callable[[Array], Array], mean: Array | None) -> None:
    """What the decoder, b_dec and a skip give goes through undo, and the mean is added."""
    params["W_dec"] = undo(params["W_dec"].astype(np.float64))
    params["b_dec"] = undo(params["b_dec"].astype(np.float64)) + (0 if mean is None else mean)
    if "W_skip" in params:
        params["W_skip"] = undo(params["W_skip"].astype(np.float64).T).T
