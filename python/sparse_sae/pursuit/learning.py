"""Dictionary learning with pursuit codes: features that a linear encoder cannot separate, found without being
told how many there are.

The recipe, all of it blind to any truth:
1. Several dictionaries from different random starts, each by online dictionary learning (Mairal et al. 2009):
code a batch by the lasso,
   remember codesᵀcodes and codesᵀx, move the unit-norm rows to their best position given these. Then the same
   with reweighted codes, whose smaller bias sharpens the rows.
2. Rows that come back from another start are kept (seed stability), one of each, and polished together.
3. Held-out samples decide the rest, by the length of the message that would send them: the residual, and for
each active latent which
   one it is and its value. A row that shortens the message joins the consensus, one without which it is
   shorter leaves, and of all dictionaries tried the lowest message wins. So the number of features is
   found, not given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sae.pursuit.inference import F32, encode

__all__ = ["Learned", "held_out_loss", "learn"]


SAME = 0.95  # cosine above which two rows count as one direction


@dataclass(frozen=True)
class Learned:
    """A dictionary and the pursuit that goes with it.

    Attributes:
        W_dec: (d_sae, d) float32 unit rows.
        penalty: of the reweighted pursuit, in the units of x.
        stability: (d_sae,) how well each row comes back from the other starts: the mean of its best cosine in
            each of them.
        report: what was tried, with held-out numbers.
    """

    W_dec: F32
    penalty: float
    stability: F32
    report: list[dict[str, Any]] = field(repr=False)

    @property
    def b_dec(self) -> F32:
        return np.zeros(self.W_dec.shape[1], np.float32)

    def encode(self, x: Any) -> Any:
        """Codes (n, d_sae) of x by the reweighted pursuit the dictionary was learned with."""
        return encode(x, self.W_dec, method="reweighted", penalty=self.penalty)


def learn(
    x: Any,
    d_sae: int = 48,
    *,
    penalty: float = 0.15,
    restarts: int = 3,
    n_steps: int = 300,
    n_polish: int = 100,
    batch_size: int = 1024,
    seed: int = 0,
) -> Learned:
    """Learn a dictionary for x = codes @ W_dec with non-negative sparse codes, and choose it by held-out
    samples.

    Args:
        x: (n, d) activations; a tenth of the rows, drawn at random, is held out.
        d_sae: rows of each start's dictionary, more than the features you expect. The result has at most as
            many.
        penalty: of the pursuit, as a part of the root mean square norm of x's rows.
        restarts: random starts, at least 2: stability needs a second opinion.
        n_steps: batches coded by the lasso.
        n_polish: batches coded by the reweighted pursuit, per start and again for the consensus.
        batch_size: rows of a batch.
        seed: of the held-out choice, the starts and the batches.

    >>> from sparse_sae.synthetic import lesson
    >>> data = lesson(n_samples=2000, n_features=8, d_in=8)
    >>> found = learn(data.x, d_sae=10, n_steps=40, n_polish=10, batch_size=256, restarts=2)
    >>> from sparse_sae.match import match
    >>> match(found.W_dec, data.features, chance=0).above(0.9)
    8
    """
    x = np.asarray(x, dtype=np.float32)
    if x.ndim != 2 or len(x) < 10:
        raise ValueError(f"x: got shape {x.shape}, expected (n, d) with n >= 10")
    if not np.isfinite(x).all():
        raise ValueError("x holds NaN or infinity")
    if restarts < 2:
        raise ValueError(f"restarts: got {restarts}, expected at least 2, to measure stability")
    if not 1 <= d_sae <= len(x) or batch_size < 1 or n_steps < 1 or n_polish < 1 or not penalty > 0:
        raise ValueError(
            "d_sae, batch_size, n_steps, n_polish, penalty: got "
            f"{d_sae}, {batch_size}, {n_steps}, {n_polish}, {penalty}, "
            f"expected 1 to {len(x)}, three numbers of at least 1, and a positive one"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(x))
    held_out, train = x[order[: len(x) // 10]], x[order[len(x) // 10 :]]
    absolute = penalty * float(np.sqrt((x.astype(np.float64) ** 2).sum(axis=1).mean()))
    starts = []
    for child in rng.spawn(restarts):
        W = _unit(train[child.choice(len(train), d_sae, replace=False)])
        W = _train(W, train, absolute, n_steps, batch_size, child, polish=False)
        starts.append(_train(W, train, absolute, n_polish, batch_size, child, polish=True))
    candidates = {f"start {i}": W for i, W in enumerate(starts)}
    agreed, alone = _consensus(starts)
    if len(agreed):
        candidates["consensus"] = _train(agreed, train, absolute, n_polish, batch_size, rng, polish=True)
    base = min(candidates.values(), key=lambda W: held_out_loss(held_out, W, absolute)["nats_per_sample"])
    chosen = _choose_rows(base, np.vstack([agreed, alone]), held_out, absolute)
    candidates["chosen rows"] = _train(chosen, train, absolute, n_polish, batch_size, rng, polish=True)
    quality = {name: held_out_loss(held_out, W, absolute) for name, W in candidates.items()}
    report = [{"name": name, "d_sae": len(W), **quality[name]} for name, W in candidates.items()]
    best = min(quality, key=lambda name: quality[name]["nats_per_sample"])
    W = candidates[best]
    others = [start for name, start in candidates.items() if name.startswith("start") and name != best]
    stability = np.mean([(W @ other.T).max(axis=1) for other in others], axis=0).astype(np.float32)
    return Learned(W, absolute, stability, report)


def held_out_loss(x: F32, W: F32, penalty: float) -> dict[str, float]:
    """How surprised sparse codes over `W` are by samples x, in nats a sample: an estimate of -log p(x).

    x = z W + noise: a count l from the histogram of counts, l of M latents, values of variance v, noise of
    variance s^2. Of all supports only the one that pursuit finds is counted; its values are integrated out:
    -log p(l) + log C(M, l) + l/2 log(2 pi e v) + log det(W_S W_Sᵀ)/2 + (D - l)/2 log(2 pi e s^2), for
    support S and D dimensions. More rows make the residual and l smaller but cost more to choose from, so the
    best size is finite.
    """
    from scipy.special import gammaln

    codes = encode(x, W, method="reweighted", penalty=penalty)
    m, d = W.shape
    l0 = np.diff(codes.indptr)
    residual = (x - codes @ W).astype(np.float64)
    s2 = max(float((residual**2).sum()) / max(int(np.maximum(d - l0, 0).sum()), 1), 1e-12)
    v = max(float(codes.data.var()), 1e-12) if codes.nnz else 1.0
    counts = np.bincount(l0)
    log_c = gammaln(m + 1) - gammaln(l0 + 1) - gammaln(m - l0 + 1)
    nats = log_c - np.log(counts[l0] / len(x)) + l0 / 2 * np.log(2 * np.pi * np.e * v)
    nats += np.maximum(d - l0, 0) / 2 * np.log(2 * np.pi * np.e * s2)
    for count in np.unique(l0[l0 > 1]):
        at = np.flatnonzero(l0 == count)
        rows = W[codes.indices[codes.indptr[at][:, None] + np.arange(count)]].astype(np.float64)
        gram = rows @ rows.transpose(0, 2, 1) + 1e-4 * np.eye(
            count
        )  # supports beyond D dimensions are singular
        nats[at] += np.linalg.slogdet(gram)[1] / 2
    variance = float(((x - x.mean(axis=0)).astype(np.float64) ** 2).sum())
    fvu = float((residual**2).sum()) / variance if variance else float("nan")
    return {"nats_per_sample": float(nats.mean()), "l0": float(l0.mean()), "fvu": fvu}


def _train(
    W: F32, x: F32, penalty: float, n_steps: int, batch_size: int, rng: np.random.Generator, polish: bool
) -> F32:
    """Online dictionary learning from W; the memory of old batches grows to the last 50 (30 when
    polishing)."""
    m, d = W.shape
    together, with_x = np.zeros((m, m)), np.zeros((m, d))
    forget_at_most = 1 - 1 / (30 if polish else 50)
    for step in range(n_steps):
        batch = x[rng.integers(0, len(x), batch_size)]
        codes = encode(batch, W, method="reweighted" if polish else "lasso", penalty=penalty).toarray()
        keep = min(1 - 1 / (1 + step / 2), forget_at_most)
        together = keep * together + codes.T @ codes
        with_x = keep * with_x + codes.T @ batch
        W = _move_rows(W, together, with_x, batch, rng)
    return W


def _move_rows(
    W: F32, together: NDArray[np.float64], with_x: NDArray[np.float64], batch: F32, rng: np.random.Generator
) -> F32:
    """Two rounds of block coordinate descent on the unit-norm rows; a row no code used becomes a random
    sample."""
    rows = W.astype(np.float64)
    for _ in range(2):
        for j in range(len(rows)):
            if together[j, j] > 1e-8:
                row = rows[j] + (with_x[j] - together[j] @ rows) / together[j, j]
            else:
                row = batch[rng.integers(len(batch))].astype(np.float64)
            norm = np.linalg.norm(row)
            if norm > 0:
                rows[j] = row / norm
    return rows.astype(np.float32)


def _consensus(starts: list[F32]) -> tuple[F32, F32]:
    """The distinct directions of all starts: those at least two starts found, and those only one did."""
    pool = np.vstack(starts)
    best = np.stack(
        [(pool @ W.T).max(axis=1) for W in starts], axis=1
    )  # (rows, starts), its own start included
    seen_in = (best > SAME).sum(axis=1)
    kept: list[int] = []
    for i in np.lexsort((-best.mean(axis=1), -seen_in)):
        if not kept or (pool[kept] @ pool[i]).max() < SAME:
            kept.append(int(i))
    agreed = seen_in[kept] >= 2
    return pool[kept][agreed], pool[kept][~agreed]


def _choose_rows(W: F32, pool: F32, held_out: F32, penalty: float) -> F32:
    """Drop rows without which the held-out loss is lower, add rows of `pool` with which it is, and drop
    again."""

    def loss(rows: F32) -> float:
        return held_out_loss(held_out, rows, penalty)["nats_per_sample"]

    def drop(W: F32, lowest: float) -> tuple[F32, float]:
        for row in W[::-1]:
            smaller = W[(row != W).any(axis=1)]
            if len(smaller) and (nats := loss(smaller)) < lowest:
                W, lowest = smaller, nats
        return W, lowest

    W, lowest = drop(W, loss(W))
    for row in pool[(pool @ W.T).max(axis=1) < SAME]:
        larger = np.vstack([W, row])
        if (nats := loss(larger)) < lowest:
            W, lowest = larger, nats
    return drop(W, lowest)[0]


def _unit(rows: F32) -> F32:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1), dtype=np.float32)
