"""Why a head attends: the pairs of sources, one on each side, that make its score.

With the norms held, a query and a key are linear in the sources, so the score of a head from a query position i to a
key position j,

    s_ij = q_i · k_j · scale,    q_i = R_i N_q (W_Q n_i + b_Q),    k_j = R_j N_k (W_K n_j + b_K),

is a bilinear form: a sum over pairs (source of the query, source of the key), each side with one bias besides. R is the
rotary embedding, N a norm of queries and keys where the model has one, n what attention reads. The sum is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from sparse_sae._arguments import whole
from sparse_sae.circuits.frozen import Frozen
from sparse_sae.circuits.graph import KINDS, AttributionGraph
from sparse_sae.circuits.origin import source_kinds, source_labels
from sparse_sae.circuits.pull import Pulled, pull
from sparse_sae.circuits.rows import Row
from sparse_sae.circuits.transformer import unrotate

BIAS = "bias"
_BLOCK = 1024


@dataclass(frozen=True)
class QKPair:
    """What one pair of sources adds to a score. Numbers are those of the graph's nodes; -1 is the bias."""

    query: int
    key: int
    value: float
    query_label: str
    key_label: str

    def __str__(self) -> str:
        return f"{self.value:+.3f}  {self.query_label}  →  {self.key_label}"


@dataclass(frozen=True)
class QKAttribution:
    """A head's score at one pair of positions, by pairs of sources.

    Attributes:
        layer, head, query, key: whose score. than: the other key position, whose score is subtracted, or None.
        score: before the softmax; of the difference where there is `than`. pattern: what the head gives to the key.
        labels, kinds: (n + 1,) of the sources, the bias last.
        by_query, by_key: (n + 1,) what each source of one side adds with everything on the other side; each adds up
            to the score.
    """

    layer: int
    head: int
    query: int
    key: int
    than: int | None
    score: float
    pattern: float
    labels: list[str]
    kinds: list[str]
    by_query: NDArray[np.float64]
    by_key: NDArray[np.float64]
    query_heads: NDArray[np.float64]
    key_heads: NDArray[np.float64]
    _q: NDArray[np.float64] = field(repr=False)  # (n + 1, E), scaled
    _k: NDArray[np.float64] = field(repr=False)

    def value(self, query: int, key: int) -> float:
        """What a pair of sources adds to the score; -1 is the bias."""
        return float(self._q[query] @ self._k[key])

    def pairs(self, top: int = 20, kinds: Sequence[str] = (*KINDS[:3], BIAS)) -> list[QKPair]:
        """The pairs of largest absolute value.

        Args:
            top: how many.
            kinds: which sources count on either side: "token", "error", "feature", "bias".

        Raises:
            ValueError: another kind.
        """
        if isinstance(kinds, str) or not set(kinds) <= {*KINDS[:3], BIAS}:
            raise ValueError(f"kinds: got {kinds!r}, expected some of {[*KINDS[:3], BIAS]}")
        top = whole("top", top, 1)
        wanted = np.isin(self.kinds, list(kinds))
        rows = np.flatnonzero(wanted & self._q.any(1))
        columns = np.flatnonzero(wanted & self._k.any(1))
        found: list[tuple[float, int, int]] = []
        for start in range(0, len(rows) if len(columns) else 0, _BLOCK):
            block = rows[start : start + _BLOCK]
            values = (self._q[block] @ self._k[columns].T).ravel()
            best = np.argpartition(-np.abs(values), min(top, len(values)) - 1)[:top]
            places = zip(
                block[best // len(columns)].tolist(), columns[best % len(columns)].tolist(), strict=True
            )
            found += [(float(v), i, j) for v, (i, j) in zip(values[best], places, strict=True)]
            found = sorted(found, key=lambda x: (-abs(x[0]), x[1], x[2]))[:top]
        end = len(self.labels) - 1
        return [
            QKPair(-1 if a == end else a, -1 if b == end else b, v, self.labels[a], self.labels[b])
            for v, a, b in found
        ]

    def __str__(self) -> str:
        than = "" if self.than is None else f" rather than to {self.than}"
        head = (
            f"L{self.layer}H{self.head} from position {self.query} to {self.key}{than}: score {self.score:.3f}, "
            f"pattern {self.pattern:.3f}; the pairs that make it"
        )
        return "\n  ".join([head, *map(str, self.pairs(10))])


def qk_attribution(
    graph: AttributionGraph | Frozen,
    layer: int,
    head: int,
    query: int,
    key: int,
    *,
    than: int | None = None,
) -> QKAttribution:
    """Which pairs of sources make a head attend from one position to another.

    The same bilinear form as in "Tracing attention computation" (Kamath et al. 2025), in the frozen model.

    Args:
        graph: of `attribute` (of its whole prompt, whether pruned or not), or a frozen model.
        layer, head: whose attention.
        query, key: positions, negative from the end; the key is not after the query.
        than: another key position; its score is subtracted. A score alone says little where all keys share a part
            of it, which the softmax cancels.

    Raises:
        ValueError: out of range, a key that the head cannot see, a graph read from a file.

    >>> print(qk_attribution(graph, 5, 2, query=-1, key=4))  # doctest: +SKIP
    """
    f, words = _frozen(graph)
    tf, n = f.transformer, f.n_positions
    layer = whole("layer", layer, 0, tf.n_layers - 1)
    head = whole("head", head, 0, tf.layers[layer].n_heads - 1)
    query = whole("query", query, -n, n - 1) % n
    keys = [whole("key", key, -n, n - 1) % n]
    if than is not None:
        keys.append(whole("than", than, -n, n - 1) % n)
    window = tf.layers[layer].window or n
    for name, at in zip(("key", "than"), keys, strict=False):
        if not query - window < at <= query:
            raise ValueError(
                f"{name}: position {at} is hidden from a query at {query}, expected {max(0, query - window + 1)} "
                f"to {query}"
            )
    q, q_heads = _side(f, layer, head, query, "query")
    k, k_heads = _side(f, layer, head, keys[0], "key")
    if than is not None:
        other = _side(f, layer, head, keys[1], "key")
        k, k_heads = k - other[0], k_heads - other[1]
    q, q_heads = q * tf.layers[layer].scale, q_heads * tf.layers[layer].scale
    return QKAttribution(
        layer,
        head,
        query,
        keys[0],
        None if than is None else keys[1],
        float(q.sum(0) @ k.sum(0)),
        float(f.pattern(layer)[head, query, keys[0]]),
        [*source_labels(f, words), BIAS],
        [*(KINDS[i] for i in source_kinds(f)), BIAS],
        q @ k.sum(0),
        k @ q.sum(0),
        q_heads @ k.sum(0),
        k_heads @ q.sum(0),
        q,
        k,
    )


def _frozen(graph: AttributionGraph | Frozen) -> tuple[Frozen, list[str]]:
    if isinstance(graph, Frozen):
        return graph, [str(i) for i in graph.ids]
    if graph.origin is None:
        raise ValueError("graph: it holds no model (it was read from a file); call attribute(...) again")
    return graph.origin.frozen, graph.words


def _side(
    f: Frozen, layer: int, head: int, position: int, side: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n + 1, E) what each source, and last the bias, adds to a query or key; (n_layers, H, E) what each head does."""
    tf, w = f.transformer, f.transformer.layers[layer]
    own = head if side == "query" else head // (w.n_heads // w.n_groups)
    W, b, norm = (w.W_Q, w.b_Q, w.q_norm) if side == "query" else (w.W_K, w.b_K, w.k_norm)
    block = slice(own * w.d_head, (own + 1) * w.d_head)
    W, b = W[block], None if b is None else b[block]
    scale1 = f.seen.scale1[layer][position]
    vectors = torch.eye(
        w.d_head, dtype=W.dtype, device=W.device
    )  # one row for each number of the query or key
    rotation = tf.rotation(f.n_positions)
    if rotation is not None:
        vectors = unrotate(vectors, rotation[0][position], rotation[1][position])
    bias = W.new_zeros(w.d_head)
    if norm is not None:
        n1 = w.norm1.apply(tf.pre(f.seen, layer)[position], scale1)
        raw = W @ n1 if b is None else W @ n1 + b
        if norm.bias is not None:
            bias = vectors @ norm.bias
        vectors = norm.transpose(vectors, norm.scale(raw))
    if b is not None:
        bias = bias + vectors @ b
    vectors = vectors @ W
    if w.norm1.bias is not None:
        bias = bias + vectors @ w.norm1.bias
    vectors = w.norm1.transpose(vectors, scale1)
    out = np.zeros((f.n_sources + 1, w.d_head))
    heads = np.zeros((tf.n_layers, max(x.n_heads for x in tf.layers), w.d_head))

    def keep(numbers: list[int], pulled: Pulled) -> None:
        out[:-1, numbers] = pulled.edges.cpu().numpy().T
        out[-1, numbers] = pulled.bias.cpu().numpy()
        heads[..., numbers] = np.moveaxis(pulled.heads.cpu().numpy(), 0, -1)

    rows = [Row(layer, position, v, float(a), True) for v, a in zip(vectors, bias, strict=True)]
    pull(f, rows, keep)
    return out, heads
