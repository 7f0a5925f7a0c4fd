"""The lesson's data set: 32 features squeezed into 8 dimensions, 2 to 4 of them active in a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = ["Lesson", "lesson"]


@dataclass(frozen=True)
class Lesson:
    """Activations with their true features and codes: x = codes @ features + noise.

    Attributes:
        x: (n_samples, d_in) float32 activations, noise included.
        features: (n_features, d_in) float32 unit directions, the truth to be found.
        codes: (n_samples, n_features) float32 coefficients, 2 to 4 a row. About 3 % of them are negative,
            because the coefficients are drawn from a normal distribution.
        seed: what all of it was drawn from.
    """

    x: NDArray[np.float32]
    features: NDArray[np.float32]
    codes: csr_array
    seed: int


def lesson(
    seed: int = 42, n_samples: int = 20_000, n_features: int = 32, d_in: int = 8, noise: float = 0.05
) -> Lesson:
    """Draw the lesson's data set; with the defaults, always the same numbers.

    The draws come from NumPy's legacy generator (`np.random.RandomState`, the stream of `np.random.seed`,
    whose global state is left alone), in this order: all features; then sample by sample a count in 2..4,
    that many distinct features, and their coefficients 1.5 + 0.8 N(0, 1); then the noise of all samples.

    Args:
        seed: of the legacy generator.
        n_samples: rows of `x`.
        n_features: true features, unit-norm Gaussian directions. At least 4.
        d_in: dimensions they share.
        noise: standard deviation of the Gaussian noise added to every coordinate.

    Raises:
        ValueError: if a size is too small or the noise is negative.

    >>> data = lesson()
    >>> data.x.shape, data.features.shape, data.codes.shape
    ((20000, 8), (32, 8), (20000, 32))
    >>> round(float(data.codes.nnz / len(data.x)), 3)
    2.994
    """
    if n_samples < 1 or d_in < 1:
        raise ValueError(f"n_samples and d_in: got {n_samples} and {d_in}, expected at least 1")
    if n_features < 4:
        raise ValueError(
            f"n_features: got {n_features}, expected at least 4, since up to four are active at once"
        )
    if not noise >= 0:
        raise ValueError(f"noise is a standard deviation and cannot be negative or NaN; got {noise}")
    rng = np.random.RandomState(seed)
    features = rng.randn(n_features, d_in)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    columns, values, row_ends = [], [], [0]
    for _ in range(n_samples):
        count = rng.randint(2, 5)
        active = rng.choice(n_features, count, replace=False)
        coefficients = 1.5 + 0.8 * rng.randn(count)
        order = np.argsort(active)
        columns.append(active[order])
        values.append(coefficients[order])
        row_ends.append(row_ends[-1] + count)
    codes = csr_array(
        (np.concatenate(values), np.concatenate(columns).astype(np.int32), np.asarray(row_ends, np.int32)),
        shape=(n_samples, n_features),
    )
    x = codes @ features + noise * rng.randn(n_samples, d_in)
    return Lesson(x.astype(np.float32), features.astype(np.float32), codes.astype(np.float32), seed)
