"""Superposition, shown: the ReLU toy models of Elhage et al. 2022 ("Toy Models of Superposition"), many
trained at once.

x in [0, 1]^n, each feature absent with probability S = 1 - density;  h = W x in m < n dimensions;
x̂ = ReLU(Wᵀ h + b);  L = sum_i importance_i (x_i - x̂_i)².
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ToyModel", "effective_features"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class ToyModel:
    """A batch of toy models that share their sizes and differ in density, importance or only in their random
    start.

    Args:
        n_features: n, inputs. n_hidden: m, dimensions they share.
        density: probability that a feature is present, one number or one for each instance.
        importance: weights of the squared errors: one number, (n,), or (instances, n).
        instances: models trained side by side; None takes as many as density or importance name.
        seed: of starts and data.

    Attributes:
        W: (instances, m, n) float32; column i is the direction of feature i. b: (instances, n).
        loss: (instances,) the loss per feature at the end of `train`, on fresh samples; NaN before.

    >>> model = ToyModel(2, 1, density=0.05, instances=4).train(600)
    >>> best = model.loss.argmin()  # a start with both features on one side stays there: take the best of several
    >>> model.dimensionality()[best].round(1).tolist()  # one dimension for two features: an antipodal pair
    [0.5, 0.5]
    """

    def __init__(
        self,
        n_features: int,
        n_hidden: int,
        *,
        density: ArrayLike = 0.1,
        importance: ArrayLike = 1.0,
        instances: int | None = None,
        seed: int = 0,
    ) -> None:
        if n_features < 1 or n_hidden < 1:
            raise ValueError(f"n_features and n_hidden: got {n_features} and {n_hidden}, expected at least 1")
        p, weight = np.asarray(density, dtype=np.float32), np.asarray(importance, dtype=np.float32)
        named = [*p.shape[:1], *weight.shape[: weight.ndim - 1]]
        count = instances if instances is not None else (named[0] if named else 1)
        if count < 1 or any(n != count for n in named) or p.ndim > 1 or weight.ndim > 2:
            raise ValueError(
                f"density is one number or one for each instance, importance one number, ({n_features},) or "
                f"(instances, {n_features}); got shapes {p.shape} and {weight.shape} for {count} instances"
            )
        if weight.ndim and weight.shape[-1] != n_features:
            raise ValueError(
                f"importance: got {weight.shape[-1]} values, expected {n_features}, one for each feature"
            )
        if not (np.all(p > 0) and np.all(p <= 1)):
            raise ValueError(f"density: got {p}, expected a value in (0, 1]")
        if not (np.all(np.isfinite(weight)) and np.all(weight >= 0)):
            raise ValueError("importance cannot be negative, NaN or infinite")
        self.density: F32 = np.broadcast_to(p, (count,)).copy()
        self.importance: F32 = np.broadcast_to(weight, (count, n_features)).copy()
        self._rng = np.random.default_rng(seed)
        spread = np.float32((2 / (n_features + n_hidden)) ** 0.5)
        self.W: F32 = spread * self._rng.standard_normal((count, n_hidden, n_features), dtype=np.float32)
        self.b: F32 = np.zeros((count, n_features), np.float32)
        self.loss: F64 = np.full(count, np.nan)

    def sample(self, n: int) -> F32:
        """(instances, n, n_features) fresh inputs: uniform in [0, 1] where present, else 0."""
        shape = (len(self.W), n, self.W.shape[2])
        present = self._rng.random(shape, dtype=np.float32) < self.density[:, None, None]
        return self._rng.random(shape, dtype=np.float32) * present

    def hidden(self, x: F32) -> F32:
        """h = W x: (instances, n, n_hidden) from (instances, n, n_features)."""
        h: F32 = x @ self.W.transpose(0, 2, 1)
        return h

    def reconstruct(self, x: F32) -> F32:
        """x̂ = ReLU(Wᵀ W x + b), the shape of x."""
        out: F32 = np.maximum(self.hidden(x) @ self.W + self.b[:, None], 0)
        return out

    def train(self, n_steps: int = 5000, batch_size: int = 1024, lr: float = 1e-2) -> ToyModel:
        """Adam with a learning rate that falls to 0 along a cosine; returns self. Calling again trains
        further, from a new schedule."""
        if n_steps < 1 or batch_size < 1 or not lr > 0:
            raise ValueError(
                f"n_steps, batch_size and lr: got {n_steps}, {batch_size} and {lr}, expected positive numbers"
            )
        params = (self.W, self.b)
        moments = [(np.zeros_like(p), np.zeros_like(p)) for p in params]
        for step in range(1, n_steps + 1):
            rate = lr * 0.5 * (1 + np.cos(np.pi * (step - 1) / n_steps))
            for p, g, (first, second) in zip(
                params, self.gradients(self.sample(batch_size)), moments, strict=True
            ):
                first += np.float32(0.1) * (g - first)
                second += np.float32(0.001) * (g * g - second)
                update = first / (np.sqrt(second / np.float32(1 - 0.999**step)) + np.float32(1e-8))
                p -= np.float32(rate / (1 - 0.9**step)) * update
        x = self.sample(
            int(np.clip((1 << 22) // self.b.size, 4096, 1 << 16))
        )  # rare features need many samples
        self.loss = (self.importance[:, None] * (x - self.reconstruct(x)) ** 2).mean(
            axis=(1, 2), dtype=np.float64
        )
        return self

    def gradients(self, x: F32) -> tuple[F32, F32]:
        """Of the mean loss over the batch x, by W and by b."""
        h = self.hidden(x)
        pre = h @ self.W + self.b[:, None]
        error = (np.maximum(pre, 0) - x) * (pre > 0) * self.importance[:, None] * np.float32(2 / x.shape[1])
        back = error @ self.W.transpose(0, 2, 1)
        return h.transpose(0, 2, 1) @ error + back.transpose(0, 2, 1) @ x, error.sum(axis=1)

    def norms(self) -> F64:
        """(instances, n) |W_i|: about 1 for a feature that is represented, 0 for one that is not."""
        lengths: F64 = np.linalg.norm(self.W.astype(np.float64), axis=1)
        return lengths

    def dimensionality(self) -> F64:
        """(instances, n) D_i = |W_i|² / sum_j (Ŵ_i . W_j)²: the share of a dimension that feature i has to
        itself.

        1 for a dimension of its own, 1/2 in an antipodal pair, 2/3 in a triangle, 2/5 in a pentagon, 3/4 in a
        tetrahedron; 0 where the feature is not represented.
        """
        W = self.W.astype(np.float64)
        squared = (W**2).sum(axis=1)
        overlaps = ((W.transpose(0, 2, 1) @ W) ** 2).sum(axis=2)
        shares: F64 = np.divide(squared**2, overlaps, out=np.zeros_like(squared), where=squared > 1e-6)
        return shares

    def interference(self) -> F64:
        """(instances, n) sum over j != i of (Ŵ_i . W_j)²: what other features add to feature i's
        direction."""
        W = self.W.astype(np.float64)
        squared = (W**2).sum(axis=1)
        products = (W.transpose(0, 2, 1) @ W) ** 2
        others = products.sum(axis=2) - squared**2
        added: F64 = np.divide(others, squared, out=np.zeros_like(squared), where=squared > 1e-6)
        return added

    def dimensions_per_feature(self) -> F64:
        """(instances,) m / |W|_F²: 1 without superposition, lower with it (Elhage et al., section 4)."""
        return np.asarray(self.W.shape[1] / (self.W.astype(np.float64) ** 2).sum(axis=(1, 2)))

    def polysemanticity(self) -> F64:
        """(instances, m) how many features each hidden unit serves; see `effective_features`."""
        return np.stack([effective_features(W.T) for W in self.W])


def effective_features(responses: Any) -> F64:
    """How many features a unit serves, from its responses to each feature alone: 1 is monosemantic.

    The participation ratio (sum_i r_i²)² / sum_i r_i⁴: n equal responses count as n, and small ones hardly
    count. It takes the hidden units of a toy model (`W.T`, response to one feature at a time) and the latents
    of an SAE alike:

    >>> effective_features([[1, 1, 0], [0, 1, 0], [0, 0, 0]]).round(2).tolist()
    [1.0, 2.0, 0.0]

    Args:
        responses: (n_features, n_units); for an SAE `sae.encode(scale * features)`, sparse or dense.

    Returns:
        (n_units,) effective numbers, 0 for a unit that responds to nothing.
    """
    dense = responses.toarray() if hasattr(responses, "toarray") else responses
    squared = np.asarray(dense, dtype=np.float64) ** 2
    if squared.ndim != 2:
        raise ValueError(f"responses: got shape {squared.shape}, expected (n_features, n_units)")
    fourth = (squared**2).sum(axis=0)
    total = squared.sum(axis=0) ** 2
    effective: F64 = np.divide(total, fourth, out=np.zeros_like(total), where=fourth > 0)
    return effective
