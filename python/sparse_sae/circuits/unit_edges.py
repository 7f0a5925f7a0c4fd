"""Edges of feature circuits: what a source's change adds to the metric through one target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_sae.circuits.effects import Side, sides
from sparse_sae.circuits.pairs import Batch, Passes, chunks
from sparse_sae.circuits.units import Units

Place = tuple[int, int]  # position or -1, latent or -1 for the error
_ROWS = 16


def edges_between(
    passes: Passes,
    below: Units,
    above: Units,
    batches: Sequence[Batch],
    targets: Sequence[Place],
    sources: Sequence[Place],
    separate: bool,
) -> NDArray[np.float64]:
    """(targets, sources) mean over pairs of (∂m/∂d · ∂d/∂u) (u_patch - u_clean), one backward pass a target and pair.

    Raises:
        NotImplementedError: units whose value is not linear in the activation where they are active.
    """
    total = sum(map(len, batches))
    out = np.zeros((len(targets), len(sources)))
    for batch in batches:
        clean, patch = passes.read(batch.clean), passes.read(batch.patch)
        gradient = passes.gradients(batch.clean, batch)[0][above.hook]
        upper = sides(above, clean[above.hook])
        _require_linear(above, clean[above.hook], upper)
        lower, other = sides(below, clean[below.hook]), sides(below, patch[below.hook])
        change, error = (other.codes - lower.codes).tocsr(), other.error - lower.error
        count, n = batch.clean.shape
        for b in range(count):
            rows = slice(b * n, (b + 1) * n)
            weights = _weights(above, upper, gradient[b], rows, targets)
            dense = _moves(change[rows], error[rows], below, sources)
            for part in chunks(len(targets), _ROWS):
                w = torch.from_numpy(weights[part])

                def scalar(x: Tensor, w: Tensor = w) -> Tensor:
                    return (x * w).sum((1, 2))

                ids = batch.clean[b : b + 1].expand(len(w), -1)
                pulled = passes.pull(ids, below.hook, above.hook, scalar)
                for number, (position, _latent) in enumerate(sources):
                    move = dense[number]
                    if separate:
                        out[part, number] += pulled[:, position] @ move[position] / total
                    else:
                        out[part, number] += np.einsum("rtd,td->r", pulled, move) / total
    return out


def _weights(
    units: Units, side: Side, gradient: NDArray[np.float32], rows: slice, targets: Sequence[Place]
) -> NDArray[np.float32]:
    """(targets, T, D): each target's share of m as a linear function of the activation."""
    codes = side.codes[rows].tocsr()
    out = np.zeros((len(targets), *gradient.shape), np.float32)
    by_latent = codes.tocsc()
    rest: NDArray[np.float32] | None = None
    for number, (position, latent) in enumerate(targets):
        if latent >= 0:
            entries = slice(by_latent.indptr[latent], by_latent.indptr[latent + 1])
            for t in by_latent.indices[entries]:
                if position in (-1, t):
                    out[number, t] = (gradient[t] @ units.directions[latent]) * units.readers[latent]
            continue
        if rest is None:  # what the units do not carry of the gradient
            rest = gradient.copy()
            rest[0] = 0
            for t in range(1, len(gradient)):
                active = codes.indices[codes.indptr[t] : codes.indptr[t + 1]]
                rest[t] -= (units.directions[active] @ gradient[t]) @ units.readers[active]
        if position < 0:
            out[number] = rest
        else:
            out[number, position] = rest[position]
    return out


def _moves(
    change: object, error: NDArray[np.float32], units: Units, sources: Sequence[Place]
) -> NDArray[np.float32]:
    """(sources, T, D): how the activation moves where a source goes to its patch value."""
    by_latent = change.tocsc()  # type: ignore[attr-defined]
    out = np.zeros((len(sources), *error.shape), np.float32)
    for number, (_position, latent) in enumerate(sources):
        if latent < 0:
            out[number] = error
            continue
        entries = slice(by_latent.indptr[latent], by_latent.indptr[latent + 1])
        for t, value in zip(by_latent.indices[entries], by_latent.data[entries], strict=True):
            out[number, t] = value * units.directions[latent]
    return out


def _require_linear(units: Units, x: NDArray[np.float32], side: Side) -> None:
    if units.sae is None:
        return
    flat = x.reshape(-1, x.shape[-1])
    rows = np.repeat(np.arange(len(flat)), np.diff(side.codes.indptr))
    centre = units.sae.b_dec if units.sae.apply_b_dec_to_input else np.zeros_like(units.offset)
    j = side.codes.indices
    linear = np.einsum("nd,nd->n", flat[rows] - centre, units.readers[j]) + units.sae.b_enc[j]
    if len(j) and np.abs(linear - side.codes.data).max() > 1e-3 * np.abs(side.codes.data).max():
        raise NotImplementedError(
            f"dictionaries: {units.hook}: {units.sae!r} has codes that are not W_enc x + b_enc where active, so no "
            "edge into them is linear; use TopK, BatchTopK, JumpReLU or L1"
        )
