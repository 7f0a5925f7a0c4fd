"""How good is an SAE on given activations. All in the units of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _kernels
from ._arrays import Array, as_array, as_rows, to_float
from ._threads import resolve_threads
from .sae import SAE

BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Metrics:
    """Quality of reconstructions x̂ of n rows x (targets y for a transcoder).

    Attributes:
        n_rows: rows evaluated.
        l0: mean number of active latents of a row.
        mse: mean over rows and dimensions of (x̂ - x)².
        fvu: Σ|x̂ - x|² / Σ|x - mean x|², the fraction of variance unexplained, over all rows and dimensions.
        explained_variance: 1 - fvu.
        dead_fraction: share of latents that fired on none of the rows.
        density: (d_sae,) share of rows on which each latent fired.
        shrinkage: Σ|x̂| / Σ|x|: below 1, reconstructions are too short.
        relative_bias: Σ⟨x̂, x⟩ / Σ|x̂|²: the factor by which reconstructions should be longer (Rajamanoharan et
            al. 2024, arXiv 2404.16014, eq. 10, inverted: 1 is unbiased, above 1 is shrunk).
        cosine: mean cosine between x̂ and x.
    """

    n_rows: int
    l0: float
    mse: float
    fvu: float
    explained_variance: float
    dead_fraction: float
    density: Array
    shrinkage: float
    relative_bias: float
    cosine: float

    def to_dict(self) -> dict[str, Any]:
        """Numbers and lists that JSON can write."""
        return {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }

    def __str__(self) -> str:
        alive = self.density[self.density > 0]
        rows = [
            ("rows", f"{self.n_rows:,}"),
            ("L0", f"{self.l0:.2f}"),
            ("MSE", f"{self.mse:.5g}"),
            ("FVU  Σ|x̂-x|²/Σ|x-mean|²", f"{self.fvu:.4f}"),
            ("explained variance", f"{self.explained_variance:.4f}"),
            ("dead fraction", f"{self.dead_fraction:.4f}"),
            ("median density (alive)", f"{np.median(alive):.2e}" if len(alive) else "none"),
            ("shrinkage  Σ|x̂|/Σ|x|", f"{self.shrinkage:.4f}"),
            ("relative bias", f"{self.relative_bias:.4f}"),
            ("cosine", f"{self.cosine:.4f}"),
        ]
        return "\n".join(f"{name:26} {value:>12}" for name, value in rows)


def evaluate(sae: SAE, x: Any, y: Any = None, *, num_threads: int | None = None) -> Metrics:
    """Measure an SAE on rows it was not trained on.

    Args:
        sae: the SAE. x: (…, d_in) activations, or an ActivationStore, or an iterable of (n, d_in) blocks.
        y: targets of a transcoder, like x; None: x itself.

    Raises:
        ValueError: wrong widths, NaN or infinity, or no rows.

    >>> import numpy as np, sparse_sae
    >>> eye, zeros = np.eye(4, dtype=np.float32), np.zeros(4, np.float32)
    >>> sae = SAE({"W_enc": eye, "W_dec": eye, "b_enc": zeros, "b_dec": zeros}, sparse_sae.TopK(k=4))
    >>> round(evaluate(sae, np.abs(np.random.default_rng(0).standard_normal((100, 4)))).fvu, 9)
    0.0
    """
    if sae.is_transcoder and y is None:
        raise ValueError("y: a transcoder is measured against its targets; pass evaluate(sae, x, y)")
    threads = resolve_threads(num_threads)
    n = nnz = 0
    fired = np.zeros(sae.d_sae, np.int64)
    total = np.zeros(sae.d_out)
    squared_error = squared = norm_out = norm_in = inner = squared_out = cosines = 0.0
    shift: Array | None = None  # sums of squares are taken around the first block's mean, to lose no digits
    for rows, targets in _paired(x, y, sae, threads):
        codes = sae.encode(rows, num_threads=threads)
        out = sae.reconstruct(rows, num_threads=threads).astype(np.float64)
        target = to_float(targets, np.float64)
        shift = target.mean(axis=0) if shift is None else shift
        fired += np.bincount(codes.indices, minlength=sae.d_sae)
        n, nnz = n + len(target), nnz + codes.nnz
        total += (target - shift).sum(axis=0)
        squared += ((target - shift) ** 2).sum()
        squared_error += ((out - target) ** 2).sum()
        lengths = np.linalg.norm(out, axis=1), np.linalg.norm(target, axis=1)
        products = np.einsum("nd,nd->n", out, target)
        norm_out, norm_in = norm_out + lengths[0].sum(), norm_in + lengths[1].sum()
        inner, squared_out = inner + products.sum(), squared_out + (lengths[0] ** 2).sum()
        cosines += (products / np.maximum(lengths[0] * lengths[1], 1e-300)).sum()
    if not n:
        raise ValueError("x: no rows to evaluate")
    variance = squared - (total**2).sum() / n
    fvu = float(squared_error / variance) if variance > 0 else (0.0 if squared_error == 0 else float("inf"))
    return Metrics(
        n_rows=n,
        l0=nnz / n,
        mse=float(squared_error) / (n * sae.d_out),
        fvu=fvu,
        explained_variance=1 - fvu,
        dead_fraction=float((fired == 0).mean()),
        density=fired / n,
        shrinkage=float(norm_out / norm_in) if norm_in else 1.0,
        relative_bias=float(inner / squared_out) if squared_out else 1.0,
        cosine=float(cosines / n),
    )


def _blocks(x: Any, width: int, name: str, threads: int) -> Iterator[Array]:
    if hasattr(x, "epoch") and hasattr(x, "rows"):
        for start in range(0, len(x), BLOCK_ROWS):
            yield as_rows(x.rows(slice(start, start + BLOCK_ROWS)), width, name, num_threads=threads)
    elif hasattr(x, "shape") or hasattr(x, "__array__"):
        rows = as_array(x, name)
        if rows.ndim == 0 or rows.shape[-1] != width:
            raise ValueError(f"{name}: shape {rows.shape}, expected (…, {width})")
        rows = rows.reshape(-1, width)
        for start in range(0, len(rows), BLOCK_ROWS):
            yield _checked(rows[start : start + BLOCK_ROWS], width, name, threads)
    else:
        for block in x:
            yield as_rows(block, width, name, num_threads=threads)


def _checked(rows: Array, width: int, name: str, threads: int) -> Array:
    bad = _kernels.first_nonfinite_row(np.ascontiguousarray(rows), num_threads=threads)
    if bad >= 0:
        raise ValueError(f"{name}: row {bad} of a block holds a NaN or an infinity; leave such rows out")
    return to_float(rows) if rows.dtype == np.uint16 else rows


def _paired(x: Any, y: Any, sae: SAE, threads: int) -> Iterator[tuple[Array, Array]]:
    inputs = _blocks(x, sae.d_in, "x", threads)
    if y is None:
        for rows in inputs:
            rows = to_float(rows) if rows.dtype == np.uint16 else rows
            yield rows, rows
        return
    for rows, targets in zip(inputs, _blocks(y, sae.d_out, "y", threads), strict=True):
        if len(rows) != len(targets):
            raise ValueError(f"x, y: blocks of {len(rows)} and {len(targets)} rows, expected pairs")
        yield (to_float(rows) if rows.dtype == np.uint16 else rows), targets
