"""Non-negative sparse codes of x over a fixed dictionary: x ~ codes @ W_dec + b_dec.

Four methods, all in C++, for N samples, D dimensions, M latents and K active ones:

- lasso: min 1/2 |x - z W|^2 + penalty sum_j |W_j| z_j. Active sets: the latents that violate the optimality conditions
  most join, coordinate descent solves for those that have joined, and again, until the duality gap proves that nothing
  is left to gain. Five to ten looks at the dictionary.
- reweighted: the same, then three rounds with penalty v sum_j log(1 + |W_j| z_j / v), v = penalty / 4, which shrinks
  less; each starts from the last and takes a few looks more.
- omp: the latent that fits the residual best, K times, all refitted each time; K looks.
- iht: K latents by projected gradient steps, refitted at the end; n_steps looks.

A look is one product with W, or K rows of W Wᵀ where that has at most 2^26 entries and the samples are enough to pay
for making it: D / K times less. The codes are the same to the bit.

Sources: active sets with duality gaps, Massias, Gramfort & Salmon 2018; reweighting, Candes, Wakin & Boyd 2008; OMP,
Pati et al. 1993, with non-negative refits as in Bruckstein et al. 2008; IHT, Blumensath & Davies 2009.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae import _kernels
from sparse_sae._arguments import one_of
from sparse_sae._threads import resolve_threads

__all__ = ["encode"]

F32 = NDArray[np.float32]
ROUNDS = 3  # of reweighting
TOLERANCE = 1e-5
Method: TypeAlias = Literal["lasso", "reweighted", "omp", "iht"]
METHODS = get_args(Method)


def encode(
    x: Any,
    W_dec: Any,
    b_dec: Any = None,
    *,
    method: Method = "reweighted",
    penalty: float | None = None,
    k: int | None = None,
    n_steps: int | None = None,
    tolerance: float | None = None,
    num_threads: int | None = None,
) -> csr_array:
    """Non-negative codes of `x` over the dictionary `W_dec`, found by pursuit.

    Args:
        x: (n, d) activations.
        W_dec: (d_sae, d) decoder rows, of any norm.
        b_dec: (d,) decoder bias, zero if None.
        method: "lasso", "reweighted", "omp" or "iht"; see the module.
        penalty: for lasso and reweighted, in the units of x: a latent stays off unless its direction explains
            more than this.
        k: for omp and iht, the most active latents of a sample.
        n_steps: gradient steps of iht, default 60.
        tolerance: for lasso and reweighted, the duality gap at which a sample is done, as a part of |x - b_dec|² / 2;
            default 1e-5.
        num_threads: None for all cores; the codes do not depend on it.

    Returns:
        (n, d_sae) float32 codes, sorted rows, no stored zeros.

    Raises:
        ValueError: for shapes that disagree, values that are not finite, or an argument the method does not
            use.

    >>> W_dec = np.eye(3) + 0.3
    >>> codes = encode(np.array([[0.0, 2.0, 0.0]]) @ W_dec, W_dec, method="omp", k=2)
    >>> codes.toarray().round(3).tolist()
    [[0.0, 2.0, 0.0]]
    """
    x, W_dec, b_dec = checked(x, W_dec, b_dec)
    check_method(method, penalty, k, n_steps, len(W_dec), tolerance)
    norms = np.linalg.norm(W_dec, axis=1)
    unit = np.ascontiguousarray(W_dec / np.where(norms > 0, norms, 1)[:, None])
    how: dict[str, Any] = {
        "center": np.ascontiguousarray(b_dec),
        "num_threads": resolve_threads(num_threads),
    }
    x = np.ascontiguousarray(x)
    if method == "omp":
        found = _kernels.encode_omp(x, unit, int(k or 0), **how)
    elif method == "iht":
        step = 0.99 / max(largest_eigenvalue(unit, num_threads=how["num_threads"]), 1.0)
        found = _kernels.encode_iht(x, unit, int(k or 0), step=step, n_steps=n_steps or 60, **how)
    else:
        rounds = ROUNDS if method == "reweighted" else 0
        limit = TOLERANCE if tolerance is None else tolerance
        found = _kernels.encode_lasso(x, unit, float(penalty or 0), rounds=rounds, tolerance=limit, **how)[:3]
    indptr, indices, values = found
    return csr_array((values / norms[indices], indices, indptr), shape=(len(x), len(unit)))


def check_method(
    method: str,
    penalty: float | None,
    k: int | None,
    n_steps: int | None,
    d_sae: int,
    tolerance: float | None = None,
) -> None:
    """Raise a ValueError for a method that does not exist, or one given what it does not take."""
    one_of("method", method, METHODS)
    by_penalty = method in ("lasso", "reweighted")
    if by_penalty and (k is not None or penalty is None or not penalty > 0):
        raise ValueError(f"method {method!r} takes a penalty > 0 and no k; got penalty={penalty}, k={k}")
    if not by_penalty and (penalty is not None or k is None or not 1 <= k <= d_sae):
        raise ValueError(
            f"method {method!r} takes k in 1..{d_sae} and no penalty; got k={k}, penalty={penalty}"
        )
    if n_steps is not None and (method != "iht" or n_steps < 1):
        raise ValueError(
            f"n_steps: got {n_steps} for {method!r}, expected at least 1 for iht, None for the others"
        )
    if tolerance is not None and not (by_penalty and 0 < tolerance < 1):
        raise ValueError(
            f"tolerance: got {tolerance} for {method!r}, expected above 0 and below 1 for lasso and reweighted, None "
            "for the others"
        )


def largest_eigenvalue(W: F32, n_steps: int = 50, num_threads: int = 1) -> float:
    """Of W Wᵀ, by power iteration from a fixed start, with a margin for what it has not converged to; no less than 1
    for unit rows, and the same for any number of threads."""
    across = np.ascontiguousarray(W.T)
    v = np.random.default_rng(0).standard_normal((1, W.shape[1])).astype(np.float32)
    norm = 0.0
    for _ in range(n_steps):
        v = _kernels.matmul_nt(
            _kernels.matmul_nt(v, W, num_threads=num_threads), across, num_threads=num_threads
        )
        norm = float(np.sqrt((v.astype(np.float64) ** 2).sum()))
        if norm == 0:
            return 0.0
        v /= np.float32(norm)
    return 1.02 * norm


def checked(x: Any, W_dec: Any, b_dec: Any) -> tuple[F32, F32, F32]:
    x, W_dec = np.asarray(x, dtype=np.float32), np.asarray(W_dec, dtype=np.float32)
    if W_dec.ndim != 2 or 0 in W_dec.shape:
        raise ValueError(f"W_dec: got shape {W_dec.shape}, expected (d_sae, d) with both at least 1")
    b_dec = np.zeros(W_dec.shape[1], np.float32) if b_dec is None else np.asarray(b_dec, dtype=np.float32)
    if x.ndim != 2 or x.shape[1] != W_dec.shape[1]:
        raise ValueError(f"x: got shape {x.shape}, expected (n, {W_dec.shape[1]}) to match W_dec")
    if b_dec.shape != (W_dec.shape[1],):
        raise ValueError(f"b_dec: got shape {b_dec.shape}, expected ({W_dec.shape[1]},) to match W_dec")
    for name, values in (("x", x), ("W_dec", W_dec), ("b_dec", b_dec)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds NaN or infinity")
    return x, W_dec, b_dec
