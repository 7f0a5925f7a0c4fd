"""Leave-one-out refinement: which of the active latents does a sample need, given all the others?

An encoder scores each latent by its own direction and cannot see that two of them explain the same part of x. With
the codes at hand that can be asked: take latent j out, and see how far along its decoder direction the residual then
reaches,

    c_j = <x - b_dec - sum_(i != j) z_i W_i, W_j> / |W_j| = <r, W_j> / |W_j| + z_j |W_j|,    r = x - b_dec - z W_dec.

Latents whose c_j does not exceed the threshold leave; the others keep their values. One sparse decode and one sampled
product (SDDMM) over the active entries, so the cost is that of two decodes. The claim to test is of the SynthSAEBench
community runs (arXiv 2602.14687): many of an encoder's active latents are interference, and leave.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae import _kernels
from sparse_sae._arguments import real, whole
from sparse_sae._threads import resolve_threads
from sparse_sae.pursuit.inference import checked

__all__ = ["leave_one_out", "refine"]

F32 = NDArray[np.float32]


def leave_one_out(
    x: Any, codes: Any, W_dec: Any, b_dec: Any = None, *, num_threads: int | None = None
) -> F32:
    """What each active latent has to itself: c_j of the module, in the units of x.

    For one sample and a decoder row of norm 1 it is the value that latent j would best have, all others held.

    Args:
        x: (n, d) activations.
        codes: (n, d_sae) codes, sparse or dense.
        W_dec: (d_sae, d) decoder rows, of any norm.
        b_dec: (d,) decoder bias, zero if None.
        num_threads: None for all cores.

    Returns:
        (nnz,) float32, one number an entry of `scipy.sparse.csr_array(codes)` with sorted indices; minus infinity
        for a latent whose decoder row is zero.

    Raises:
        ValueError: for shapes that disagree or values that are not finite.
    """
    return _entries(x, codes, W_dec, b_dec, num_threads)[1]


def refine(
    x: Any,
    codes: Any,
    W_dec: Any,
    b_dec: Any = None,
    *,
    threshold: float,
    rounds: int = 1,
    num_threads: int | None = None,
) -> csr_array:
    """The codes without the latents that the others make unnecessary.

    Args:
        x: (n, d) activations.
        codes: (n, d_sae) codes, sparse or dense, of `sae.encode(x)` for example.
        W_dec: (d_sae, d) decoder rows, of any norm.
        b_dec: (d,) decoder bias, zero if None.
        threshold: a latent leaves where c_j <= threshold, in the units of x. Choose it on held-out rows: 0 takes
            away only what makes the reconstruction worse than zero contribution would.
        rounds: how often, each time with the residual of what is left.
        num_threads: None for all cores; the result does not depend on it.

    Returns:
        (n, d_sae) float32 codes: entries of `codes`, unchanged, fewer of them.

    Raises:
        ValueError: for shapes that disagree or values that are not finite.

    Two latents that point the same way explain x twice; without either, the other is enough:

    >>> W_dec = np.array([[1.0, 0.0], [0.8, 0.6]])
    >>> refine([[1.0, 0.0]], [[1.0, 0.4]], W_dec, threshold=0.2).toarray().tolist()
    [[1.0, 0.0]]
    """
    limit, rounds = real("threshold", threshold), whole("rounds", rounds, least=1)
    current = codes
    for _ in range(rounds):
        entries, needed = _entries(x, current, W_dec, b_dec, num_threads)
        keep = needed > np.float32(limit)
        rows = np.repeat(np.arange(entries.shape[0]), np.diff(entries.indptr))[keep]
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=entries.shape[0]))])
        kept = (entries.data[keep], entries.indices[keep], indptr.astype(entries.indptr.dtype))
        current = csr_array(kept, shape=entries.shape)
        if keep.all():
            break
    return current


def _entries(x: Any, codes: Any, W_dec: Any, b_dec: Any, num_threads: int | None) -> tuple[csr_array, F32]:
    """The codes as sorted CSR of the kernels' types, and c_j of each entry."""
    x, W_dec, b_dec = checked(x, W_dec, b_dec)
    entries = csr_array(codes, dtype=np.float32)
    if entries.shape != (len(x), len(W_dec)):
        raise ValueError(f"codes: got shape {entries.shape}, expected {(len(x), len(W_dec))} of x and W_dec")
    if not np.isfinite(entries.data).all():
        raise ValueError("codes: got NaN or infinity, expected finite values")
    if not entries.has_canonical_format or (entries.data == 0).any():
        entries = entries.copy()
        entries.sum_duplicates()
        entries.eliminate_zeros()
    indptr, indices = entries.indptr.astype(np.int32), entries.indices.astype(np.int32)
    target = np.ascontiguousarray(x - b_dec)
    threads = resolve_threads(num_threads)
    # The kernel's residual is reconstruction minus target, so its product with W_j has the other sign.
    _, along, _ = _kernels.decode_residual(indptr, indices, entries.data, W_dec, target, num_threads=threads)
    norms = np.linalg.norm(W_dec, axis=1)[indices]
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = entries.data * norms - along / norms
    return entries, np.where(norms > 0, needed, -np.inf).astype(np.float32)
