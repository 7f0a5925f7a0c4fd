"""What a store holds, in numbers; and which rows are massive activations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparse_sae.data.store.format import FIRST, PADDING
from sparse_sae.data.store.index import Shards

_PERCENTILES = (0, 1, 5, 25, 50, 75, 95, 99, 100)
_SAMPLE = 4_000_000  # norms kept for percentiles; larger stores are sampled evenly
_BLOCK = 4096


def massive_threshold(norms: ArrayLike, ratio: float = 4.0, spread: float = 8.0) -> float:
    """The norm above which a row counts as a massive activation.

    A few tokens of most language models have norms tens to hundreds of times the usual (Sun et al. 2024,
    "Massive activations in large language models"); a handful dominates any variance. Median and median
    absolute deviation do not feel them:

        log threshold = log median + max(log ratio, spread · 1.4826 · MAD(log norms))

    so a row must be `ratio` times the median and also far outside the spread of ordinary rows, which is wide
    at some hook points (the output of an MLP) and narrow at others (the residual stream).

    Args:
        norms: (n,) Euclidean norms of ordinary rows: no first positions, no padding. Zeros are left out.
        ratio: least multiple of the median norm.
        spread: least distance from the median in standard deviations of the logarithm.

    Returns:
        The threshold, infinity if there is no positive norm.

    >>> round(massive_threshold([100, 110, 90, 105, 95, 100, 20000]))
    400
    """
    if not ratio > 1 or not spread >= 0:
        raise ValueError(f"ratio and spread: got {ratio} and {spread}, expected above 1 and at least 0")
    logs = np.asarray(norms, dtype=np.float64)
    logs = np.log(logs[logs > 0])
    if not logs.size:
        return float("inf")
    median = np.median(logs)
    deviation = 1.4826 * np.median(np.abs(logs - median))
    return float(np.exp(median + max(np.log(ratio), spread * deviation)))


def store_statistics(shards: Shards, d_in: int, ratio: float = 4.0, spread: float = 8.0) -> dict[str, Any]:
    """The `statistics` of a manifest: counts, mean, variance, norms and the cost of storage.

    Args:
        shards: the shards.
        d_in: width of the rows.
        ratio: see `massive_threshold`.
        spread: see `massive_threshold`.

    Returns:
        `counts` (first, padding, massive, usable: rows that are none of these), `massive` (the threshold and
        how it was found), `norm_percentiles` of rows that are neither first nor padding, and over usable rows
        `mean` (d_in), `total_variance` (Σ of the columns' variances) and `storage_fvu` (Σ squared storage
        error ÷ Σ squared distance from the mean).
    """
    step = max(1, sum(shards.counts) // _SAMPLE)
    norms = [shard["norms"][shard["flags"] == 0][::step] for shard in shards]
    ordinary = np.concatenate([np.zeros(0, dtype=np.float32), *norms])
    threshold = massive_threshold(ordinary, ratio, spread)
    counts = {"first": 0, "padding": 0, "massive": 0, "usable": 0}
    total, squares, errors = np.zeros(d_in), 0.0, 0.0
    for shard in shards:
        flags, massive = shard["flags"], shard["norms"] > threshold
        counts["first"] += int(np.count_nonzero(flags & FIRST))
        counts["padding"] += int(np.count_nonzero(flags & PADDING))
        counts["massive"] += int(np.count_nonzero((flags == 0) & massive))
        index = np.flatnonzero((flags == 0) & ~massive)
        counts["usable"] += len(index)
        for begin in range(0, len(index), _BLOCK):
            rows = shard.rows(index[begin : begin + _BLOCK])
            total += rows.sum(axis=0, dtype=np.float64)
            squares += float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
        if "errors" in shard:
            errors += float(shard["errors"][index].sum(dtype=np.float64))
    n = max(counts["usable"], 1)
    mean = total / n
    variance = max(0.0, squares / n - float(mean @ mean))
    percentiles = np.percentile(ordinary, _PERCENTILES).tolist() if ordinary.size else []
    return {
        "counts": counts,
        "massive": {
            "threshold": threshold if np.isfinite(threshold) else None,
            "ratio": ratio,
            "spread": spread,
        },
        "norm_percentiles": {str(p): value for p, value in zip(_PERCENTILES, percentiles, strict=False)},
        "mean": mean.tolist(),
        "total_variance": variance,
        "storage_fvu": errors / n / variance if variance > 0 else 0.0,
    }
