"""Online dictionary learning at a language model's width: thousands of directions, learned with the codes of pursuit.

Mairal, Bach, Ponce & Sapiro 2009, over z >= 0. For each batch x of rows:

1. z = codes of x over W, by the lasso, at the end reweighted. The penalty is steered so that `l0` latents are active.
2. A = f A + zᵀz, B = f B + zᵀx: all that is remembered of earlier batches, weighted by the forgetting f.
3. W_j = unit(W_j + (B_j - A_j W) / A_jj) for every latent j that the batch used, one after the other.

Step 3 minimises |x - z W|² over one row of W with all others held, for all remembered x at once. Its products A_j W are
made for blocks of rows; in a block each row sees those before it. There is no encoder, and no learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae import _kernels
from sparse_sae._arguments import whole
from sparse_sae._threads import resolve_threads
from sparse_sae.pursuit.inference import F32, Method, encode

__all__ = ["Online", "learn_online"]

_BLOCK = 256  # rows of W whose products with all others are made together
_TRIED = 256  # rows on which a first penalty is looked for


@dataclass(frozen=True)
class Online:
    """A dictionary and the pursuit that goes with it.

    Attributes:
        W_dec: (d_sae, d) float32 unit rows.
        b_dec: (d,) float32, the mean of the rows that were learned from.
        penalty: of the reweighted pursuit, in the units of x, at which it had the L0 that was asked for.
        history: a record a batch: rows seen, L0, FVU of the batch before W moved, penalty, method, rows replaced.
    """

    W_dec: F32
    b_dec: F32
    penalty: float
    history: list[dict[str, Any]] = field(repr=False)

    def encode(self, x: Any, *, num_threads: int | None = None) -> csr_array:
        """Codes (n, d_sae) of x (n, d) by the reweighted pursuit."""
        return encode(
            x, self.W_dec, self.b_dec, method="reweighted", penalty=self.penalty, num_threads=num_threads
        )


def learn_online(
    x: Any,
    d_sae: int,
    *,
    l0: float,
    n_tokens: int | None = None,
    batch_size: int = 2048,
    polish: float = 0.25,
    memory: int = 50,
    seed: int = 0,
    num_threads: int | None = None,
) -> Online:
    """Learn `d_sae` directions such that about `l0` of them, with codes >= 0, explain a row of `x`.

    Args:
        x: (n, d) activations, an array or memmap of any float type.
        d_sae: directions to learn.
        l0: active latents of a row that are aimed at, on average.
        n_tokens: rows to learn from, each epoch in a new order; None for three times those of x.
        batch_size: rows coded by one dictionary. A batch costs their pursuit and one product (d_sae, d_sae) x
            (d_sae, d).
        polish: the share of the batches, at the end, that are coded by the reweighted pursuit.
        memory: batches that are remembered, about; fewer at the start, when codes are of a dictionary long gone.
        seed: of the first directions, which are rows of x, and of the order.
        num_threads: None for all cores.

    Returns:
        Online. Its directions that no batch of the last epoch used are rows of x.

    Raises:
        ValueError: for shapes, numbers or values that cannot be used.

    >>> from sparse_sae.match import match
    >>> from sparse_sae.synthetic import superposition
    >>> world = superposition(40, 20, probability=0.05, std=0.3)
    >>> found = learn_online(world.block(0, 4000).x, 48, l0=2.0, n_tokens=40_000, batch_size=500)
    >>> match(found.W_dec, world, chance=0).above(0.9) >= 38
    True
    """
    x = np.asarray(x)
    if x.ndim != 2 or x.dtype.kind != "f" or len(x) < 2:
        raise ValueError(f"x: got {x.dtype} of shape {x.shape}, expected floats (n, d) with n >= 2")
    d_sae, batch_size = whole("d_sae", d_sae, least=1), whole("batch_size", batch_size, least=1)
    n_tokens = 3 * len(x) if n_tokens is None else whole("n_tokens", n_tokens, least=1)
    memory = whole("memory", memory, least=1)
    if not 0 < l0 <= d_sae:
        raise ValueError(f"l0: got {l0}, expected above 0 and at most d_sae = {d_sae}")
    if not 0 <= polish <= 1:
        raise ValueError(f"polish: got {polish}, expected 0 to 1")
    if d_sae > len(x) or batch_size > len(x):
        raise ValueError(
            f"d_sae, batch_size: got {d_sae} and {batch_size}, expected at most the {len(x)} rows of x"
        )
    if (row := _kernels.first_nonfinite_row(np.ascontiguousarray(x))) >= 0:
        raise ValueError(f"x: row {row} holds NaN or infinity")
    threads, rng = resolve_threads(num_threads), np.random.default_rng(seed)
    b_dec: F32 = np.asarray(np.mean(x, axis=0, dtype=np.float64), np.float32)
    W = _unit(_rows(x, rng.choice(len(x), d_sae, replace=False), b_dec), rng)
    state = _Memory(d_sae, x.shape[1])
    steps = max(1, n_tokens // batch_size)
    polish_from = steps - round(polish * steps)
    history: list[dict[str, Any]] = []
    order, penalty = np.zeros(0, np.intp), 0.0
    for step in range(steps):
        if len(order) < batch_size:
            order = rng.permutation(len(x))
        batch, order = _rows(x, order[:batch_size], b_dec), order[batch_size:]
        method: Method = "reweighted" if step >= polish_from else "lasso"
        if step in (0, polish_from):
            penalty = _penalty(batch[:_TRIED], W, method, l0, threads)
        codes = encode(batch, W, method=method, penalty=penalty, num_threads=threads)
        error = batch - codes @ W
        active = codes.nnz / len(batch)
        state.add(codes, batch, 1 - 1 / (1 + min(step / 2, memory - 1)))
        state.move(W, np.unique(codes.indices))
        replaced = 0
        if step < polish_from - 1 and (step + 1) % max(1, len(x) // batch_size) == 0:
            replaced = state.replace_unused(W, batch, error, rng)
        history.append(
            {
                "tokens": (step + 1) * batch_size,
                "method": method,
                "l0": active,
                "fvu": float((error.astype(np.float64) ** 2).sum() / (batch.astype(np.float64) ** 2).sum()),
                "penalty": penalty,
                "replaced": replaced,
            }
        )
        # L0 falls about with the square of the penalty; half of the way, as the next batch's L0 is noisy too.
        penalty *= float(np.clip(active / l0, 0.25, 4)) ** 0.25
    return Online(W, b_dec, penalty, history)


class _Memory:
    """A and B of the module, and the rows of W moved to where they explain them best."""

    def __init__(self, d_sae: int, d: int) -> None:
        self.together, self.with_x = np.zeros((d_sae, d_sae), np.float32), np.zeros((d_sae, d), np.float32)
        self.used = np.zeros(d_sae, np.int64)  # since unused rows were last replaced

    def add(self, codes: csr_array, batch: F32, keep: float) -> None:
        self.together *= np.float32(keep)
        self.with_x *= np.float32(keep)
        products = csr_array(codes.T @ codes).tocoo()
        self.together[products.coords] += products.data
        self.with_x += codes.T @ batch
        self.used += np.bincount(codes.indices, minlength=len(self.used))

    def move(self, W: F32, latents: NDArray[Any]) -> None:
        """One round over the latents, in place."""
        for start in range(0, len(latents), _BLOCK):
            block = latents[start : start + _BLOCK]
            left = self.with_x[block] - self.together[block] @ W
            among = self.together[np.ix_(block, block)]
            for i, j in enumerate(block):
                if not among[i, i] > 0:  # codes so small that their squares are zero
                    continue
                row = W[j] + left[i] / among[i, i]
                norm = float(np.linalg.norm(row))
                if norm > 0:
                    row /= np.float32(norm)
                    left -= np.outer(among[:, i], row - W[j])
                    W[j] = row

    def replace_unused(self, W: F32, batch: F32, error: F32, rng: np.random.Generator) -> int:
        """Latents that no code used since the last time become residuals of rows, the worst explained first by lot."""
        unused = np.flatnonzero(self.used == 0)
        self.used[:] = 0
        squared = (error.astype(np.float64) ** 2).sum(axis=1)
        unused = unused[: np.count_nonzero(squared)]
        if len(unused):
            chosen = rng.choice(len(batch), len(unused), replace=False, p=squared / squared.sum())
            W[unused] = _unit(error[chosen], rng)
        return len(unused)


def _penalty(x: F32, W: F32, method: Method, l0: float, threads: int) -> float:
    """By bisection, the penalty at which pursuit has about the L0."""
    low, high = 0.0, float(np.sqrt((x.astype(np.float64) ** 2).sum(axis=1)).max()) or 1.0
    for _ in range(12):
        middle = np.sqrt(low * high) if low else high / 8
        codes = encode(x, W, method=method, penalty=float(middle), tolerance=1e-3, num_threads=threads)
        low, high = (middle, high) if codes.nnz > l0 * len(x) else (low, middle)
        if low and high < 1.02 * low:
            break
    return float(high)


def _rows(x: NDArray[Any], index: NDArray[np.intp], b_dec: F32) -> F32:
    return np.asarray(x[index], dtype=np.float32) - b_dec


def _unit(rows: F32, rng: np.random.Generator) -> F32:
    """Rows of norm 1; those of zeros point anywhere."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.where(norms > 0, rows, rng.standard_normal(rows.shape).astype(np.float32))
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
