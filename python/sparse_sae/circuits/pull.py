"""Rows of an attribution graph: a batched backward pass through the frozen linear model, written by hand.

A row begins as a vector of the residual stream at one position and stage. Rows go in panels of one fixed number,
all of one position, filled up with zeros: so each row's products have the same shapes, and its values the same
bits, whatever rows are asked for beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_sae.circuits.frozen import Frozen

PANEL = 8
_BLOCK = 256  # positions whose values are gathered at a time


@dataclass(frozen=True)
class Row:
    """Where a row begins.

    Attributes:
        layer: the layer it reads in; n_layers, with `before_attention`, for the end of the residual stream.
        position: the position it reads.
        vector: (D,) gradient of the target with respect to the residual stream there.
        bias: what the target has whatever the residual stream holds.
        before_attention: reads what that layer's attention reads; else what its MLP reads.
    """

    layer: int
    position: int
    vector: Tensor
    bias: float
    before_attention: bool = False

    @property
    def stage(self) -> int:
        """Where along the residual stream, two stages a layer."""
        return 2 * self.layer + (not self.before_attention)


@dataclass(frozen=True)
class Pulled:
    """Rows as computed: edges (n, n_sources), bias (n,), heads (n, n_layers, H) what went through each head."""

    edges: Tensor
    bias: Tensor
    heads: Tensor


def feature_row(frozen: Frozen, layer: int, position: int, latent: int) -> Row:
    """The row of a latent's pre-activation."""
    if layer not in frozen.transcoders:
        raise ValueError(f"layer: {layer} has no transcoder, expected one of {sorted(frozen.transcoders)}")
    t = frozen.transcoders[layer]
    if not 0 <= latent < len(t.b_enc):
        raise ValueError(f"latent: got {latent}, expected 0 to d_sae - 1 = {len(t.b_enc) - 1}")
    if not 0 <= position < frozen.n_positions:
        raise ValueError(f"position: got {position}, expected 0 to {frozen.n_positions - 1}")
    vector, bias = t.W_enc[latent], float(t.b_enc[latent])
    if t.normed:
        norm = frozen.transformer.layers[layer].norm2
        bias += 0.0 if norm.bias is None else float(vector @ norm.bias)
        vector = norm.transpose(vector, frozen.seen.scale2[layer][position])
    return Row(layer, position, vector, bias)


def logit_row(frozen: Frozen, gradient: Tensor, position: int) -> Row:
    """The row of a linear function of the logits (V,) at one position."""
    tf = frozen.transformer
    vector = gradient @ tf.W_U
    bias = 0.0 if tf.b_U is None else float(gradient @ tf.b_U)
    if tf.norm_final.bias is not None:
        bias += float(vector @ tf.norm_final.bias)
    vector = tf.norm_final.transpose(vector, frozen.seen.scale_final[position])
    return Row(tf.n_layers, position, vector, bias, before_attention=True)


def pull(frozen: Frozen, rows: Sequence[Row], each: Callable[[list[int], Pulled], None]) -> None:
    """Compute rows, panel by panel; `each` gets the numbers of a panel's rows and their values."""
    by_position: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        by_position.setdefault(row.position, []).append(number)
    with torch.no_grad():
        for numbers in by_position.values():
            numbers.sort(key=lambda i: rows[i].stage)
            for start in range(0, len(numbers), PANEL):
                chosen = numbers[start : start + PANEL]
                each(chosen, _panel(frozen, [rows[i] for i in chosen]))


def _panel(f: Frozen, rows: list[Row]) -> Pulled:
    tf, n = f.transformer, rows[0].position + 1
    g = tf.W_U.new_zeros((PANEL, n, tf.d_model))
    edges = g.new_zeros((PANEL, f.n_sources))
    heads = g.new_zeros((PANEL, tf.n_layers, max(w.n_heads for w in tf.layers)))
    bias = g.new_zeros(PANEL)
    for number, row in enumerate(rows):
        bias[number] = row.bias
    last = max(row.stage for row in rows)
    for layer in range(min(last // 2, tf.n_layers - 1), -1, -1):
        _inject(g, rows, 2 * layer + 2)
        _sources(f, layer, g, edges, bias)
        t, w = f.transcoders.get(layer), tf.layers[layer]
        if t is not None and t.W_skip is not None:
            through = g @ t.W_skip
            g = g + (w.norm2.transpose(through, f.seen.scale2[layer][:n]) if t.normed else through)
        _inject(g, rows, 2 * layer + 1)
        bias += (g @ f.attn_bias[layer]).sum(-1)
        dz = (g @ w.W_O).unflatten(-1, (w.n_heads, w.d_head))
        heads[:, layer, : w.n_heads] = (dz * f.seen.z[layer][:n]).sum((1, 3))
        g = g + w.norm1.transpose(_to_values(f, layer, dz) @ w.W_V, f.seen.scale1[layer][:n])
    _inject(g, rows, 0)
    edges[:, :n] = (g * f.seen.embedding[:n]).sum(-1)
    count = len(rows)
    return Pulled(edges[:count], bias[:count], heads[:count])


def _inject(g: Tensor, rows: list[Row], stage: int) -> None:
    for number, row in enumerate(rows):
        if row.stage == stage:
            g[number, row.position] += row.vector


def _sources(f: Frozen, layer: int, g: Tensor, edges: Tensor, bias: Tensor) -> None:
    """What this layer's MLP adds, source by source; a latent's own row begins below it."""
    n = g.shape[1]
    bias += (g * f.mlp_bias[layer, :n]).sum((1, 2))
    first = f.n_positions * (1 + layer)
    edges[:, first : first + n] = (g * f.error[layer, :n]).sum(-1)
    here = f.features_of(layer)
    if here.stop == here.start:
        return
    position, latent = f.position[here], f.latent[here]
    W_dec = f.transcoders[layer].W_dec
    bounds = torch.searchsorted(position, torch.arange(n + 1)).tolist()
    for at in range(n):
        a, b = bounds[at], bounds[at + 1]
        if a < b:
            product = (W_dec[latent[a:b]] @ g[:, at].T) * f.activation[here][a:b, None]
            begin = f.first_feature + here.start
            edges[:, begin + a : begin + b] = product.T


def _to_values(f: Frozen, layer: int, dz: Tensor) -> Tensor:
    """(P, n, G E) gradient of the values of (P, n, H, E) of the heads' outputs; heads of a group are added here."""
    w, (size, n) = f.transformer.layers[layer], dz.shape[:2]
    pattern = f.pattern(layer)[:, :n, :n].unflatten(0, (w.n_groups, -1))  # (G, R, to, from)
    by_group = dz.unflatten(2, (w.n_groups, -1)).permute(2, 3, 1, 0, 4)  # (G, R, to, P, E)
    parts = []
    for start in range(0, n, _BLOCK):  # a position is attended to by itself and later ones only
        left = pattern[:, :, start:, start : start + _BLOCK].flatten(1, 2).transpose(1, 2)  # (G, from, R to)
        parts.append(left @ by_group[:, :, start:].reshape(w.n_groups, -1, size * w.d_head))
    out = torch.cat(parts, 1)
    return out.unflatten(-1, (size, w.d_head)).permute(2, 1, 0, 3).flatten(-2)
