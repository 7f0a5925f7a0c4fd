"""What an architecture is: the loss by which weights for an activation are trained, and what belongs to it.

An architecture knows parameters by name, batches and kernels. It holds no optimiser, no logging and no data
code, and it does not know what is read and written (coders.py): inputs arrive centred and scaled, targets
arrive as what the decoder rows should add up to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from sparse_sae import _kernels
from sparse_sae._arguments import conform
from sparse_sae.activations import Activation
from sparse_sae.architectures.products import residual_products
from sparse_sae.codes import Array, Codes, Params, joined, stack


@dataclass(frozen=True)
class Batch:
    """One training batch, seen by an architecture.

    Attributes:
        x: (N, d_in) inputs, centred and scaled.
        y: (N, d_out) what codes @ W_dec should equal; for an SAE it is x itself.
        variance: mean squared norm of the targets over the data, by which losses are divided (`Run.power`).
        dead: (d_sae,) bool, latents that have not fired for the trainer's window.
        progress: tokens seen over tokens to see, in [0, 1).
        num_threads: for the kernels.
        sources: widths of a crosscoder's parts of y; () where y is one.
        counts: what a step counts on the way, for the history; the step adds to it.
    """

    x: Array
    y: Array
    variance: float
    dead: Array
    progress: float = 0.0
    num_threads: int = 1
    sources: tuple[int, ...] = ()
    counts: Counter[str] = field(default_factory=Counter)


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
        output: (N, d_out) gradient of what is added to the decoded codes of each row: b_dec, and a skip.
        d_pre: (d_sae,) sum over the batch of the gradient of W_enc x: the gradient of b_enc, unless `vectors`
            names another, and what reaches b_dec through the centring of x.
        vectors: gradients of further parameters, by name.
        along_dec: (d_sae,) adds along_dec[j] * W_dec[j] to dW_dec; (d_sae, sources) does so by source.
        outer_enc: (d_sae,) adds outer_enc[j] * sum of all rows of x to dW_enc.
        inputs: (R, d_in) what dz multiplies in place of x, where an encoder sees more than x.
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
    output: Array
    d_pre: Array
    vectors: Params = field(default_factory=dict)
    along_dec: Array | None = None
    outer_enc: Array | None = None
    inputs: Array | None = None


@dataclass(frozen=True)
class Architecture(ABC):
    """Base of all architectures: frozen dataclasses of hyperparameters, found by `name` in the registry."""

    name: ClassVar[str]
    competes: ClassVar[bool] = False  # whether codes of one latent depend on the pre-activations of others

    def __post_init__(self) -> None:
        conform(self)

    @property
    def settled(self) -> float:
        """Share of a run after which no step depends on how far the run has come."""
        return 0.0

    @property
    def unit_norm(self) -> bool:
        """Whether decoder rows are kept at unit norm during training."""
        return True

    def check(self, d_sae: int) -> None:
        """Raise a ValueError where the hyperparameters do not fit the dictionary."""

    def init(self, params: Params, x: Array) -> None:
        """Add this architecture's own parameters to W_enc, W_dec, b_enc, b_dec; x is a sample of inputs."""

    @property
    @abstractmethod
    def activation(self) -> Activation:
        """What the SAE encodes with after training."""

    def encode(self, params: Params, x: Array, center: Array | None = None, *, num_threads: int = 1) -> Codes:
        """Codes of rows x (N, d_in), of any float type, at this point of training."""
        return self.activation.encode(params, x, center, num_threads=num_threads)

    @abstractmethod
    def step(self, params: Params, batch: Batch) -> Gradients:
        """Loss and gradients on one batch."""

    def end_of_step(self, params: Params, gradients: Gradients, batch: Batch) -> None:
        """Update running statistics kept among the parameters (such as a BatchTopK threshold)."""

    def trained(self, params: Params) -> tuple[Activation, Params]:
        """The activation and parameters to use after training."""
        return self.activation, params

    def rescale(self, params: Params, factor: Array | float) -> None:
        """Codes are about to be multiplied by factor, a number or (d_sae,): adapt own parameters in place.

        W_enc and b_enc already were multiplied, W_dec divided. Called before `trained`. Where the architecture
        `competes`, factor is the same for all latents.
        """

    def revive(self, params: Params, latents: Array) -> None:
        """These latents were given new weights (resampling): start own parameters of theirs anew, in place."""

    def config(self) -> dict[str, Any]:
        """Hyperparameters as JSON values, `name` included."""
        return {"name": self.name, **asdict(self)}


class Block(NamedTuple):
    """Codes of N rows, the gradient of their pre-activations, and that of what they decode to."""

    codes: Codes
    dz: Array
    out: Array


def reconstruction(
    codes: Codes,
    params: Params,
    target: Array,
    power: float,
    num_threads: int,
    coefficient: float = 1.0,
    out: Array | None = None,
) -> tuple[Array, Array, Array, float]:
    """coefficient · mean over rows of |codes W_dec - target|² / power.

    Returns its gradient by the output (N, d_out; in `out`, which may be the target) and by the code values (nnz,), the
    squared error of each row (N,), and its value.
    """
    residual, projected, squared = residual_products(codes, params["W_dec"], target, num_threads, out)
    scale = residual.dtype.type(2 * coefficient / (len(residual) * power))
    loss = coefficient * float(squared.sum(dtype=np.float64)) / (len(residual) * power)
    residual *= scale
    projected *= scale
    return residual, projected, squared, loss


def gradients(
    params: Params,
    batch: Batch,
    blocks: Sequence[Block],
    *,
    codes: Codes,
    squared: Array,
    parts: dict[str, float],
    output: Array,
    **more: Any,
) -> Gradients:
    """Stack blocks into a `Gradients`; the loss is the sum of its parts."""
    all_codes = stack(*(b.codes for b in blocks))
    dz = joined([b.dz for b in blocks])
    return Gradients(
        loss=sum(parts.values()),
        parts=parts,
        codes=codes,
        squared=squared,
        indptr=all_codes.indptr,
        indices=all_codes.indices,
        z=all_codes.values,
        dz=dz,
        out=joined([b.out for b in blocks]),
        output=output,
        d_pre=_kernels.latent_sums(
            all_codes.indptr, all_codes.indices, dz, len(params["W_enc"]), num_threads=batch.num_threads
        ),
        **more,
    )


def annealed(start: float, end: float, progress: float, share: float) -> float:
    """From start to end in a straight line over the first `share` of a run, then end.

    >>> annealed(64, 32, 0.05, 0.1), annealed(64, 32, 0.5, 0.1)
    (48.0, 32)
    """
    return start + (end - start) * progress / share if progress < share else end
