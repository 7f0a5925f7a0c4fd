"""Rows of an attribution graph: a batched backward pass through the frozen linear model, written by hand.

A row begins as a vector of the residual stream at one position and stage. Many rows go back in one pass, a layer at
a time for all of them, in blocks of one fixed number that keep as many positions, filled up with zeros. How many
positions depends on the row's own alone: so each row's products have the same shapes, and its values the same bits,
whatever rows are asked for beside it and however many go in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_sae.circuits.frozen import Frozen
from sparse_sae.circuits.rows import PANEL, Block, Room, Row, batches
from sparse_sae.circuits.transformer import Norm

_CHUNK = 24  # positions that go through a product together; of a block, so many fit the second-level cache
_BLOCK = 256  # positions whose values are gathered at a time


@dataclass(frozen=True)
class Pulled:
    """Rows as computed: edges (n, n_sources), bias (n,), heads (n, n_layers, H) what went through each head."""

    edges: Tensor
    bias: Tensor
    heads: Tensor


def pull(frozen: Frozen, rows: Sequence[Row], each: Callable[[list[int], Pulled], None]) -> None:
    """Compute rows, a batch in one backward pass; `each` gets the numbers of a block's rows and their values.

    The values lie in memory that the next batch is computed in: `each` takes what it keeps.
    """
    parts = batches(frozen, rows)
    if not parts:
        return
    with torch.no_grad():
        room = Room.of(frozen, parts)
        for batch in parts:
            room.empty()
            taken = [Block.of(frozen, [rows[i] for i in numbers], n, numbers, room) for n, numbers in batch]
            _backward(frozen, taken, room)
            for block in reversed(taken):
                count = len(block.rows)
                each(block.numbers, Pulled(block.edges[:count], block.bias[:count], block.heads[:count]))


def _backward(f: Frozen, blocks: Sequence[Block], room: Room) -> None:
    """From the end of the residual stream to the embedding, a layer at a time for all blocks."""
    tf = f.transformer
    for layer in range(tf.n_layers - 1, -1, -1):
        live = [b for b in blocks if b.begin(2 * layer + 2)]
        if live:
            _sources(f, layer, live)
            _skip(f, layer, live)
        live = [b for b in blocks if b.begin(2 * layer + 1)]
        if live:
            _attention(f, layer, live, room)
    for block in blocks:
        block.begin(0)
        n = len(block.g)
        block.edges[:, :n] = (block.g * f.seen.embedding[:n, None]).sum(-1).T


def _sources(f: Frozen, layer: int, blocks: Sequence[Block]) -> None:
    """What this layer's MLP adds, source by source; a latent's own row begins below it.

    The vectors of a position's sources go in one product: its features, its error, and what is no source.
    """
    n_all, here = f.n_positions, f.features_of(layer)
    position, latent, activation = f.position[here], f.latent[here], f.activation[here]
    bounds = torch.searchsorted(position, torch.arange(n_all + 1, device=position.device))
    most = int(bounds.diff().max())
    first_error, first = n_all * (1 + layer), f.first_feature + here.start
    for start in range(0, max(len(b.g) for b in blocks), _CHUNK):
        stop = min(start + _CHUNK, n_all)
        vectors = f.error.new_zeros((stop - start, most + 2, f.transformer.d_model))
        vectors[:, most], vectors[:, most + 1] = f.error[layer, start:stop], f.mlp_bias[layer, 1]
        if start == 0:
            vectors[0, most + 1] = f.mlp_bias[layer, 0]
        a, b = int(bounds[start]), int(bounds[stop])
        at = position[a:b] - start
        rank = torch.arange(a, b, device=at.device) - bounds[position[a:b]]
        if b > a:
            vectors[at, rank] = f.transcoders[layer].W_dec[latent[a:b]] * activation[a:b, None]
        for block in blocks:
            g = block.g[start:stop]
            n = len(g)
            if not n:
                continue
            product = torch.bmm(g, vectors[:n].transpose(1, 2))  # (n, PANEL, sources of a position)
            block.bias += _over_positions(product[:, :, most + 1])
            block.edges[:, first_error + start : first_error + start + n] = product[:, :, most].T
            count = int(bounds[start + n]) - a
            if count:
                flat = product.permute(1, 0, 2).flatten(1)
                columns = at[:count] * (most + 2) + rank[:count]
                block.edges[:, first + a : first + a + count] = flat.index_select(1, columns)


def _folded(norm: Norm, weight: Tensor) -> Tensor:
    """x @ this is `norm.transpose(x @ weight)` but for the positions' scales."""
    weight = weight * norm.gain
    return weight - weight.mean(-1, keepdim=True) if norm.centred else weight


def _skip(f: Frozen, layer: int, blocks: Sequence[Block]) -> None:
    t, w = f.transcoders.get(layer), f.transformer.layers[layer]
    if t is None or t.W_skip is None:
        return
    weight = _folded(w.norm2, t.W_skip) if t.normed else t.W_skip
    for block in blocks:
        for g, at in _chunks(block.g):
            scaled = g * f.seen.scale2[layer][at, :, None] if t.normed else g.clone()
            g.flatten(0, 1).addmm_(scaled.flatten(0, 1), weight)


def _attention(f: Frozen, layer: int, blocks: Sequence[Block], room: Room) -> None:
    """Back through the heads' outputs, the frozen patterns and the values; heads of a group are added on the way."""
    w, seen = f.transformer.layers[layer], f.seen
    biased = bool(f.attn_bias[layer].any())
    W_V = _folded(w.norm1, w.W_V)
    pattern = f.pattern(layer).unflatten(0, (w.n_groups, -1))  # (G, R, to, from)
    turned: dict[int, list[Tensor]] = {}
    for block in blocks:
        n = len(block.g)
        if n not in turned:
            # a position is attended to by itself and later ones only
            turned[n] = [
                pattern[:, :, start:n, start : min(start + _BLOCK, n)].flatten(1, 2).transpose(1, 2)
                for start in range(0, n, _BLOCK)
            ]
        if biased:
            block.bias += _over_positions(block.g @ f.attn_bias[layer])
        by_group = room.spare(w.n_groups, w.n_heads // w.n_groups, n, PANEL, w.d_head)
        for g, at in _chunks(block.g):
            dz = (g.flatten(0, 1) @ w.W_O).unflatten(0, (-1, PANEL)).unflatten(-1, (w.n_heads, w.d_head))
            block.heads[:, layer, : w.n_heads] += _over_positions((dz * seen.z[layer][at, None]).sum(-1))
            by_group[:, :, at] = dz.unflatten(2, (w.n_groups, -1)).permute(2, 3, 0, 1, 4)
        for start, left in zip(range(0, n, _BLOCK), turned[n], strict=True):
            right = by_group[:, :, start:].flatten(1, 2).flatten(2)  # (G, R to, PANEL E)
            values = torch.bmm(left, right).unflatten(-1, (PANEL, w.d_head))  # (G, from, PANEL, E)
            for g, at in _chunks(block.g[start : start + _BLOCK]):
                scale = seen.scale1[layer][start : start + _BLOCK][at, :, None]
                scaled = values[:, at].permute(1, 2, 0, 3).flatten(2) * scale
                g.flatten(0, 1).addmm_(scaled.flatten(0, 1), W_V)


def _over_positions(x: Tensor) -> Tensor:
    """The sum over the first axis, laid out so that each sum has the same order of terms wherever its row stands."""
    return x.movedim(0, -1).contiguous().sum(-1)


def _chunks(g: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """Views of some positions at a time, so that what is made of them stays in the cache."""
    for start in range(0, len(g), _CHUNK):
        yield g[start : start + _CHUNK], slice(start, min(start + _CHUNK, len(g)))
