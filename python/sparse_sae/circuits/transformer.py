"""A transformer written out: the weights of a transformers model, and its forward pass in which parts can be frozen.

Circuits need what a library's forward pass hides: the attention patterns, the scales of the norms, the
values of each head, and a way to hold them fixed. So the pass is written here once, over views of the
model's own parameters, and checked against the model itself (`Transformer.check`) on every prompt.

Shapes: leading batch axes are written …; T positions, D residual width, H heads, G groups of heads that share
keys and values, R = H / G, E width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparse_sae.lm.model.prompts import logits_of

_CHECKED = 32  # positions whose logits are compared at a time


@dataclass(frozen=True)
class Norm:
    """LayerNorm or RMSNorm, cut into a scale for each position and a linear map.

    y = (x - mean) · scale · gain + bias.
    """

    centred: bool
    gain: Tensor
    bias: Tensor | None
    eps: float

    def scale(self, x: Tensor) -> Tensor:
        """(…, 1): one over the root of the mean square."""
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)

    def linear(self, x: Tensor, scale: Tensor) -> Tensor:
        """The map without its bias, at a fixed scale."""
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return x * scale * self.gain

    def apply(self, x: Tensor, scale: Tensor) -> Tensor:
        """The map at a fixed scale, bias included."""
        y = self.linear(x, scale)
        return y if self.bias is None else y + self.bias

    def transpose(self, gradient: Tensor, scale: Tensor) -> Tensor:
        """The gradient with respect to x, of one with respect to y, at a fixed scale."""
        g = gradient * self.gain * scale
        return g - g.mean(-1, keepdim=True) if self.centred else g


@dataclass(frozen=True)
class Layer:
    """The parameters of one layer; every W is (out, in)."""

    norm1: Norm
    norm2: Norm
    W_Q: Tensor  # (H E, D)
    W_K: Tensor  # (G E, D)
    W_V: Tensor  # (G E, D)
    W_O: Tensor  # (D, H E)
    b_Q: Tensor | None
    b_K: Tensor | None
    b_V: Tensor | None
    b_O: Tensor | None
    q_norm: Norm | None
    k_norm: Norm | None
    mlp: nn.Module
    n_heads: int
    n_groups: int
    scale: float
    window: int | None

    @property
    def d_head(self) -> int:
        """Width of a head, E."""
        return int(self.W_Q.shape[0]) // self.n_heads


@dataclass
class Pass:
    """What one forward pass of one prompt saw; lists have an entry a layer.

    Attributes:
        embedding: (T, D) what enters layer 0 (token, and learned position where the model has one).
        mid: (T, D) residual stream before the MLP; that before attention is `Transformer.pre`.
        scale1, scale2: (T, 1) scales of the two norms; scale_final of the last one.
        q, k: (H or G, T, E) queries and keys as they are multiplied (rotated, normalised).
        z: (T, H, E) outputs of the heads.
        mlp_out: (T, D) what the MLP adds; what it reads is `Transformer.mlp_in`.
        final: (T, D) residual stream after the last layer.
        logits: of the positions asked for; `Transformer.read` asks for none, as those of all positions of a long
            prompt take more memory than the model: see `Transformer.unembed`.
    """

    embedding: Tensor
    mid: list[Tensor]
    scale1: list[Tensor]
    scale2: list[Tensor]
    q: list[Tensor]
    k: list[Tensor]
    z: list[Tensor]
    mlp_out: list[Tensor]
    final: Tensor
    scale_final: Tensor
    logits: Tensor


Mlp = Callable[[int, Tensor, Tensor], Tensor]  # layer, hook_resid_mid, normalised -> what the MLP adds


@dataclass(frozen=True)
class Transformer:
    """The parameters of a model, by their names in the field.

    Build it with `transformer_of(model)` (`sparse_sae.circuits.families`).
    """

    name: str
    model: nn.Module
    layers: Sequence[Layer]
    norm_final: Norm
    W_U: Tensor  # (V, D)
    b_U: Tensor | None
    embed: Callable[[Tensor], Tensor]
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.W_U.shape[1])

    @property
    def d_vocab(self) -> int:
        """Number of tokens."""
        return int(self.W_U.shape[0])

    def mlp(self, layer: int, _mid: Tensor, x: Tensor) -> Tensor:
        """The model's own MLP of that layer."""
        out: Tensor = self.layers[layer].mlp(x)
        return out

    def rotation(self, n: int) -> tuple[Tensor, Tensor] | None:
        """(n, E) cosines and sines of the first n positions, or None."""
        if self.rotary is None:
            return None
        cos, sin = self.rotary(self.W_U[:1, None], torch.arange(n, device=self.W_U.device)[None])
        return cos[0].to(self.W_U.dtype), sin[0].to(self.W_U.dtype)

    def heads(self, layer: int, n1: Tensor, rotation: Any) -> tuple[Tensor, Tensor]:
        """Queries (…, H, T, E) and keys (…, G, T, E) of what attention reads, (…, T, D)."""
        w = self.layers[layer]
        q = split_heads(nn.functional.linear(n1, w.W_Q, w.b_Q), w.n_heads)
        k = split_heads(nn.functional.linear(n1, w.W_K, w.b_K), w.n_groups)
        if w.q_norm is not None and w.k_norm is not None:
            q, k = w.q_norm.apply(q, w.q_norm.scale(q)), w.k_norm.apply(k, w.k_norm.scale(k))
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        return q, k

    def pattern(self, layer: int, q: Tensor, k: Tensor) -> Tensor:
        """Attention patterns (…, H, T, T) of queries and keys."""
        w = self.layers[layer]
        n = q.shape[-2]
        scores = (q @ k.repeat_interleave(w.n_heads // w.n_groups, -3).transpose(-1, -2)) * w.scale
        back = torch.arange(n)[:, None] - torch.arange(n)[None]
        hidden = (back < 0) | (back >= (w.window or n))
        return scores.masked_fill_(hidden.to(scores.device), -torch.inf).softmax(-1)

    def run(
        self,
        embedding: Tensor,
        mlp: Mlp | None = None,
        frozen: Pass | None = None,
        record: bool = False,
        positions: slice = slice(None),
        first: int = 0,
    ) -> Pass:
        """The forward pass of what enters layer `first`, (…, T, D).

        Args:
            embedding: what enters that layer.
            mlp: what stands in place of the MLPs; None for the model's own.
            frozen: attention patterns and scales of the norms are taken from this pass.
            record: keep what the layers saw, not only the end; for one prompt, (T, D).
            positions: where logits are wanted.
            first: the layer that the pass begins with; above 0 nothing can be recorded.
        """
        x = embedding
        replaced = mlp or self.mlp
        names = ("mid", "scale1", "scale2", "q", "k", "z", "mlp_out")
        # What is kept has its own memory, one piece for all layers: among what is freed it would leave holes.
        kept: dict[str, Tensor] = {}
        rotation = self.rotation(x.shape[-2])
        for number, w in list(enumerate(self.layers))[first:]:
            scale1 = frozen.scale1[number] if frozen else w.norm1.scale(x)
            n1 = w.norm1.apply(x, scale1)
            q, k = (frozen.q[number], frozen.k[number]) if frozen else self.heads(number, n1, rotation)
            v = nn.functional.linear(n1, w.W_V, w.b_V)
            z = mix(self.pattern(number, q, k), v, w.n_groups)
            mid = x + nn.functional.linear(z, w.W_O, w.b_O)
            scale2 = frozen.scale2[number] if frozen else w.norm2.scale(mid)
            n2 = w.norm2.apply(mid, scale2)
            out = replaced(number, mid, n2)
            x = mid + out
            if record:
                z = z.unflatten(-1, (w.n_heads, w.d_head))
                for name, value in zip(names, (mid, scale1, scale2, q, k, z, out), strict=True):
                    if name not in kept:
                        kept[name] = value.new_empty((len(self.layers) - first, *value.shape))
                    kept[name][number - first] = value
        scale = frozen.scale_final if frozen else self.norm_final.scale(x)
        logits = self.unembed(x[..., positions, :], scale[..., positions, :])
        seen = {name: list(kept[name]) if record else [] for name in names}
        return Pass(embedding, **seen, final=x, scale_final=scale, logits=logits)

    def pre(self, seen: Pass, layer: int) -> Tensor:
        """(T, D) residual stream before a layer's attention, as a recorded pass had it."""
        return seen.embedding if layer == 0 else seen.mid[layer - 1] + seen.mlp_out[layer - 1]

    def mlp_in(self, seen: Pass, layer: int) -> Tensor:
        """(T, D) what a layer's MLP read in a recorded pass."""
        return self.layers[layer].norm2.apply(seen.mid[layer], seen.scale2[layer])

    def unembed(self, x: Tensor, scale: Tensor) -> Tensor:
        """Logits (…, V) of the end of the residual stream (…, D) at a scale of the last norm (…, 1)."""
        return nn.functional.linear(self.norm_final.apply(x, scale), self.W_U, self.b_U)

    def read(self, ids: Sequence[int]) -> Pass:
        """The pass of one prompt with everything recorded, checked against the model."""
        tokens = torch.as_tensor(list(ids), device=self.W_U.device)
        with torch.no_grad():
            seen = self.run(self.embed(tokens), record=True, positions=slice(0))
            self.check(tokens, seen)
        return seen

    def check(self, tokens: Tensor, seen: Pass) -> None:
        """Raise where the logits of a pass are not those of the model: then this file does not know its family.

        Raises:
            NotImplementedError: they differ by more than 0.1 % of the logits' spread.
        """
        ends: list[Tensor] = []
        base: Any = self.model.base_model
        with base.register_forward_hook(lambda _module, _inputs, out: ends.append(out[0][0])):
            last = logits_of(self.model, tokens[None], keep=1, use_cache=False).logits[0, -1:]
        head: Any = self.model.get_output_embeddings()
        difference = spread = 0.0
        for start in range(0, len(tokens), _CHECKED):
            at = slice(start, start + _CHECKED)
            own = head(ends[0][at])
            ours = self.unembed(seen.final[at], seen.scale_final[at])
            difference = max(difference, float((own - ours).abs().max()))
            spread = max(spread, float(own.std(-1).max()))
        difference = max(difference, float((last[0] - ours[-1]).abs().max()))  # nothing comes after the head
        if not difference <= 1e-3 * spread + 1e-6:
            raise NotImplementedError(
                f"model {self.name!r}: the written-out forward pass gives logits that differ by {difference:.3g} from "
                "the model's own, so its attention or norms are not the ones known here; no graph of it would be true"
            )


def split_heads(x: Tensor, n: int) -> Tensor:
    """(…, n, T, E) of (…, T, n E)."""
    return x.unflatten(-1, (n, -1)).transpose(-2, -3)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021), the halves of a head's width paired."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def unrotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The transpose of `rotate`, which is its inverse."""
    return rotate(x, cos, -sin)


def mix(pattern: Tensor, v: Tensor, n_groups: int) -> Tensor:
    """Head outputs (…, T, H E): pattern (…, H, T, T) times values (…, T, G E)."""
    values = split_heads(v, n_groups).repeat_interleave(pattern.shape[-3] // n_groups, -3)
    return (pattern @ values).transpose(-2, -3).flatten(-2)
