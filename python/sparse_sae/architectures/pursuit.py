"""Pursuit: codes found by optimisation over the decoder alone, in place of an encoder's one look."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from .._io.arrays import to_float
from ..pursuit import inference
from .base import Architecture, Array, Batch, Codes, Gradients, Params, reconstruction


@dataclass(frozen=True)
class Pursuit(Architecture):
    """z = argmin over z >= 0 of |x - W_dec z - b_dec|² with a penalty or a limit on active latents; x̂ =
    W_dec z + b_dec.

    W_enc and b_enc are not read. Encoding costs tens of encoder passes (`sparse_sae.pursuit.encode` says how
    many), and finds the active features of overlapping directions that a linear encoder confuses.
    `sparse_sae.pursuit.learn` trains dictionaries for it; `sparse_sae.train` moves W_dec alone, with the
    codes of each batch held fixed.

    Args:
        method: "reweighted", "lasso", "omp" or "iht".
        penalty: for the first two, in units of x (in `train`, of x as it is scaled there). k: for the last
            two, the most active latents of a row.
        n_steps: gradient steps, None for the method's default.

    >>> Pursuit(method="omp", k=3).config()
    {'name': 'pursuit', 'method': 'omp', 'k': 3}
    """

    method: str = "reweighted"
    penalty: float | None = None
    k: int | None = None
    n_steps: int | None = None

    name: ClassVar[str] = "pursuit"
    competes: ClassVar[bool] = True

    def check(self, d_sae: int) -> None:
        inference.check_method(self.method, self.penalty, self.k, self.n_steps, d_sae)

    def encode(
        self,
        params: Params,
        x: Array,
        center: Array | None,
        *,
        latents: Array | None = None,
        num_threads: int = 1,
    ) -> Codes:
        """See `sparse_sae.pursuit.encode`. Latents compete, so naming some saves nothing: all are computed.

        num_threads is for omp; the other methods run on NumPy's matrix products, which choose their own.
        """
        penalty = float(params["penalty"][0]) if "penalty" in params else self.penalty
        how: dict[str, Any] = {
            "method": self.method,
            "penalty": penalty,
            "k": self.k,
            "n_steps": self.n_steps,
        }
        codes = inference.encode(to_float(x), params["W_dec"], center, **how, num_threads=num_threads)
        if latents is not None:
            codes = codes[:, latents].sorted_indices()
        return Codes(
            codes.indptr.astype(np.int32),
            codes.indices.astype(np.int32),
            codes.data.astype(params["W_dec"].dtype),
        )

    def step(self, params: Params, batch: Batch) -> Gradients:
        """Reconstruction loss with the codes held fixed: the gradient reaches W_dec and b_dec only."""
        codes = self.encode(params, batch.x, None)
        out, dz, squared, loss = reconstruction(codes, params, batch.y, batch.variance, batch.num_threads)
        return Gradients(
            loss=loss,
            parts={"reconstruction": loss},
            codes=codes,
            squared=squared,
            indptr=codes.indptr,
            indices=codes.indices,
            z=codes.values,
            dz=np.zeros_like(dz),
            out=out,
            output=out,
            d_pre=np.zeros_like(params["b_enc"]),
        )

    def config(self) -> dict[str, Any]:
        # Settings that the method does not take are left out.
        return {"name": self.name, **{key: value for key, value in asdict(self).items() if value is not None}}

    def init(self, params: Params, x: Array) -> None:
        """The penalty is kept among the parameters while data is scaled, and becomes a setting again in
        `trained`."""
        if self.penalty is not None:
            params["penalty"] = np.full(1, self.penalty, dtype=params["W_dec"].dtype)

    def rescale(self, params: Params, factor: Array | float) -> None:
        # Decoder rows are at unit norm, so codes and x scale together, by one factor.
        if "penalty" in params:
            params["penalty"] *= np.mean(factor, dtype=params["penalty"].dtype)

    def trained(self, params: Params) -> tuple[Architecture, Params]:
        params = dict(params)
        penalty = params.pop("penalty", None)
        return (self if penalty is None else replace(self, penalty=float(penalty[0]))), params
