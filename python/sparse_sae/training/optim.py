"""Adam over all parameters of a coder, schedules, and the initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from sparse_sae import _kernels
from sparse_sae._arguments import require
from sparse_sae._io.arrays import Array
from sparse_sae.architectures import Gradients
from sparse_sae.architectures.products import dense_weight_grad, is_dense
from sparse_sae.weights import PER_LATENT

Decay: TypeAlias = Literal["linear", "cosine", "constant"]
Center: TypeAlias = Literal["geometric_median", "mean", "zero"]


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a run: linear warm-up, then constant, linear or cosine decay to zero.

    Args:
        lr: the highest rate. warmup: share of all steps. decay: share of all steps at the end, for "linear";
            "cosine" decays from the end of the warm-up; "constant" never.
        kind: as above.

    >>> [round(Schedule(1.0, warmup=0.2, decay=0.5, kind="linear").at(step, 10), 2) for step in (0, 1, 4, 9)]
    [0.5, 1.0, 1.0, 0.2]
    """

    lr: float
    warmup: float
    decay: float
    kind: Decay

    def __post_init__(self) -> None:
        require(self.kind in get_args(Decay), "schedule", self.kind, ", ".join(get_args(Decay)))
        require(0 < self.lr < math.inf, "lr", self.lr, "a positive number, or None for the default")
        require(0 <= self.warmup <= 1, "warmup", self.warmup, "a share of the run, 0 to 1")
        require(0 <= self.decay <= 1, "decay", self.decay, "a share of the run, 0 to 1")

    def at(self, step: int, steps: int) -> float:
        """Rate of the step-th of `steps` steps, counted from 0."""
        warm = self.warmup * steps
        rate = self.lr * min(1.0, (step + 1) / warm) if warm >= 1 else self.lr
        if self.kind == "linear" and self.decay > 0:
            rate *= min(1.0, (steps - step) / (self.decay * steps))
        elif self.kind == "cosine" and step >= warm:
            rate *= 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))
        return rate


@dataclass
class Adam:
    """Adam (Kingma & Ba 2015) on row matrices by fused kernels, on everything else in NumPy.

    Attributes:
        m, v: moments by parameter name. step: updates made.
    """

    betas: tuple[float, float]
    eps: float
    clip_norm: float = 0.0  # 0: gradients of any norm
    m: dict[str, Array] = field(default_factory=dict)
    v: dict[str, Array] = field(default_factory=dict)
    step: int = 0

    def attach(self, params: dict[str, Array]) -> None:
        """Zero moments for every parameter that has none."""
        for name, value in params.items():
            self.m.setdefault(name, np.zeros_like(value))
            self.v.setdefault(name, np.zeros_like(value))

    def update(
        self,
        params: dict[str, Array],
        g: Gradients,
        x: Array,
        vectors: dict[str, Array],
        lr: float,
        *,
        unit_norm: bool,
        num_threads: int,
        sources: tuple[int, ...] = (),
    ) -> float:
        """One step in place. vectors: gradients of the parameters that are not W_enc and W_dec.

        Returns the factor by which gradients were scaled (1 without clipping).
        """
        self.step += 1
        rows: list[dict[str, Any]] = [
            {
                "name": "W_enc",
                "values": g.dz,
                "dense": x if g.inputs is None else g.inputs,
                "unit_norm": False,
            },
            {"name": "W_dec", "values": g.z, "dense": g.out, "unit_norm": unit_norm},
        ]
        if g.outer_enc is not None:
            rows[0].update(outer=g.outer_enc, common=x.sum(axis=0))
        if g.along_dec is not None:
            rows[1].update(along=g.along_dec)
        for row in rows:
            name = row.pop("name")
            row.update(w=params[name], m=self.m[name], v=self.v[name])
        # One (d_sae, d) gradient is stored only where it is cheaper so, or cannot be said otherwise.
        dense = is_dense(g.indptr, g.indices, len(params["W_enc"]))
        by_source = g.along_dec is not None and g.along_dec.ndim == 2
        stored = [
            (row, _stored(row, g, sources, num_threads))
            for row in rows
            if dense or (by_source and "along" in row)
        ]
        fused = [row for row in rows if all(row is not other for other, _ in stored)]
        pattern = (g.indptr, g.indices, len(params["W_enc"]))
        scale = 1.0
        if self.clip_norm:
            squared = _kernels.grad_squared_norm(fused, *pattern, num_threads=num_threads) if fused else 0.0
            squared += sum(_squared(grad, row) for row, grad in stored)
            squared += sum(float((v.astype(np.float64) ** 2).sum()) for v in vectors.values())
            scale = min(1.0, self.clip_norm / max(math.sqrt(squared), 1e-30))
        how: dict[str, Any] = {
            "lr": lr,
            "beta1": self.betas[0],
            "beta2": self.betas[1],
            "eps": self.eps,
            "step": self.step,
            "scale": scale,
            "num_threads": num_threads,
        }
        if fused:
            _kernels.update_rows(fused, *pattern, **how)
        for row, grad in stored:
            _kernels.adam_rows(row["w"], row["m"], row["v"], grad, unit_norm=row["unit_norm"], **how)
        for name, grad in vectors.items():
            self._vector(name, params[name], grad * grad.dtype.type(scale), lr)
        return scale

    def forget(self, latents: Array) -> None:
        """Zero the moments of these latents, in every parameter that `PER_LATENT` names."""
        for moments in (self.m, self.v):
            for name, value in moments.items():
                if name in PER_LATENT:
                    np.moveaxis(value, PER_LATENT[name], 0)[latents] = 0

    def _vector(self, name: str, w: Array, grad: Array, lr: float) -> None:
        beta1, beta2 = self.betas
        m, v = self.m[name], self.v[name]
        m += (1 - beta1) * (grad - m)
        v += (1 - beta2) * (grad * grad - v)
        w -= lr / (1 - beta1**self.step) * m / (np.sqrt(v / (1 - beta2**self.step)) + self.eps)


def _stored(row: dict[str, Any], g: Gradients, sources: tuple[int, ...], num_threads: int) -> Array:
    """The whole gradient of W_enc or W_dec, which `update_rows` otherwise never stores."""
    grad: Array = dense_weight_grad(
        g.indptr, g.indices, row["values"], row["dense"], len(row["w"]), num_threads
    )
    if row.get("outer") is not None:
        grad += row["outer"][:, None] * row["common"]
    along = row.get("along")
    if along is not None:
        grad += (along[:, None] if along.ndim == 1 else np.repeat(along, sources, axis=1)) * row["w"]
    return grad


def _squared(grad: Array, row: dict[str, Any]) -> float:
    if row["unit_norm"]:
        grad = grad - np.einsum("md,md->m", grad, row["w"])[:, None] * row["w"]
    return float((grad.astype(np.float64) ** 2).sum())


def default_lr(d_sae: int, steps: int | None = None) -> float:
    """2e-4 at 16,384 latents, falling with the square root of their number (Gao et al. 2024; constant of sparsify),
    and higher for short runs: times √(16,000 / steps), between 1 and 8.

    A short run must go further with each step. On residual-stream activations of SmolLM2, 60,000 tokens in 234
    steps with 4,608 latents left a held-out FVU of .41 at the plain rate, .33 at twice, .28 at four times and
    .27 at eight times.

    >>> round(default_lr(4096), 6), round(default_lr(4096, steps=4000), 6)
    (0.0004, 0.0008)
    """
    return 2e-4 * math.sqrt(16384 / d_sae) * min(8.0, max(1.0, math.sqrt(16_000 / (steps or 16_000))))


def geometric_median(x: Array, steps: int = 100, tolerance: float = 1e-6) -> Array:
    """The point with the least mean distance to the rows of x (n, d), by Weiszfeld's iteration.

    >>> geometric_median(np.array([[0.0, 0.0], [0.0, 0.0], [9.0, 0.0]])).round(3)
    array([0., 0.])
    """
    rows = x.astype(np.float64)
    center = np.median(rows, axis=0)
    for _ in range(steps):
        weights = 1 / np.maximum(np.linalg.norm(rows - center, axis=1), 1e-12)
        moved = weights @ rows / weights.sum()
        done = np.linalg.norm(moved - center) <= tolerance * (np.linalg.norm(center) + 1e-12)
        center = moved
        if done:
            break
    return center.astype(x.dtype)


def initial_params(
    x: Array,
    y: Array,
    d_sae: int,
    rng: np.random.Generator,
    *,
    tied: bool,
    b_dec: Center,
    skip: bool = False,
) -> dict[str, Array]:
    """Random unit decoder rows; W_enc equal to them (tied) or random unit rows; b_dec at the data's centre."""
    dtype = x.dtype
    centers: dict[str, Callable[[Array], Array]] = {
        "geometric_median": geometric_median,
        "mean": lambda a: np.asarray(a.mean(axis=0)),
        "zero": lambda a: 0 * a[0],
    }
    if b_dec not in centers:
        raise ValueError(f"b_dec_init: got {b_dec!r}, expected {', '.join(centers)}")

    def unit_rows(width: int) -> Array:
        rows = rng.standard_normal((d_sae, width), dtype=np.float32).astype(dtype)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    w_dec = unit_rows(y.shape[1])
    w_enc = w_dec.copy() if tied else unit_rows(x.shape[1])
    center = np.asarray(centers[b_dec](y), dtype)
    params = {"W_enc": w_enc, "W_dec": w_dec, "b_enc": np.zeros(d_sae, dtype), "b_dec": center}
    if not tied:
        # b_dec belongs to the output: the input's centre goes into the encoder's bias.
        params["b_enc"] = -(w_enc @ np.asarray(centers[b_dec](x), dtype))
    if skip:
        params["W_skip"] = np.zeros((y.shape[1], x.shape[1]), dtype)
    return params
