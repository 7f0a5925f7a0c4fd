"""Where rows of an attribution graph begin, the blocks in which they go back, and the memory that takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from sparse_sae.circuits.frozen import Frozen

PANEL = 16  # rows of a block
_COMBINED = 1024  # rows of a vocabulary that are added up at a time
_GRID = 8  # a row's gradient is kept for a multiple of so many positions, more in a long prompt
_REACHES = 32  # different lengths in a prompt: rows of one length alone share a block
_BATCH_BYTES = 1 << 25  # what the blocks of one pass may take, but for a single block; more for a long prompt

Part: TypeAlias = tuple[int, list[int]]  # the reach of a block's rows, and their numbers


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
    vector = _combined(gradient, tf.W_U)
    bias = 0.0 if tf.b_U is None else float(gradient @ tf.b_U)
    if tf.norm_final.bias is not None:
        bias += float(vector @ tf.norm_final.bias)
    vector = tf.norm_final.transpose(vector, frozen.seen.scale_final[position])
    return Row(tf.n_layers, position, vector, bias, before_attention=True)


def _combined(weights: Tensor, rows: Tensor) -> Tensor:
    """weights @ rows. A library's product of so many rows is cut by the number of threads, and so are its bits."""
    total = rows.new_zeros(rows.shape[1]).cpu().numpy()
    for start in range(0, len(rows), _COMBINED):
        at = slice(start, start + _COMBINED)
        total += (weights[at, None].cpu().numpy() * rows[at].cpu().numpy()).sum(0)
    return torch.from_numpy(total).to(rows.device)


def batches(f: Frozen, rows: Sequence[Row]) -> list[list[Part]]:
    """Rows of one reach in blocks, from the top of the model down, and the blocks of each pass."""
    by_reach: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        by_reach.setdefault(_reach(row.position, f.n_positions), []).append(number)
    found: list[list[Part]] = []
    size, limit = 0, max(_BATCH_BYTES, 4 * _pattern_bytes(f))
    for n, numbers in by_reach.items():
        numbers.sort(key=lambda i: -rows[i].stage)
        for start in range(0, len(numbers), PANEL):
            size += _block_bytes(f, n)
            if not found or size > limit:
                found.append([])
                size = _block_bytes(f, n)
            found[-1].append((n, numbers[start : start + PANEL]))
    return found


def _reach(position: int, n_positions: int) -> int:
    """Positions that a row's gradient is kept for: up to its own, rounded up."""
    grid = max(1, -(-n_positions // (_GRID * _REACHES))) * _GRID
    return min(n_positions, -(-(position + 1) // grid) * grid)


def _block_numbers(f: Frozen, n: int) -> int:
    return PANEL * (f.n_sources + n * f.transformer.d_model)


def _block_bytes(f: Frozen, n: int) -> int:
    return int(_block_numbers(f, n) * f.activation.element_size())


def _pattern_bytes(f: Frozen) -> int:
    """Of a layer's attention: each pass computes it anew, so where it is large more rows share it."""
    heads = max(w.n_heads for w in f.transformer.layers)
    return int(heads * f.n_positions**2 * f.activation.element_size())


class Room:
    """The memory that all passes of a `pull` are computed in, one piece.

    Blocks of different lengths that came and went would leave holes that nothing fits in.
    """

    def __init__(self, like: Tensor, places: int) -> None:
        self._memory, self._used = like.new_empty(places), 0

    @staticmethod
    def of(f: Frozen, batches: Sequence[Sequence[Part]]) -> Room:
        most = max(sum(_block_numbers(f, n) for n, _ in batch) for batch in batches)
        reach = max(n for batch in batches for n, _ in batch)
        heads = max(w.n_heads * w.d_head for w in f.transformer.layers)
        return Room(f.activation, most + PANEL * reach * heads)

    def empty(self) -> None:
        """Give up what was taken."""
        self._used = 0

    def take(self, *shape: int) -> Tensor:
        """Memory that nobody else has, with anything in it."""
        begin, self._used = self._used, self._used + math.prod(shape)
        return self._memory[begin : self._used].view(shape)

    def spare(self, *shape: int) -> Tensor:
        """Memory that the next call has as well."""
        return self._memory[self._used : self._used + math.prod(shape)].view(shape)


@dataclass
class Block:
    """Rows that go through every product together, filled up with rows of zeros.

    Attributes:
        rows: from the top of the model down. numbers: theirs, among all that were asked for.
        g: (n, PANEL, D) gradients with respect to the residual stream; those that begin lower down are still zero.
        begun: how many rows have begun.
        edges, bias, heads: as in `Pulled`.
    """

    rows: list[Row]
    numbers: list[int]
    g: Tensor
    edges: Tensor
    bias: Tensor
    heads: Tensor
    begun: int = 0

    @staticmethod
    def of(f: Frozen, rows: list[Row], n: int, numbers: list[int], room: Room) -> Block:
        tf = f.transformer
        g = room.take(n, PANEL, tf.d_model).zero_()
        bias = g.new_zeros(PANEL)
        for number, row in enumerate(rows):
            bias[number] = row.bias
        heads = g.new_zeros((PANEL, tf.n_layers, max(w.n_heads for w in tf.layers)))
        return Block(rows, numbers, g, room.take(PANEL, f.n_sources).zero_(), bias, heads)

    def begin(self, stage: int) -> bool:
        """Let rows of that stage and above begin; whether any has."""
        while self.begun < len(self.rows) and self.rows[self.begun].stage >= stage:
            row = self.rows[self.begun]
            self.g[row.position, self.begun] += row.vector
            self.begun += 1
        return self.begun > 0
