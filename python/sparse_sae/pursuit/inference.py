"""Non-negative sparse codes of x over a fixed dictionary: x ~ codes @ W_dec + b_dec.

Four methods, for N samples, D dimensions, M latents and K active ones:

- lasso: min 1/2 |x - z W|^2 + penalty sum_j |W_j| z_j, by FISTA; n_steps times two products with W.
- reweighted: the same with penalty w sum_j log(1 + |W_j| z_j / w), w = penalty / 4, which shrinks less; 2.5
times that.
- omp: the latent that fits the residual best, K times, all refitted each time; one product with W and K smaller
ones with W Wᵀ where that has at most 2^26 entries and is worth its making (N K > M), else K products. In C++.
- iht: K latents by projected gradient steps, refitted at the end; n_steps times two products.

Sources: FISTA, Beck & Teboulle 2009; reweighting, Candes, Wakin & Boyd 2008; OMP, Pati et al. 1993, with
non-negative refits as in Bruckstein et al. 2008; IHT, Blumensath & Davies 2009. Rows are worked through in
blocks, so memory does not grow with N M.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from sparse_sae import _kernels
from sparse_sae._arguments import one_of
from sparse_sae._threads import resolve_threads

__all__ = ["encode"]

F32 = NDArray[np.float32]
BLOCK = 1 << 22  # entries of one dense block of codes, 16 MiB
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
        n_steps: gradient steps (of each round, for reweighted), default 60; not for omp, which takes k.
        num_threads: of omp, None for all cores. The others run on NumPy's matrix products, which choose their
            own.

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
    check_method(method, penalty, k, n_steps, len(W_dec))
    if len(x) == 0:
        return csr_array((0, len(W_dec)), dtype=np.float32)
    norms = np.linalg.norm(W_dec, axis=1)
    unit = W_dec / np.where(norms > 0, norms, 1)[:, None]
    if method == "omp":
        return _omp(x, unit, norms, b_dec, int(k or 0), resolve_threads(num_threads))
    steps, step_size = n_steps or 60, 0.99 / max(_largest_eigenvalue(unit), 1e-12)
    parts = []
    rows = max(1, BLOCK // len(W_dec))
    for start in range(0, len(x), rows):
        part = x[start : start + rows] - b_dec
        if method == "lasso":
            codes = fista(part, unit, np.float32(penalty or 0), step_size, steps)
        elif method == "reweighted":
            codes = reweighted(part, unit, float(penalty or 0), step_size, steps)
        else:
            codes = iht(part, unit, int(k or 0), step_size, steps)
        codes /= np.where(norms > 0, norms, np.inf)
        parts.append(csr_array(codes))
    out = csr_array(vstack(parts, format="csr", dtype=np.float32))
    out.eliminate_zeros()
    return out


def check_method(method: str, penalty: float | None, k: int | None, n_steps: int | None, d_sae: int) -> None:
    """Raise a ValueError for a method that does not exist, or one given what it does not take."""
    one_of("method", method, METHODS)
    by_penalty = method in ("lasso", "reweighted")
    if by_penalty and (k is not None or penalty is None or not penalty > 0):
        raise ValueError(f"method {method!r} takes a penalty > 0 and no k; got penalty={penalty}, k={k}")
    if not by_penalty and (penalty is not None or k is None or not 1 <= k <= d_sae):
        raise ValueError(
            f"method {method!r} takes k in 1..{d_sae} and no penalty; got k={k}, penalty={penalty}"
        )
    if n_steps is not None and (method == "omp" or n_steps < 1):
        raise ValueError(f"n_steps: got {n_steps} for {method!r}, expected at least 1, and none for omp")


def fista(x: F32, W: F32, penalty: Any, step: float, n_steps: int, start: F32 | None = None) -> F32:
    """Minimise 1/2 |x - z W|^2 + sum penalty * z over z >= 0; `penalty` is a number or an (n, M) array."""
    z = np.zeros((len(x), len(W)), np.float32) if start is None else start
    y, t, step32 = z, 1.0, np.float32(step)
    constant = step32 * (x @ W.T - penalty)
    # z W Wᵀ through d_in costs 2 M D a sample, through the Gram matrix M²: take the cheaper one.
    gram = W @ W.T if len(W) <= 2 * W.shape[1] else None
    for _ in range(n_steps):
        fitted = y @ gram if gram is not None else (y @ W) @ W.T
        fitted *= -step32
        fitted += y
        fitted += constant
        new = np.maximum(fitted, 0, out=fitted)
        t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
        y = new + np.float32((t - 1) / t_new) * (new - z)
        z, t = new, t_new
    return z


def reweighted(x: F32, W: F32, penalty: float, step: float, n_steps: int, rounds: int = 3) -> F32:
    """A lasso, then `rounds` more in which a latent pays penalty w / (w + z) with w = penalty / 4: less, the
    stronger it is.

    The small entries, which mostly stand for interference, are driven to zero and the large ones lose the
    lasso's shrinkage.
    """
    w = np.float32(penalty / 4)
    z = fista(x, W, np.float32(penalty), step, n_steps)
    for _ in range(rounds):
        z = fista(x, W, np.float32(penalty) * w / (w + z), step, max(1, n_steps // 2), start=z)
    return z


def _omp(x: F32, unit: F32, norms: F32, b_dec: F32, k: int, threads: int) -> csr_array:
    indptr, indices, values = _kernels.encode_omp(
        x, np.ascontiguousarray(unit), k, center=np.ascontiguousarray(b_dec), num_threads=threads
    )
    return csr_array((values / norms[indices], indices, indptr), shape=(len(x), len(unit)))


def iht(x: F32, W: F32, k: int, step: float, n_steps: int) -> F32:
    """Iterative hard thresholding: a gradient step, keep the k largest positive entries, again; then a refit
    on these."""
    z = np.zeros((len(x), len(W)), np.float32)
    previous = z
    for i in range(n_steps):
        ahead = z + np.float32(i / (i + 3)) * (z - previous)
        previous = z
        z = ahead + np.float32(step) * ((x - ahead @ W) @ W.T)
        np.maximum(z, 0, out=z)
        if k < len(W):
            np.put_along_axis(z, np.argpartition(z, len(W) - k, axis=1)[:, : len(W) - k], 0, axis=1)
    support = np.argsort(-z, axis=1, kind="stable")[:, :k]
    codes = np.zeros_like(z)
    np.put_along_axis(codes, support, _refit(x, W, support, np.take_along_axis(z, support, axis=1)), axis=1)
    return codes


def _refit(x: F32, W: F32, support: NDArray[np.intp], start: F32 | None = None, sweeps: int = 200) -> F32:
    """Least squares over z >= 0 on each sample's own support (n, k), by coordinate descent over all samples
    at once."""
    atoms = W[support]
    gram = atoms @ atoms.transpose(0, 2, 1)
    target = np.einsum("nkd,nd->nk", atoms, x)
    z: F32 = np.maximum(target, 0) if start is None else start.copy()
    diagonal = np.where(np.einsum("nkk->nk", gram) > 0, np.einsum("nkk->nk", gram), 1)
    for _ in range(sweeps):
        moved = 0.0
        for j in range(support.shape[1]):
            new = np.maximum(
                z[:, j] + (target[:, j] - np.einsum("nk,nk->n", gram[:, j], z)) / diagonal[:, j], 0
            )
            moved = max(moved, float(np.abs(new - z[:, j]).max()))
            z[:, j] = new
        if moved <= 1e-6 * float(np.abs(target).max() + 1e-30):
            break
    return z


def _largest_eigenvalue(W: F32, n_steps: int = 50) -> float:
    """Of W Wᵀ, by power iteration from a fixed start, with a margin for what it has not converged to."""
    v: Any = np.random.default_rng(0).standard_normal((W.shape[1],)).astype(np.float32)
    for _ in range(n_steps):
        v = (W @ v) @ W
        norm = float(np.linalg.norm(v))
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
