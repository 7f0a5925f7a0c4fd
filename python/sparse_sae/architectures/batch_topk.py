"""BatchTopK (Bussmann et al. 2024, arXiv 2412.06410)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparse_sae import _kernels, activations, selection
from sparse_sae.architectures.base import Batch, Gradients
from sparse_sae.architectures.topk import TopK
from sparse_sae.codes import Array, Codes, Params

# The mean over about the last 20 batches, and over all of them before that many were seen. A longer memory keeps
# thresholds of weights that have moved on since, and a short run is left with a lower L0 than k.
_MEMORY = 0.05


@dataclass(frozen=True)
class BatchTopK(TopK):
    """In training, the k · N largest positive pre-activations of a batch of N rows; k is the mean over rows.

    Afterwards, one threshold for all latents: the running mean over training batches of the smallest value that
    was kept (section 3.1 of the paper). The trained SAE is a `JumpReLU` with it, and needs no batch. Loss,
    arguments and AuxK are those of `TopK`.

    >>> BatchTopK(k=32).config()["name"]
    'batchtopk'
    """

    name: ClassVar[str] = "batchtopk"

    def init(self, params: Params, x: Array) -> None:
        """threshold_mean: the running mean, and the number of batches in it."""
        params["threshold_mean"] = np.zeros(2, params["W_enc"].dtype)

    def select(self, params: Params, batch: Batch, k: int) -> Codes:
        return Codes(
            *_kernels.encode_batch_topk(
                batch.x, params["W_enc"], params["b_enc"], k * len(batch.x), num_threads=batch.num_threads
            )
        )

    @property
    def activation(self) -> activations.Activation:
        """A threshold for all latents; see `trained`."""
        return activations.JumpReLU()

    def encode(self, params: Params, x: Array, center: Array | None = None, *, num_threads: int = 1) -> Codes:
        """Pre-activations above the mean threshold so far; the k largest of each row before the first batch."""
        mean, count = params["threshold_mean"]
        if not count:
            return activations.TopK(self.k).encode(params, x, center, num_threads=num_threads)
        threshold = np.full(len(params["W_enc"]), mean)
        return selection.above(params, threshold, x, center, None, num_threads)

    def end_of_step(self, params: Params, gradients: Gradients, batch: Batch) -> None:
        if len(gradients.codes.values):
            state = params["threshold_mean"]
            state[1] += 1
            state[0] += max(_MEMORY, 1 / state[1]) * (gradients.codes.values.min() - state[0])

    def trained(self, params: Params) -> tuple[activations.Activation, Params]:
        """A JumpReLU; a TopK if no batch was seen, for which there is no threshold."""
        params = dict(params)
        mean, count = params.pop("threshold_mean")
        if not count:
            return activations.TopK(self.k), params
        params["threshold"] = np.full(len(params["W_enc"]), mean)
        return self.activation, params

    def rescale(self, params: Params, factor: Array | float) -> None:
        # Latents compete, so factor is the same for all.
        params["threshold_mean"][0] *= np.mean(factor, dtype=params["threshold_mean"].dtype)
