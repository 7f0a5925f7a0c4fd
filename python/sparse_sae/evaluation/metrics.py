"""How good is an SAE on given activations. All in the units of the data."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae import _kernels
from sparse_sae._io.arrays import Array, as_array, as_rows, to_float
from sparse_sae._threads import resolve_threads
from sparse_sae.data.opening import open_path
from sparse_sae.data.provenance import mismatches
from sparse_sae.evaluation.diagnostics import Finding, findings
from sparse_sae.sae import SAE

BLOCK_ROWS = 8192
KEPT_ROWS = 256  # for the checks that need rows, of the first block


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
        warnings: reasons not to trust these numbers yet, each with its evidence (see `diagnostics`).
        checked: what was looked for. A mistake that is not listed here was not looked for.
    """

    n_rows: int
    l0: float
    mse: float
    fvu: float
    explained_variance: float
    dead_fraction: float
    density: Array = field(repr=False)
    shrinkage: float
    relative_bias: float
    cosine: float
    warnings: tuple[Finding, ...] = ()
    checked: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Numbers, texts and lists that JSON can write."""
        values = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
        }
        return values | {"warnings": [dict(vars(w)) for w in self.warnings], "checked": list(self.checked)}

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
        lines = [f"{name:26} {value:>12}" for name, value in rows]
        lines += textwrap.wrap(
            f"checked for: {', '.join(self.checked) or 'nothing'}", 100, subsequent_indent="  "
        )
        for warning in self.warnings:
            lines += textwrap.wrap(f"WARNING {warning}", 100, subsequent_indent="  ")
        return "\n".join(lines)


def evaluate(
    sae: SAE,
    x: Any,
    y: Any = None,
    *,
    other: Any = None,
    seeds: Sequence[Any] = (),
    truth: Any = None,
    controls: Mapping[str, tuple[Any, Any]] | None = None,
    dead_before: float | None = None,
    num_threads: int | None = None,
) -> Metrics:
    """Measure an SAE on rows it was not trained on.

    Args:
        sae: the SAE. x: (…, d_in) activations; an ActivationStore; the path of one, or of a .npy, .npz or .safetensors
            file; or an iterable of (n, d_in) blocks.
        y: targets of a transcoder, like x; None: x itself.
        other: rows of another distribution (other text, another language, code), or (inputs, targets) of them, to
            see whether the training data were too narrow.
        seeds: SAEs trained alike from other seeds, to see whether they find the same latents.
        truth: the true features, where they are known: (n, d) directions or an object with `features`.
        controls: name → (SAE trained alike on a control, held-out rows of that control), to see whether data
            without features would be reconstructed as well: `diagnostics.shuffled_components(x)`, or activations
            of the model with random weights.
        dead_before: dead fraction earlier in training, to see whether latents are dying.
        num_threads: None: all cores.

    `warnings` of the result hold what was found. Without further evidence two checks run: dead latents, where there
    are rows enough to tell (10 active latents for each one there is), and codes too sparse, on up to 256 rows and
    only where that costs at most a quarter of the evaluation.

    Raises:
        ValueError: wrong widths, NaN or infinity, or no rows.

    Warns:
        UserWarning: a store is of another model or another hook point than the SAE's metadata say.

    >>> import numpy as np, sparse_sae
    >>> eye, zeros = np.eye(4, dtype=np.float32), np.zeros(4, np.float32)
    >>> sae = SAE({"W_enc": eye, "W_dec": eye, "b_enc": zeros, "b_dec": zeros}, sparse_sae.TopK(k=4))
    >>> round(evaluate(sae, np.abs(np.random.default_rng(0).standard_normal((100, 4)))).fvu, 9)
    0.0
    """
    x, y = _opened(x, "x"), _opened(y, "y")
    if x is None or np.isscalar(x) or isinstance(x, bytes):
        raise TypeError(
            f"x: got {x!r}, expected (…, d_in) activations, an ActivationStore or an iterable of blocks"
        )
    if sae.is_transcoder and y is None:
        raise ValueError("y: a transcoder is measured against its targets; pass evaluate(sae, x, y)")
    threads = resolve_threads(num_threads)
    for name, data, kept_as in (("x", x, "hook_name"), ("y", y, "hook_name_out")):
        for difference in mismatches(sae.metadata, data, kept_as):
            warnings.warn(
                f"{name}: the SAE is of {difference}; the numbers say little of either",
                UserWarning,
                stacklevel=2,
            )
    metrics, sample = _measured(sae, x, y, threads)
    fvu_other = None
    if other is not None:
        pair = other if isinstance(other, tuple) else (other, None)
        fvu_other = _measured(sae, _opened(pair[0], "other"), _opened(pair[1], "other"), threads)[0].fvu
    of_controls = {
        name: _measured(control, _opened(rows, "controls"), None, threads)[0].fvu
        for name, (control, rows) in (controls or {}).items()
    }
    found, checked = findings(
        sae,
        metrics,
        sample,
        fvu_other=fvu_other,
        seeds=seeds,
        truth=truth,
        controls=of_controls,
        dead_before=dead_before,
    )
    return replace(metrics, warnings=tuple(found), checked=tuple(checked))


def _opened(data: Any, name: str) -> Any:
    return open_path(data, name) if isinstance(data, (str, Path)) else data


def _measured(sae: SAE, x: Any, y: Any, threads: int) -> tuple[Metrics, Array]:
    """The numbers, and a sample of the rows."""
    n = nnz = 0
    fired = np.zeros(sae.d_sae, np.int64)
    total = np.zeros(sae.d_out)
    squared_error = squared = norm_out = norm_in = inner = squared_out = cosines = 0.0
    sample = np.empty((0, sae.d_in), np.float32)
    shift: Array | None = None  # sums of squares are taken around the first block's mean, to lose no digits
    for rows, targets in _paired(x, y, sae, threads):
        codes, output = sae.encode_and_reconstruct(rows, num_threads=threads)
        out = output.astype(np.float64)
        target = to_float(targets, np.float64)
        if shift is None:
            shift = target.mean(axis=0)
            sample = to_float(rows[np.random.default_rng(0).permutation(len(rows))[:KEPT_ROWS]])
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
    metrics = Metrics(
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
    return metrics, sample


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
