"""Indirect effects of units on a metric, and of units on units, over pairs of prompts (Marks et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae.circuits.pairs import Batch, Passes, chunks
from sparse_sae.circuits.units import Units

Method = Literal["attribution", "integrated", "exact"]
METHODS: tuple[Method, ...] = ("attribution", "integrated", "exact")


@dataclass
class Effects:
    """Mean indirect effects at one hook point: units (P, M), errors (P,); P positions, or 1 where they are summed."""

    units: NDArray[np.float64]
    errors: NDArray[np.float64]


@dataclass
class Side:
    """Codes (B T, M) and errors (B T, D) of one side of a batch at one hook point; the first position is empty."""

    codes: csr_array
    error: NDArray[np.float32]


def sides(units: Units, x: NDArray[np.float32]) -> Side:
    """Activations (B, T, D) cut into units and error."""
    flat = x.reshape(-1, x.shape[-1])
    codes = units.encode(flat)
    error = units.error(flat, codes)
    first = np.zeros(x.shape[:2], bool)
    first[:, 0] = True
    error[first.ravel()] = 0
    rows = np.repeat(np.arange(len(flat)), np.diff(codes.indptr))
    codes.data[first.ravel()[rows]] = 0
    codes.eliminate_zeros()
    return Side(codes, error)


def effects(
    passes: Passes,
    units: Sequence[Units],
    batches: Sequence[Batch],
    method: Method,
    steps: int,
    separate: bool,
) -> list[Effects]:
    """Indirect effects m(unit as in the patch prompt) - m of all units with any, by one of three methods.

    attribution: ∇m · (a_patch - a_clean), the gradient at the clean prompt. integrated: with the gradient averaged over
    activations of that hook point at α = 0, 1/steps, … of the way. exact: one pass for each unit at each position.
    """
    total = sum(map(len, batches))
    n = int(batches[0].clean.shape[1]) if separate else 1
    out = [Effects(np.zeros((n, len(u))), np.zeros(n)) for u in units]
    for batch in batches:
        clean, patch = passes.read(batch.clean), passes.read(batch.patch)
        gradients = None
        if method == "attribution":
            gradients = passes.gradients(batch.clean, batch)[0]
        for u, sums in zip(units, out, strict=True):
            a, b = (sides(u, x[u.hook]) for x in (clean, patch))
            change, error = csr_array(b.codes - a.codes), b.error - a.error
            if method == "exact":
                values, error_values = _exact(passes, batch, u, change, error)
            else:
                g = (
                    _integrated(passes, batch, u.hook, clean[u.hook], patch[u.hook], steps)
                    if gradients is None
                    else gradients[u.hook]
                )
                flat = g.reshape(-1, g.shape[-1])
                values, error_values = times_gradient(change, u.directions, flat), (error * flat).sum(1)
            add(sums, change, values, error_values, len(batch), total)
    return out


def times_gradient(
    change: csr_array, directions: NDArray[np.float32], gradient: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(nnz,) of each entry of a change (N, M): entry · ⟨direction, gradient⟩."""
    out = np.zeros(change.nnz)
    for row in range(change.shape[0]):
        here = slice(change.indptr[row], change.indptr[row + 1])
        out[here] = change.data[here] * (directions[change.indices[here]] @ gradient[row])
    return out


def add(
    sums: Effects, change: csr_array, values: NDArray[Any], errors: NDArray[Any], rows: int, total: int
) -> None:
    """Add the values of a batch's entries, and of its errors, to means over `total` pairs."""
    positions = change.shape[0] // rows
    at = np.repeat(np.arange(change.shape[0]) % positions, np.diff(change.indptr))
    n = len(sums.errors)
    np.add.at(sums.units, (at if n > 1 else np.zeros_like(at), change.indices), values / total)
    by_position = errors.reshape(rows, positions).sum(0) / total
    sums.errors += by_position if n > 1 else by_position.sum()


def _integrated(
    passes: Passes, batch: Batch, hook: str, clean: NDArray[Any], patch: NDArray[Any], steps: int
) -> NDArray[np.float32]:
    total = np.zeros_like(clean)
    for step in range(steps):
        start = torch.from_numpy(clean + step / steps * (patch - clean))
        total += passes.gradients(batch.clean, batch, {hook: start})[0][hook] / steps
    return total


def _exact(
    passes: Passes, batch: Batch, units: Units, change: csr_array, error: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    count, n = batch.clean.shape
    size = max(8, count)
    values, errors = np.zeros(change.nnz), np.zeros(len(error))
    for b in range(count):
        rows = np.arange(b * n, (b + 1) * n)
        entries = np.arange(change.indptr[b * n], change.indptr[(b + 1) * n])
        at = np.repeat(np.arange(n), np.diff(change.indptr[b * n : (b + 1) * n + 1]))
        vectors = change.data[entries, None] * units.directions[change.indices[entries]]
        live = np.flatnonzero(error[rows].any(1))
        places = np.concatenate([at, live])
        moves = np.concatenate([vectors, error[rows][live]])
        found = np.zeros(len(places))
        for part in chunks(len(places), size):
            found[part] = _moved(passes, batch, b, units.hook, places[part], moves[part])
        values[entries], errors[rows[live]] = found[: len(entries)], found[len(entries) :]
    return values, errors


def _moved(
    passes: Passes, batch: Batch, b: int, hook: str, places: NDArray[Any], moves: NDArray[Any]
) -> NDArray[np.float64]:
    """What each move at a place changes; the row without any goes along, so that rounding is shared."""
    rows = 1 + len(places)
    change = torch.zeros((rows, batch.clean.shape[1], moves.shape[1]))
    change[torch.arange(1, rows), torch.from_numpy(places)] = torch.from_numpy(moves).float()
    one = Batch(*(x[[b] * rows] for x in (batch.number, batch.clean, batch.patch, batch.right, batch.wrong)))
    m = passes.values(one.clean, one, {hook: lambda x: x + change.to(x.dtype)})
    out: NDArray[np.float64] = m[1:] - m[0]
    return out
