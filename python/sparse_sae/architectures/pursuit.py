"""Pursuit: codes found by optimisation over the decoder alone, in place of an encoder's one look."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import numpy as np

from sparse_sae import activations
from sparse_sae.architectures.base import Architecture, Batch, Gradients, reconstruction
from sparse_sae.codes import Array, Codes, Params
from sparse_sae.pursuit import inference


@dataclass(frozen=True)
class Pursuit(Architecture):
    """z = argmin over z >= 0 of |x - W_dec z - b_dec|² with a penalty or a limit on active latents; x̂ =
    W_dec z + b_dec.

    W_enc and b_enc are not read. Encoding costs a few encoder passes, more with few rows at a time
    (`sparse_sae.pursuit.encode` says how many), and finds the active features of
    overlapping directions that a linear encoder confuses.
    `sparse_sae.pursuit.learn` trains dictionaries for it; `sparse_sae.train` moves W_dec alone, with the
    codes of each batch held fixed.

    Args:
        method: "reweighted", "lasso", "omp" or "iht".
        penalty: for the first two, in units of x (in `train`, of x as it is scaled there). k: for the last
            two, the most active latents of a row.
        n_steps: gradient steps of iht, None for its default.

    >>> Pursuit(method="omp", k=3).activation.config()
    {'name': 'pursuit', 'method': 'omp', 'k': 3}
    """

    method: inference.Method = "reweighted"
    penalty: float | None = None
    k: int | None = None
    n_steps: int | None = None

    name: ClassVar[str] = "pursuit"
    competes: ClassVar[bool] = True

    def check(self, d_sae: int) -> None:
        self.activation.check(d_sae)

    @property
    def activation(self) -> activations.Activation:
        return activations.Pursuit(**asdict(self))

    def encode(self, params: Params, x: Array, center: Array | None = None, *, num_threads: int = 1) -> Codes:
        """With the penalty in the units of the scaled data."""
        how = replace(self, penalty=float(params["penalty"][0])) if "penalty" in params else self
        return how.activation.encode(params, x, center, num_threads=num_threads)

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

    def init(self, params: Params, x: Array) -> None:
        """The penalty is kept among the parameters while data is scaled, and becomes a setting again in
        `trained`."""
        if self.penalty is not None:
            params["penalty"] = np.full(1, self.penalty, dtype=params["W_dec"].dtype)

    def rescale(self, params: Params, factor: Array | float) -> None:
        # Decoder rows are at unit norm, so codes and x scale together, by one factor.
        if "penalty" in params:
            params["penalty"] *= np.mean(factor, dtype=params["penalty"].dtype)

    def trained(self, params: Params) -> tuple[activations.Activation, Params]:
        params = dict(params)
        penalty = params.pop("penalty", None)
        used = self if penalty is None else replace(self, penalty=float(penalty[0]))
        return used.activation, params
