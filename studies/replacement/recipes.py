"""An affine map for what is linear, a dictionary for the rest: ReSAE (arXiv 2605.27819), and two ways beside it.

`plain` is an SAE of a hook point. `residual` predicts a hook point of the residual stream from one below by an affine
map and gives an SAE what is left. `staged` does that to a transcoder: the affine map from what an MLP reads to what it
writes is fitted first, and a transcoder without skip is trained on the rest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_sae import SAE, TopK, load, train
from sparse_sae._io.atomic import write_json
from sparse_sae.circuits import InPlace
from sparse_sae.coders import Coder
from sparse_sae.lm.steering.reconstruction import reconstruction

Array = NDArray[np.float32]
_RIDGE = 1e-4  # of the inputs' mean variance: hook points have directions in which nothing varies


@dataclass(frozen=True)
class Affine:
    """y = x weight + bias, by least squares."""

    weight: Array
    bias: Array

    @staticmethod
    def fit(x: Array, y: Array) -> Affine:
        """The map of x (n, D) to y (n, D') of least squared error."""
        mean_x, mean_y = x.mean(0, dtype=np.float64), y.mean(0, dtype=np.float64)
        a = x - mean_x.astype(np.float32)
        square = (a.T @ a).astype(np.float64)
        square[np.diag_indices_from(square)] += _RIDGE * np.trace(square) / len(square)
        weight = np.linalg.solve(square, (a.T @ (y - mean_y.astype(np.float32))).astype(np.float64))
        return Affine(weight.astype(np.float32), (mean_y - mean_x @ weight).astype(np.float32))

    def __call__(self, x: Any) -> Any:
        """Of rows, as an array or a tensor."""
        if isinstance(x, torch.Tensor):
            return x.float() @ torch.from_numpy(self.weight) + torch.from_numpy(self.bias)
        return x @ self.weight + self.bias


@dataclass(frozen=True)
class Part:
    """A trained dictionary, the affine map beneath it (None: there is none), and held-out scores."""

    sae: SAE
    affine: Affine | None
    scores: dict[str, Any]


def made(
    out: Path, x: tuple[Array, Array] | None, y: tuple[Array, Array], coder: str, training: dict[str, Any]
) -> Part:
    """Train, or read what an earlier run left in `out`.

    Args:
        out: a directory for it. coder: "sae" of what the affine map left, or "transcoder" from x to that.
        x: what the affine map reads, rows to fit and held-out rows; None: there is no map.
        y: what is to be reconstructed, the same rows.
        training: arguments of `train`; k among them.
    """
    if not (out / "scores.json").exists():
        affine = None if x is None else Affine.fit(x[0], y[0])
        rest = [b if affine is None else b - affine(a) for a, b in zip(x or y, y, strict=True)]
        options = {name: value for name, value in training.items() if name != "k"}
        data: Any = (x[0], rest[0]) if coder == "transcoder" and x is not None else rest[0]
        sae = train(data, TopK(k=training["k"]), coder=Coder(coder, False), **options).sae
        read = x[1] if coder == "transcoder" and x is not None else rest[1]
        total = float(((y[1] - y[1].mean(0)) ** 2).sum(dtype=np.float64))
        scores = {
            "rows": len(y[1]),
            "fvu": float(((rest[1] - sae.reconstruct(read)) ** 2).sum(dtype=np.float64)) / total,
            "fvu_affine": None if affine is None else float((rest[1] ** 2).sum(dtype=np.float64)) / total,
        }
        sae.save(out / "sae")
        if affine is not None:
            np.savez(out / "affine.npz", weight=affine.weight, bias=affine.bias)
        write_json(out / "scores.json", scores)
    map_file = out / "affine.npz"
    maps = dict(np.load(map_file)) if map_file.exists() else None
    return Part(
        load(out / "sae"),
        None if maps is None else Affine(**maps),
        json.loads((out / "scores.json").read_text()),
    )


def standing_in(part: Part, reads: str, writes: str, coder: str, linear: bool = False) -> InPlace:
    """What stands in for `writes` when a model runs; linear: the affine map alone, where there is one."""
    sae, affine = part.sae, part.affine
    if affine is None:
        return InPlace(writes, writes, lambda read, _: reconstruction(sae, read))
    if linear:
        return InPlace(reads, writes, lambda read, _: affine(read))
    if coder == "transcoder":
        return InPlace(reads, writes, lambda read, _: affine(read) + reconstruction(sae, read))

    def rebuild(read: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
        linearly = affine(read)
        found: torch.Tensor = linearly + reconstruction(sae, written.float() - linearly)
        return found

    return InPlace(reads, writes, rebuild)
