"""Automatic labels without a language model: the tokens a latent fires on, or after, and the evidence for that."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from sparse_sae._io.arrays import Array
from sparse_sae.browser.contexts import Stream
from sparse_sae.browser.spill import Entries

_WORDS = 3  # tokens named in a label
_LEAST = 0.25  # share of the strong firings that the named tokens must cover
_LIFT = 5.0  # how much more often than on any token it must fire on each


def automatic(
    entries: Entries, maximum: Array, stream: Stream, occurrences: Array, n_rows: int
) -> list[dict[str, Any]]:
    """A label for each latent, as {"kind", "tokens", "cover", "strong", "precision", "base"}.

    Strong firings are those of at least half the latent's maximum. `kind` is "on" where up to three tokens cover at
    least a quarter of them, "after" where the tokens before do, else "mixed", or "dead". `precision`: on which share
    of all occurrences of these tokens (or places after them) the latent fires at all; `base`: the share over any token.

    Args:
        occurrences: (v,) how often each token id occurs in the stream.
        n_rows: rows that were encoded.
    """
    m = len(maximum)
    count = np.bincount(entries.latent, minlength=m)
    strong = np.abs(entries.value) >= 0.5 * maximum[entries.latent]
    n_strong = np.bincount(entries.latent[strong], minlength=m)
    labels: list[dict[str, Any]] = [
        {
            "kind": "mixed" if n else "dead",
            "tokens": [],
            "cover": 0.0,
            "strong": int(k),
            "precision": 0.0,
            "base": float(n / max(1, n_rows)),
        }
        for n, k in zip(count, n_strong, strict=True)
    ]
    # "on" is written last, so that it wins where both hold
    for kind, shift in (("after", 1), ("on", 0)):
        rows = entries.row - shift
        inside = rows >= 0
        token = stream.tokens[np.maximum(rows, 0)]
        for latent, tokens, cover, precision in _best(
            entries.latent[inside], token[inside], strong[inside], n_strong, count, occurrences, n_rows
        ):
            labels[latent] |= {"kind": kind, "tokens": tokens, "cover": cover, "precision": precision}
    return labels


def _best(
    latent: Array, token: Array, strong: Array, n_strong: Array, count: Array, occurrences: Array, n_rows: int
) -> list[tuple[int, list[int], float, float]]:
    v = np.int64(len(occurrences))
    key = latent.astype(np.int64) * v + token
    pairs, inverse = np.unique(key, return_inverse=True)
    fires = np.bincount(inverse, minlength=len(pairs))
    strongly = np.bincount(inverse[strong], minlength=len(pairs))
    owner, word = pairs // v, pairs % v
    share = fires / np.maximum(occurrences[word], 1)
    lift = share / (count[owner] / max(1, n_rows))
    good = (lift >= _LIFT) & (strongly >= np.minimum(2, n_strong[owner])) & (strongly > 0)
    owner, word, fires, strongly = owner[good], word[good], fires[good], strongly[good]
    order = np.lexsort((word, -strongly, owner))
    found = []
    bounds = np.flatnonzero(np.diff(owner[order], prepend=-1, append=-1))
    for begin, end in pairwise(bounds.tolist()):
        best = order[begin : min(end, begin + _WORDS)]
        best = best[strongly[best] >= 0.1 * strongly[best[0]]]
        cover = float(strongly[best].sum() / n_strong[owner[best[0]]])
        if cover >= _LEAST:
            precision = float(fires[best].sum() / occurrences[word[best]].sum())
            found.append((int(owner[best[0]]), word[best].tolist(), cover, min(1.0, precision)))
    return found
