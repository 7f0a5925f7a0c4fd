"""Forward passes of a frozen prompt with sources taken out, or with only a circuit's features left in.

Written apart from the backward pass of `pull`, so that the two can contradict each other. A *reader* is a number
that is measured: a feature's pre-activation, or a target's value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparse_sae.circuits.frozen import Frozen
from sparse_sae.circuits.targets import Asked
from sparse_sae.circuits.transformer import Mlp, Pass

_BYTES, _MOST = 1 << 28, 16

How = Literal["frozen", "attention", "model"]


@dataclass(frozen=True)
class Reader:
    """What is measured: the pre-activation of a latent of a layer at a position, or a target (`asked`)."""

    layer: int
    position: int
    latent: int
    asked: Asked | None = None


def reader_of(asked: Asked) -> Reader:
    """The reader of a target; one that is a feature is read as a feature."""
    return Reader(asked.layer, asked.row.position, asked.latent, None if asked.gradient is None else asked)


def source(frozen: Frozen, number: int) -> tuple[int, int, Tensor]:
    """(layer, position, (D,) what it adds) of a source; the layer of a token is -1."""
    n = frozen.n_positions
    if number < n:
        return -1, number, frozen.seen.embedding[number]
    if number < frozen.first_feature:
        layer, position = divmod(number - n, n)
        return layer, position, frozen.error[layer, position]
    i = number - frozen.first_feature
    layer = int(frozen.layer[i])
    vector = frozen.activation[i] * frozen.transcoders[layer].W_dec[frozen.latent[i]]
    return layer, int(frozen.position[i]), vector


def without(
    frozen: Frozen, sources: Sequence[int], readers: Sequence[Reader], how: How
) -> NDArray[np.float64]:
    """(len(sources), len(readers)): by how much each reader falls when one source is taken out.

    Args:
        frozen: the prompt.
        sources: numbers of sources. One batch's passes begin at the first layer that any of them touches.
        readers: what is measured.
        how: "frozen": patterns, norms and features are held, as in the graph. "attention": patterns and norms are
            computed again, features and errors are held, so that only direct effects are seen. "model": the model
            itself, with its own MLPs; everything above the source answers.
    """
    places = [source(frozen, number) for number in sources]
    order = sorted(range(len(places)), key=lambda i: places[i][0])
    size = batch_size(frozen)
    falls = np.zeros((len(sources), len(readers)))
    with torch.no_grad():
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            first = max(places[chosen[0]][0], 0)
            before = frozen.transformer.pre(frozen.seen, first)
            x = before.expand(len(chosen) + 1, -1, -1).clone()  # row 0: nothing is taken out
            changes: dict[int, list[tuple[int, int, Tensor]]] = {}
            for row, i in enumerate(chosen, 1):
                layer, position, vector = places[i]
                if layer < 0:
                    x[row, position] -= vector
                changes.setdefault(layer, []).append((row, position, vector))
            inner = frozen.transformer.mlp if how == "model" else _held(frozen)
            seen = _run(frozen, x, _changed(inner, changes), readers, first, how)
            falls[chosen] = seen[:1] - seen[1:]
    return falls


def keeping(
    frozen: Frozen,
    kept: Sequence[NDArray[np.bool_]],
    readers: Sequence[Reader],
    errors: Literal["keep", "remove"] = "keep",
    how: How = "model",
) -> NDArray[np.float64]:
    """(len(kept), len(readers)) where transcoders stand in for the MLPs and only some features are let through.

    Each feature is computed from what its layer then reads.

    Args:
        frozen: the prompt.
        kept: for each circuit, (F,) which of the features that were active are in it. All others are zero, those too
            that become active only now.
        readers: what is measured.
        errors: "keep" holds them as they were; "remove" takes them out, that is all of an MLP without transcoder.
    """
    values = []
    size = batch_size(frozen)
    with torch.no_grad():
        for start in range(0, len(kept), size):
            masks = np.stack(kept[start : start + size])
            x = frozen.seen.embedding.expand(len(masks), -1, -1)
            values.append(_run(frozen, x, _replaced(frozen, masks, errors), readers, 0, how))
    return np.concatenate(values) if values else np.zeros((0, len(readers)))


def batch_size(frozen: Frozen) -> int:
    """Passes that go together, by the memory that a prompt of this length takes."""
    tf, n = frozen.transformer, frozen.n_positions
    width = getattr(tf.model.config, "intermediate_size", None) or 4 * tf.d_model
    row = 4 * n * (8 * tf.d_model + 3 * width + 3 * n * max(w.n_heads for w in tf.layers))
    return int(max(1, min(_MOST, _BYTES // row)))


def _run(
    f: Frozen, x: Tensor, mlp: Mlp, readers: Sequence[Reader], first: int, how: How
) -> NDArray[np.float64]:
    values = np.zeros((len(x), len(readers)))
    by_layer: dict[int, list[int]] = {}
    for number, r in enumerate(readers):
        if r.asked is None:
            by_layer.setdefault(r.layer, []).append(number)

    def reading(layer: int, mid: Tensor, n2: Tensor) -> Tensor:
        here = by_layer.get(layer)
        if here:
            t = f.transcoders[layer]
            read = (n2 if t.normed else mid)[:, [readers[i].position for i in here]]
            latents = [readers[i].latent for i in here]
            values[:, here] = ((read * t.W_enc[latents]).sum(-1) + t.b_enc[latents]).cpu().numpy()
        return mlp(layer, mid, n2)

    held = f.seen if how == "frozen" else None
    # features below the first layer do not feel the change; they read what they read
    for layer in [i for i in by_layer if i < first]:
        reads = f.seen.mid[layer], f.transformer.mlp_in(f.seen, layer)
        reading(layer, *(value.expand(len(x), -1, -1) for value in reads))
    seen = f.transformer.run(x, reading, held, first=first, positions=slice(0, 0))
    for number, r in enumerate(readers):
        if r.asked is not None:
            values[:, number] = _target(f, seen, r.asked, how).cpu().numpy()
    return values


def _target(f: Frozen, seen: Pass, asked: Asked, how: How) -> Tensor:
    tf, at, gradient = f.transformer, asked.row.position, asked.gradient
    assert gradient is not None
    scale = seen.scale_final[..., at, :]
    end = tf.norm_final.apply(seen.final[:, at], scale)
    if asked.function is not None and how != "frozen":
        logits = torch.nn.functional.linear(end, tf.W_U, tf.b_U)
        return torch.stack([asked.function(row).reshape(()) for row in logits])
    value = end @ (gradient @ tf.W_U)
    return value if tf.b_U is None else value + gradient @ tf.b_U


def _changed(inner: Mlp, changes: dict[int, list[tuple[int, int, Tensor]]]) -> Mlp:
    def mlp(layer: int, mid: Tensor, n2: Tensor) -> Tensor:
        out = inner(layer, mid, n2)
        if layer in changes:
            out = out.clone()
            for row, position, vector in changes[layer]:
                out[row, position] -= vector
        return out

    return mlp


def _held(f: Frozen) -> Mlp:
    """Features and errors as they were; a skip path answers."""

    def mlp(layer: int, mid: Tensor, n2: Tensor) -> Tensor:
        t, out = f.transcoders.get(layer), f.seen.mlp_out[layer].expand_as(mid)
        if t is None or t.W_skip is None:
            return out
        now, then = (n2, f.transformer.mlp_in(f.seen, layer)) if t.normed else (mid, f.seen.mid[layer])
        return out + (now - then) @ t.W_skip.T

    return mlp


def _replaced(f: Frozen, masks: NDArray[np.bool_], errors: str) -> Mlp:
    start = 0 if f.first_position else 1
    held: Callable[[int, Tensor, Tensor], Tensor] = _held(f)

    def mlp(layer: int, mid: Tensor, n2: Tensor) -> Tensor:
        out = held(layer, mid, n2).clone()
        t = f.transcoders.get(layer)
        if t is None:
            if errors == "remove":
                out[:, start:] = 0
            return out
        read = (n2 if t.normed else mid)[:, start:]
        count, n = read.shape[:2]
        codes = t.sae.encode(read.reshape(count * n, -1).cpu().numpy())
        here = f.features_of(layer)
        allowed = np.zeros((count, n, t.sae.d_sae), bool)
        position, latent = f.position[here].cpu().numpy() - start, f.latent[here].cpu().numpy()
        allowed[:, position, latent] = masks[:, here]
        rows = np.repeat(np.arange(count * n), np.diff(codes.indptr))
        codes.data[~allowed.reshape(count * n, -1)[rows, codes.indices]] = 0
        made: Any = codes @ t.sae.rows["W_dec"]
        now = torch.from_numpy(made).to(mid).reshape(count, n, -1) + t.b_dec
        if t.W_skip is not None:
            now = now + read @ t.W_skip.T
        out[:, start:] = now if errors == "remove" else now + f.error[layer, start:]
        return out

    return mlp
