"""What an architecture is: how pre-activations become sparse codes, and the loss that trains them.

An architecture knows parameters by name, batches and kernels. It holds no optimiser, no logging and no data
code, and it does not know what is read and written (coders.py): inputs arrive centred and scaled, targets
arrive as what the decoder rows should add up to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _kernels

Array: TypeAlias = npt.NDArray[Any]
Params: TypeAlias = dict[str, Array]


class Codes(NamedTuple):
    """Codes as the kernels pass them: CSR, without the class around it."""

    indptr: Array
    indices: Array
    values: Array

    def rows(self) -> Array:
        """(nnz,) the row of each entry."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


@dataclass(frozen=True)
class Batch:
    """One training batch, seen by an architecture.

    Attributes:
        x: (N, d_in) inputs, centred and scaled.
        y: (N, d_out) what codes @ W_dec should equal; for an SAE it is x itself.
        variance: mean squared norm of the targets over the data, so that losses are relative to it.
        dead: (d_sae,) bool, latents that have not fired for the trainer's window.
        progress: tokens seen over tokens to see, in [0, 1).
        dec_norms: (d_sae,) norms by which sparsity penalties weigh each latent; ones when rows are unit.
        num_threads: for the kernels.
    """

    x: Array
    y: Array
    variance: float
    dead: Array
    progress: float = 0.0
    num_threads: int = 1


@dataclass
class Gradients:
    """The gradient of a loss in the form `_kernels.update_rows` applies without ever storing it.

    The pattern (indptr, indices) may stack several blocks of N rows: main codes, auxiliary codes, ….
    Entry e of stacked row n adds z[e] * out[n] to dW_dec and dz[e] * x[n % N] to dW_enc.

    Attributes:
        loss: the value; parts: its named terms.
        codes: the codes of the batch, for statistics.
        squared: (N,) squared error of each row.
        indptr, indices: the stacked pattern, R rows.
        z, dz: (nnz,) as above.
        out: (R, d_out) gradient of the stacked outputs.
        b_dec: (d_out,) gradient of the output bias, without the part through the centring.
        d_pre: (d_sae,) gradient of b_enc: the sum of dz by latent, plus what is not in the pattern.
        vectors: gradients of further parameters, by name.
        along_dec: (d_sae,) adds along_dec[j] * W_dec[j] to dW_dec.
        outer_enc: (d_sae,) adds outer_enc[j] * sum of all rows of x to dW_enc.
    """

    loss: float
    parts: dict[str, float]
    codes: Codes
    squared: Array
    indptr: Array
    indices: Array
    z: Array
    dz: Array
    out: Array
    b_dec: Array
    d_pre: Array
    vectors: Params = field(default_factory=dict)
    along_dec: Array | None = None
    outer_enc: Array | None = None


@dataclass(frozen=True)
class Architecture(ABC):
    """Base of all architectures: frozen dataclasses of hyperparameters, found by `name` in the registry."""

    name: ClassVar[str]
    unit_norm: ClassVar[bool] = True  # decoder rows are kept at unit norm during training

    def check(self, d_sae: int) -> None:
        """Raise a ValueError where the hyperparameters do not fit the dictionary."""

    def init(self, params: Params, x: Array) -> None:
        """Add this architecture's own parameters to W_enc, W_dec, b_enc, b_dec; x is a sample of inputs."""

    @abstractmethod
    def encode(
        self,
        params: Params,
        x: Array,
        center: Array | None,
        *,
        latents: Array | None = None,
        num_threads: int = 1,
    ) -> Codes:
        """Codes of rows x (N, d_in), of any float type; with latents (L,), only those, by position."""

    @abstractmethod
    def step(self, params: Params, batch: Batch) -> Gradients:
        """Loss and gradients on one batch."""

    def end_of_step(self, params: Params, gradients: Gradients, batch: Batch) -> None:
        """Update running statistics kept among the parameters (such as a BatchTopK threshold)."""

    def trained(self, params: Params) -> tuple[Architecture, Params]:
        """The architecture and parameters to use after training."""
        return self, params

    def rescale(self, params: Params, factor: float) -> None:
        """Codes are about to be multiplied by factor (b_enc already was): adapt own parameters in place."""

    def config(self) -> dict[str, Any]:
        """Hyperparameters as JSON values, `name` included."""
        return {"name": self.name, **asdict(self)}


def stack(*blocks: Codes) -> Codes:
    """Blocks of codes below one another."""
    indptr = [blocks[0].indptr]
    for block in blocks[1:]:
        indptr.append(block.indptr[1:] + indptr[-1][-1])
    return Codes(
        np.concatenate(indptr),
        np.concatenate([b.indices for b in blocks]),
        np.concatenate([b.values for b in blocks]),
    )


def reconstruction(codes: Codes, params: Params, batch: Batch) -> tuple[Array, Array, Array, float]:
    """Output gradient, code gradient and squared errors of mean |x̂ - y|² / variance, and its value."""
    residual, projected, squared = _kernels.decode_residual(
        *codes, params["W_dec"], batch.y, num_threads=batch.num_threads
    )
    scale = residual.dtype.type(2 / (len(residual) * batch.variance))
    loss = float(squared.sum(dtype=np.float64)) / (len(residual) * batch.variance)
    residual *= scale
    projected *= scale
    return residual, projected, squared, loss
