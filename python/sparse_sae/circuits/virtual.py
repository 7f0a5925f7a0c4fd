"""Weights without prompts: what a latent writes for another one to read, and how often the two meet.

The virtual weight of latent i on latent j is V_ij = W_enc[j] · G W_dec[i]: j's encoder row read on i's decoder row,
with G the gain of the norm between them (its scale, which depends on the token, is left at 1). Many large virtual
weights join latents that never fire together (interference), so they are weighted by how the two fire (Ameisen et
al. 2025): ERA = E[1(a_j > 0) a_i] V_ij, and TWERA = E[a_i a_j] / E[a_j] V_ij. A head between the two adds
V_ij through it: W_enc[j] · G W_O W_V G' W_dec[i], whatever it attends to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sparse_sae._arguments import one_of, whole
from sparse_sae.circuits.codes import SetCodes
from sparse_sae.circuits.dictionaries import Dictionary, DictionarySet
from sparse_sae.circuits.families import transformer_of
from sparse_sae.circuits.transformer import Norm, Transformer

F32 = NDArray[np.float32]
Weight: TypeAlias = Literal["twera", "era", "virtual"]
_BLOCK = 1 << 16  # tokens whose pairs are counted together: the sums of a block fit the cache better


@dataclass(frozen=True)
class Connection:
    """One latent joined to another.

    Attributes:
        hook, latent: the other latent, by the hook point its dictionary writes.
        weight: what it is ranked by: TWERA, ERA or the virtual weight.
        virtual: the virtual weight.
        together: share of the tokens of the target's firing on which the source fires too; NaN without codes.
        head: (layer, head) that it goes through, or None for the residual stream.
    """

    hook: str
    latent: int
    weight: float
    virtual: float
    together: float
    head: tuple[int, int] | None = None


@dataclass(frozen=True)
class Neighbours:
    """The strongest connections of a latent, by absolute weight.

    Attributes:
        hook, latent: whose they are. kind: "twera", "era" or "virtual".
        upstream: what makes it fire. downstream: what it makes fire. heads: upstream through heads, by virtual weight.
    """

    hook: str
    latent: int
    kind: Weight
    upstream: list[Connection]
    downstream: list[Connection]
    heads: list[Connection]

    def __str__(self) -> str:
        lines = [f"{self.hook} latent {self.latent}, by {self.kind}"]
        for name in ("upstream", "downstream", "heads"):
            for c in getattr(self, name):
                through = "" if c.head is None else f" through head {c.head[0]}.{c.head[1]}"
                lines.append(
                    f"  {name:<10} {c.weight:+9.4f}  V {c.virtual:+8.3f}  {c.hook} latent {c.latent}{through}"
                )
        return "\n".join(lines)


def virtual_weights(model: Any, dictionaries: DictionarySet, source: str, target: str) -> F32:
    """(d_sae of source, d_sae of target) virtual weights between two dictionaries, named by what they write.

    Raises:
        ValueError: a hook point without dictionary, or a source that is written after the target reads.

    >>> virtual_weights(lm, made, "blocks.3.hook_mlp_out", "blocks.9.hook_mlp_out").shape  # doctest: +SKIP
    (4608, 4608)
    """
    tf, a, b = transformer_of(model), _of(dictionaries, source), _of(dictionaries, target)
    if not _below(a, b):
        raise ValueError(f"source: {source!r} is not written before {b.reads!r} is read; exchange the two")
    found: F32 = np.asarray(a.sae.rows["W_dec"] @ _reading(tf, b).T, np.float32)
    return found


def twera(source: csr_array, target: csr_array, virtual: F32 | None = None) -> F32:
    """(d_source, d_target) E[a_i a_j] / E[a_j], times the virtual weights if they are given; 0 where j never fires.

    Args:
        source, target: (n, d) codes of the same tokens.

    >>> a = csr_array(np.array([[2.0, 0], [4, 1]]))
    >>> twera(a, csr_array(np.array([[0.0], [3]]))).tolist()
    [[4.0], [1.0]]
    """
    return _expected(source, target, np.asarray(target.sum(0), np.float64), virtual)


def era(source: csr_array, target: csr_array, virtual: F32 | None = None) -> F32:
    """(d_source, d_target) E[1(a_j > 0) a_i], times the virtual weights if they are given."""
    fires = csr_array(
        ((target.data > 0).astype(np.float32), target.indices, target.indptr), shape=target.shape
    )
    return _expected(source, fires, np.full(target.shape[1], float(target.shape[0])), virtual)


def _expected(source: csr_array, target: csr_array, divide: NDArray[Any], virtual: F32 | None) -> F32:
    if source.shape[0] != target.shape[0]:
        raise ValueError(f"target: codes of {target.shape[0]} tokens, the source's are of {source.shape[0]}")
    total = np.zeros((source.shape[1], target.shape[1]), np.float64)
    for start in range(0, source.shape[0], _BLOCK):
        rows = slice(start, start + _BLOCK)
        total += csr_array(source[rows].T.tocsr() @ target[rows]).toarray()
    total /= np.where(divide > 0, divide, np.inf)
    if virtual is not None:
        total *= virtual
    return total.astype(np.float32)


def neighbours(
    model: Any,
    dictionaries: DictionarySet,
    hook: str,
    latent: int,
    codes: SetCodes | None = None,
    *,
    kind: Weight = "twera",
    top: int = 10,
) -> Neighbours:
    """The strongest upstream and downstream latents of one latent over all dictionaries of a set.

    Args:
        model: the model. dictionaries: the set.
        hook, latent: the latent, by the hook point its dictionary writes.
        codes: of the set on texts, from `encode_texts`; needed for "twera" and "era".
        kind: "twera", "era", or "virtual" (no codes needed; interference included).
        top: connections of each sort.

    Raises:
        ValueError: an unknown hook point, latent or kind, or no codes for a kind that needs them.
    """
    one_of("kind", kind, Weight)
    if codes is None and kind != "virtual":
        raise ValueError(f"codes: needed for kind {kind!r}; give those of encode_texts, or kind='virtual'")
    whole("top", top, least=1)
    tf, own = transformer_of(model), _of(dictionaries, hook)
    whole("latent", latent, least=0, most=own.sae.d_sae - 1)
    reading, writing = _reading(tf, own)[latent], own.sae.rows["W_dec"][latent]
    fires = None if codes is None else codes.of(hook)[:, [latent]]
    up: list[Connection] = []
    down: list[Connection] = []
    for name, other in dictionaries.items():
        if _below(other, own):
            virtual = np.asarray(other.sae.rows["W_dec"] @ reading)
            factor, together = _meeting(codes, name, fires, kind, True)
            up += _best(name, virtual * factor, virtual, together, top)
        elif _below(own, other):
            virtual = np.asarray(_reading(tf, other) @ writing)
            factor, together = _meeting(codes, name, fires, kind, False)
            down += _best(name, virtual * factor, virtual, together, top)
    heads = _through_heads(tf, dictionaries, own, reading, top)
    return Neighbours(hook, latent, kind, _strongest(up, top), _strongest(down, top), heads)


def _meeting(
    codes: SetCodes | None, name: str, fires: csr_array | None, kind: str, upstream: bool
) -> tuple[Any, NDArray[Any]]:
    """The factor of ERA or TWERA for every latent of a dictionary beside one latent, and how often they meet."""
    if codes is None or fires is None:
        return 1.0, np.array([np.nan])
    other = codes.of(name)
    one = csr_array(((fires.data > 0).astype(np.float32), fires.indices, fires.indptr), shape=fires.shape)
    both = csr_array(((other.data > 0).astype(np.float32), other.indices, other.indptr), shape=other.shape)
    counts = (both.T @ one).toarray()[:, 0]
    together = counts / max(one.sum(), 1) if upstream else counts / np.maximum(both.sum(0), 1)
    if kind == "virtual":
        return 1.0, together
    if kind == "era":
        met = (other.T @ one) if upstream else (both.T @ fires)
        return met.toarray()[:, 0] / other.shape[0], together
    met = (other.T @ fires).toarray()[:, 0]
    total = np.asarray(fires.sum() if upstream else other.sum(0), np.float64)
    return np.divide(met, total, out=np.zeros(len(met)), where=total > 0), together


def _best(
    name: str, weight: NDArray[Any], virtual: NDArray[Any], together: NDArray[Any], top: int, head: Any = None
) -> list[Connection]:
    order = np.argsort(-np.abs(weight), kind="stable")[:top]
    return [
        Connection(
            name, int(i), float(weight[i]), float(virtual[i]), float(together[i % len(together)]), head
        )
        for i in order
        if weight[i] != 0
    ]


def _strongest(found: list[Connection], top: int) -> list[Connection]:
    return sorted(found, key=lambda c: -abs(c.weight))[:top]


def _through_heads(
    tf: Transformer, dictionaries: DictionarySet, own: Dictionary, reading: NDArray[Any], top: int
) -> list[Connection]:
    found: list[Connection] = []
    vector = torch.as_tensor(np.array(reading)).to(tf.W_U.dtype)
    last = _depth(own.reads)
    for name, other in dictionaries.items():
        first = _depth(other.writes)
        for layer in range(int(np.floor(first)) + 1, int(np.floor(last)) + 1):
            w = tf.layers[layer]
            z = (vector @ w.W_O).unflatten(-1, (w.n_heads, w.d_head))  # (H, E)
            values = w.W_V.unflatten(0, (w.n_groups, w.d_head)).repeat_interleave(w.n_heads // w.n_groups, 0)
            back = _transpose(w.norm1, torch.einsum("he,hed->hd", z, values)).float().cpu().numpy()
            virtual = other.sae.rows["W_dec"] @ back.T  # (M, H)
            for head in range(w.n_heads):
                column = virtual[:, head]
                found += _best(name, column, column, np.array([np.nan]), top, (layer, head))
    return _strongest(found, top)


def _of(dictionaries: DictionarySet, hook: str) -> Dictionary:
    if hook not in dictionaries:
        raise ValueError(f"hook: no dictionary writes {hook!r}, expected one of {', '.join(dictionaries)}")
    return dictionaries[hook]


# where in a layer a hook point lies, as a fraction of it
_SITES = {
    "hook_resid_pre": -0.5,
    "hook_resid_mid": 0.25,
    "mlp.hook_in": 0.25,
    "hook_mlp_out": 0.5,
    "hook_resid_post": 0.5,
}


def _depth(hook: str) -> float:
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook) or re.fullmatch(r".*\.(\d+)\.(mlp):in", hook)
    site = "" if match is None else {"mlp": "mlp.hook_in"}.get(match[2], match[2])
    if match is None or site not in _SITES:
        raise NotImplementedError(
            f"hook: {hook!r} has no place on the residual stream known here, expected blocks.L. and one of "
            f"{', '.join(_SITES)}"
        )
    return int(match[1]) + _SITES[site]


def _below(a: Dictionary, b: Dictionary) -> bool:
    """Whether what a writes is there when b reads."""
    if a is b or b.reads.endswith(("hook_mlp_out", "hook_attn_out")):  # reads one part, not the stream
        return False
    written, read = _depth(a.writes), _depth(b.reads)
    # an SAE's decoder row stands for what is in the stream at its own place, where others may read it later
    return written < read or (written == read and a.writes != b.reads)


def _reading(tf: Transformer, d: Dictionary) -> NDArray[Any]:
    """(M, D) gradient of the pre-activations with respect to the residual stream, at a norm's scale of 1."""
    rows = d.sae.rows["W_enc"]
    if not (d.reads.endswith("mlp.hook_in") or d.reads.endswith(".mlp:in")):
        return np.asarray(rows)
    norm = tf.layers[int(_depth(d.reads))].norm2
    back = _transpose(norm, torch.as_tensor(np.array(rows)).to(norm.gain.dtype))
    return np.asarray(back.float().cpu().numpy())


def _transpose(norm: Norm, gradient: torch.Tensor) -> torch.Tensor:
    return norm.transpose(gradient, torch.ones(1, dtype=gradient.dtype))
