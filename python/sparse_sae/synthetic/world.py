"""Superposed activations from features you describe, block by block, as many as you like."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from sparse_sae._arguments import whole
from sparse_sae.synthetic.directions import F32, push_apart, random_directions
from sparse_sae.synthetic.firing import Firing, Hierarchy, zipf

__all__ = ["Samples", "Stream", "Superposition", "superposition", "synthsaebench_16k"]


@dataclass(frozen=True)
class Samples:
    """x (n, d_in) float32 activations and the true codes (n, n_features): x = codes @ features + bias +
    noise."""

    x: F32
    codes: csr_array


class Superposition:
    """A world of known features, from `superposition` or a preset. Blocks of samples are drawn on demand and
    never stored.

    Attributes:
        features: (n_features, d_in) float32 unit directions.
        bias: (d_in,) float32, added to every sample.
        probability: (n_features,) the firing probabilities asked for.
        parent: (n_features,) parent of each feature in the hierarchy, -1 for none.
        noise: standard deviation of the Gaussian noise on every coordinate of x.
        seed: everything was and will be drawn from it.
    """

    def __init__(
        self,
        features: F32,
        bias: F32,
        probability: NDArray[np.float64],
        firing: Firing,
        noise: float,
        seed: int,
    ) -> None:
        self.features, self.bias, self.probability, self.noise, self.seed = (
            features,
            bias,
            probability,
            noise,
            seed,
        )
        self._firing = firing
        self.parent = firing.parent

    def block(self, index: int, n: int = 1024, *, num_threads: int | None = None) -> Samples:
        """Samples of block `index` (0, 1, ...): the same for the same seed, index and n, whatever was drawn
        before, and for any number of threads (None: all cores)."""
        from sparse_sae import _kernels
        from sparse_sae._threads import resolve_threads

        if index < 0 or n < 1:
            raise ValueError(f"index and n: got {index} and {n}, expected at least 0 and at least 1")
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(1, index)))
        threads = resolve_threads(num_threads)
        rows, columns, values = self._firing.draw(n, rng, threads)
        indptr = np.searchsorted(rows, np.arange(n + 1)).astype(np.int32)
        indices = columns.astype(np.int32)
        x: F32 = _kernels.decode(indptr, indices, values, self.features, self.bias, num_threads=threads)
        if self.noise:
            x += np.float32(self.noise) * rng.standard_normal(x.shape, dtype=np.float32)
        codes = csr_array((values, indices, indptr), shape=(n, len(self.features)))
        return Samples(x, codes)

    def stream(
        self, n: int | None = None, block_size: int = 1024, start: int = 0, *, num_threads: int = 1
    ) -> Stream:
        """Activations only, for `sparse_sae.train`: an iterable over x of blocks start, start + 1, ..., n
        rows in all.

        n None never ends. Iterating again begins again. To evaluate on samples that training has not seen,
        start beyond its last block.

        Args:
            n: rows in all. block_size: rows of a block. start: the first block's index.
            num_threads: 1 draws a block when it is asked for. More draw as many blocks ahead, each in a thread
                of its own, while the reader works; the blocks are the same.
        """
        return Stream(
            self,
            None if n is None else whole("n", n, 0),
            whole("block_size", block_size, 1),
            whole("start", start, 0),
            whole("num_threads", num_threads, 1),
        )


@dataclass(frozen=True)
class Stream:
    """Blocks of a world's activations, which `Superposition.stream` makes: an iterable that can begin again."""

    world: Superposition
    n: int | None
    block_size: int
    start: int
    num_threads: int = 1

    def __iter__(self) -> Iterator[F32]:
        left = self.n
        with closing(self._blocks()) as blocks:
            while left is None or left > 0:
                x = next(blocks)
                yield x if left is None else x[:left]
                left = None if left is None else left - len(x)

    def _blocks(self) -> Generator[F32, None, None]:
        if self.num_threads == 1:
            for index in count(self.start):
                yield self.world.block(index, self.block_size).x
        pool = ThreadPoolExecutor(self.num_threads, thread_name_prefix="sparse_sae-world")
        try:
            coming: deque[Future[F32]] = deque()
            for index in count(self.start):
                coming.append(pool.submit(self._drawn, index))
                if len(coming) > self.num_threads:
                    yield coming.popleft().result()
        finally:  # also where the reader stops
            pool.shutdown(wait=True, cancel_futures=True)

    def _drawn(self, index: int) -> F32:
        return self.world.block(index, self.block_size, num_threads=1).x


def superposition(
    n_features: int,
    d_in: int,
    *,
    probability: ArrayLike = 0.01,
    mean: ArrayLike = 1.0,
    std: ArrayLike = 0.0,
    correlation_rank: int = 0,
    correlation_scale: float = 0.1,
    hierarchy: Hierarchy | None = None,
    noise: float = 0.0,
    bias_norm: float = 0.0,
    apart_steps: int = 0,
    apart_lr: float = 0.01,
    seed: int = 0,
) -> Superposition:
    """Describe a world of `n_features` features that share `d_in` dimensions.

    Args:
        n_features: true features, random unit directions.
        d_in: dimensions.
        probability: of firing, one number or (n_features,); see `zipf`. With a hierarchy: of being drawn
            while the parent fires, or with `compensate` of firing at all.
        mean, std: magnitudes are N(mean, std²) when positive, else the feature does not fire; numbers or
            (n_features,).
        correlation_rank: rank of the Gaussian copula that makes features fire together; 0: independently.
        correlation_scale: standard deviation of the copula's factors; rank · scale² is the share of a
            feature's threshold noise that is shared, and is held below 0.99.
        hierarchy: trees in which children fire only under their parents.
        noise: standard deviation of the noise on every coordinate.
        bias_norm: norm of a random bias added to all samples.
        apart_steps, apart_lr: Adam steps that push the directions apart (`push_apart`); 0 leaves them random.
        seed: of everything.

    >>> world = superposition(500, 64, probability=zipf(500, 1.0, 0.3, 0.005), std=0.2, seed=1)
    >>> samples = world.block(0, 2000)
    >>> samples.x.shape, samples.codes.shape
    ((2000, 64), (2000, 500))
    >>> expected, fired = world.probability.sum(), samples.codes.nnz / 2000
    >>> bool(abs(fired - expected) < 0.2)
    True
    >>> bool((world.block(0, 2000).x == samples.x).all())
    True
    """
    if n_features < 1 or d_in < 1:
        raise ValueError(f"n_features and d_in: got {n_features} and {d_in}, expected at least 1")
    p = _per_feature("probability", probability, n_features)
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"probability: got values from {p.min()} to {p.max()}, expected values in [0, 1]")
    means, stds = _per_feature("mean", mean, n_features), _per_feature("std", std, n_features)
    if stds.min() < 0 or not noise >= 0 or bias_norm < 0:
        raise ValueError(
            f"std, noise and bias_norm: got {stds.min()}, {noise} and {bias_norm}, expected at least 0"
        )
    if correlation_rank < 0 or correlation_scale < 0 or apart_steps < 0 or not apart_lr > 0:
        raise ValueError(
            f"correlation_rank, correlation_scale, apart_steps, apart_lr: got {correlation_rank}, {correlation_scale}, "
            f"{apart_steps}, {apart_lr}, expected three numbers of at least 0, and a positive one"
        )
    if hierarchy is not None and hierarchy.scale_by_parent and means.min() <= 0:
        raise ValueError("mean: got 0 or less, expected positive values, by which scale_by_parent divides")
    if hierarchy is not None and hierarchy.compensate and p.min() <= 0:
        raise ValueError("probability: got 0, expected positive values, by which compensate divides")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    features = random_directions(n_features, d_in, rng)
    bias = bias_norm * random_directions(1, d_in, rng)[0]
    factors = None
    if correlation_rank:
        factors = np.float32(correlation_scale) * rng.standard_normal(
            (n_features, correlation_rank), dtype=np.float32
        )
        norms = np.linalg.norm(factors, axis=1, keepdims=True)
        factors *= np.minimum(1, np.sqrt(0.99) / np.maximum(norms, 1e-30)).astype(np.float32)
    if apart_steps:
        features = push_apart(features, apart_steps, apart_lr)
    firing = Firing(p, means, stds, factors, hierarchy, rng)
    return Superposition(features, bias.astype(np.float32), p, firing, noise, seed)


def synthsaebench_16k(
    *,
    scale_by_parent: bool = False,
    n_features: int = 16_384,
    d_in: int = 768,
    apart_steps: int = 100,
    seed: int = 42,
) -> Superposition:
    """The world of SynthSAEBench-16k (arXiv 2602.14687): same description, own random draws.

    16,384 features in 768 dimensions, Zipf probabilities (exponent .5, .4 to 5e-4), 128 trees of branching 4
    and depth 3 with exclusive children and compensated probabilities, low-rank correlation (rank 25, scale
    .1), magnitudes of mean 5 to 4 and standard deviation |N(.5, .5)|, bias of norm .5, directions pushed
    apart by 100 steps (which takes about a minute).

    Args:
        scale_by_parent: children's magnitudes follow their parent's. The paper's text and its script say
            True, the released artefact was made with False; scores differ, so say which you used.
        n_features, d_in, apart_steps: the benchmark's, unless you want a smaller relative; trees keep their
            shape.
        seed: of everything.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    return superposition(
        n_features,
        d_in,
        probability=zipf(n_features, 0.5, 0.4, 5e-4),
        mean=np.linspace(5, 4, n_features),
        std=np.abs(rng.normal(0.5, 0.5, n_features)),
        correlation_rank=25,
        correlation_scale=0.1,
        hierarchy=Hierarchy(128, 4, 3, exclusive=1.0, compensate=True, scale_by_parent=scale_by_parent),
        bias_norm=0.5,
        apart_steps=apart_steps,
        apart_lr=3e-4,
        seed=seed,
    )


def _per_feature(name: str, value: Any, n: int) -> NDArray[np.float64]:
    values = np.asarray(value, dtype=np.float64)
    if values.ndim == 0:
        values = np.full(n, float(values))
    if values.shape != (n,) or not np.isfinite(values).all():
        raise ValueError(f"{name}: got shape {values.shape}, expected one finite number or {n} of them")
    return values
