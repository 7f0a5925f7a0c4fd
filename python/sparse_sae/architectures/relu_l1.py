"""ReLU with an L1 penalty: the first sparse autoencoders, and their 2024 form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_sae import _kernels
from sparse_sae.activations import Activation, ReLU
from sparse_sae.architectures.auxiliary import auxiliary
from sparse_sae.architectures.base import Batch, Block, Gradients, gradients, reconstruction
from sparse_sae.architectures.penalty import Penalised, along, decoder_norms, starting_bias
from sparse_sae.codes import Array, Params


@dataclass(frozen=True)
class L1(Penalised):
    """z = ReLU(W_enc (x - b_dec) + b_enc),  x̂ = W_dec z + b_dec.

    L = |x - x̂|² / Var + coefficient · Σ_j z_j |W_dec,j| / √Var, the norm being the sum over sources for a
    crosscoder.

    Args:
        free_norms: decoder rows may have any norm, which weighs the penalty (Anthropic, April 2024 update); False
            keeps them at unit norm (Bricken et al. 2023, Towards Monosemanticity). After training, rows have unit
            norm either way.
        coefficient: the λ = 5 of the April update, for |x - x̂|² and E|x|² = d_in, is 5 / √d_in here.

    For target_l0, warmup, aux_k and aux_coefficient see `Penalised`. The published form has no AuxK: aux_k=0, and
    `Resampling` of dead latents instead.

    >>> L1(target_l0=32).config()["name"]
    'l1'
    """

    coefficient: float = 0.1
    aux_k: int | None = 0
    free_norms: bool = True

    name: ClassVar[str] = "l1"

    @property
    def unit_norm(self) -> bool:
        return not self.free_norms

    def init(self, params: Params, x: Array) -> None:
        """With a target, b_enc from a sample of inputs."""
        super().init(params, x)
        if self.target_l0 is not None:
            params["b_enc"][:] = starting_bias(params, x, self.target_l0)

    @property
    def activation(self) -> Activation:
        return ReLU()

    def step(self, params: Params, batch: Batch) -> Gradients:
        threads, m = batch.num_threads, len(params["W_enc"])
        codes = self.encode(params, batch.x, None, num_threads=threads)
        out, dz, squared, value = reconstruction(codes, params, batch.y, batch.variance, threads)
        error = out * out.dtype.type(-len(out) * batch.variance / 2)
        unit = self.penalty(params, batch) / (len(batch.x) * batch.variance**0.5)
        norms = decoder_norms(params["W_dec"], batch.sources)
        total = norms.sum(axis=1)
        sums = _kernels.latent_sums(*codes, m, num_threads=threads)
        parts = {"reconstruction": value, "sparsity": unit * float(sums @ total)}
        blocks = [Block(codes, dz + (dz.dtype.type(unit) * total)[codes.indices], out)]
        aux = auxiliary(params, batch, error, self.aux_k, self.aux_coefficient)
        if aux is not None:
            blocks.append(aux[0])
            parts["aux"] = aux[1]
        return gradients(
            params,
            batch,
            blocks,
            codes=codes,
            squared=squared,
            parts=parts,
            output=out,
            along_dec=along(sums.dtype.type(unit) * sums, norms),
        )
