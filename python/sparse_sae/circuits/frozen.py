"""A model frozen on one prompt: linear from what enters it, and from what its features write, to everything above.

Attention patterns, the scales of all norms and the outputs of the features are held; a transcoder's skip stays
linear. Then each pre-activation is a sum over *sources* — tokens, errors, features — and a bias, and one backward
pass through linear maps, without autograd, gives all the terms of a row (Ameisen et al. 2025, "Circuit Tracing").

Sources are numbered: T tokens, then the errors layer by layer (T each), then the active features ordered by
layer, position and latent. At the first position features and errors are no sources unless asked for (a massive
activation, in most models); there, what the MLP adds counts as a bias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparse_sae._arguments import whole
from sparse_sae.circuits.dictionaries import DictionarySet
from sparse_sae.circuits.families import transformer_of
from sparse_sae.circuits.transformer import Pass, Transformer
from sparse_sae.sae import SAE

# Rows of weights copied at a time: large copies leave holes between what is kept, a layer each.
_GATHERED = 1024


@dataclass(frozen=True)
class Transcoder:
    """A layer's transcoder as tensors of the model's dtype: a = W_enc read + b_enc where active."""

    sae: SAE
    normed: bool  # reads what the second norm returns; else the residual stream before it
    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    W_skip: Tensor | None


@dataclass
class Frozen:
    """The frozen model of one prompt; build it with `freeze`.

    Attributes:
        transformer: the written-out model. ids: the prompt's T tokens. seen: what its forward pass saw.
        transcoders: layer -> transcoder, for the layers that have one.
        layer, position, latent, activation: of the F sources that are features.
        error: (n_layers, T, D) what the transcoder leaves out; all of the MLP's output where there is none.
        mlp_bias: (n_layers, 2, D) what the MLP adds that belongs to no source, at the first position and elsewhere.
        attn_bias: (n_layers, D) what attention adds whatever it reads.
        first_position: whether features and errors of the first position are sources.
    """

    transformer: Transformer
    ids: list[int]
    seen: Pass
    transcoders: dict[int, Transcoder]
    layer: Tensor
    position: Tensor
    latent: Tensor
    activation: Tensor
    error: Tensor
    mlp_bias: Tensor
    attn_bias: Tensor
    first_position: bool

    @property
    def n_positions(self) -> int:
        """Tokens of the prompt, T."""
        return len(self.ids)

    @property
    def n_sources(self) -> int:
        """Tokens, errors and features."""
        return self.n_positions * (1 + self.transformer.n_layers) + len(self.layer)

    @property
    def first_feature(self) -> int:
        """Number of the first source that is a feature."""
        return self.n_positions * (1 + self.transformer.n_layers)

    def logits(self, position: int) -> Tensor:
        """(V,) after a position."""
        with torch.no_grad():
            return self.transformer.unembed(self.seen.final[position], self.seen.scale_final[position])

    def pattern(self, layer: int) -> Tensor:
        """(H, T, T) attention of a layer: heads, to, from. Computed anew, as those of all layers of a long prompt
        take more memory than the model.
        """
        return self.transformer.pattern(layer, self.seen.q[layer], self.seen.k[layer])

    def features_of(self, layer: int) -> slice:
        """The features of a layer, as a slice of the feature arrays."""
        bounds = torch.searchsorted(self.layer, torch.tensor([layer, layer + 1]))
        return slice(int(bounds[0]), int(bounds[1]))


def freeze(
    model: Any,
    dictionaries: DictionarySet | Mapping[Any, SAE],
    ids: Sequence[int],
    *,
    first_position: bool = False,
    any_name: bool = False,
) -> Frozen:
    """Run a prompt and freeze the model on it.

    Args:
        model: a `LanguageModel` or a transformers model of a family in `sparse_sae.circuits.families`.
        dictionaries: transcoders from an MLP's input (`hook_resid_mid`, or a module path such as
            `model.layers.3.mlp:in`) to `hook_mlp_out`. Layers without one have errors only.
        ids: the prompt's tokens, two or more, each below the vocabulary's size.
        first_position: whether features and errors of the first position are sources.
        any_name: accept dictionaries of a model with another name.

    Raises:
        ValueError: tokens out of range or too few or too many; dictionaries that do not fit the model or read and
            write other places. NotImplementedError: another family, or codes that are not linear in the input.
    """
    tf = transformer_of(model)
    ids = _checked_ids(tf, ids)
    if not isinstance(dictionaries, DictionarySet):
        dictionaries = DictionarySet(dictionaries, model_name=tf.name)
    dictionaries.check(model, any_name=any_name)
    transcoders = {}
    for d in dictionaries.values():
        number, transcoder = _transcoder(tf, model, d.reads, d.writes, d.sae)
        transcoders[number] = transcoder
    with torch.no_grad():
        return _freeze(tf, ids, transcoders, first_position)


def again(frozen: Frozen, ids: Sequence[int]) -> Frozen:
    """The same model and transcoders, frozen on another prompt."""
    ids = _checked_ids(frozen.transformer, ids)
    with torch.no_grad():
        return _freeze(frozen.transformer, ids, frozen.transcoders, frozen.first_position)


def _checked_ids(tf: Transformer, ids: Sequence[int]) -> list[int]:
    ids = [whole("prompt", i) for i in ids]
    longest = int(getattr(tf.model.config, "max_position_embeddings", 0) or 0)
    if len(ids) < 2 or (longest and len(ids) > longest):
        raise ValueError(f"prompt: {len(ids)} token(s), expected 2 to the model's {longest}")
    if min(ids) < 0 or max(ids) >= tf.d_vocab:
        raise ValueError(f"prompt: tokens {min(ids)} to {max(ids)}, expected 0 to {tf.d_vocab - 1}")
    bos = getattr(tf.model.config, "bos_token_id", None)
    if bos is not None and ids[0] == ids[1] == bos:
        raise ValueError(f"prompt: begins with two tokens {bos}, the model's BOS; leave one out")
    return ids


def _transcoder(tf: Transformer, model: Any, reads: str, writes: str, sae: SAE) -> tuple[int, Transcoder]:
    from sparse_sae.lm import resolve

    out = resolve(model, writes)
    layer = out.layer
    if layer is None or out.module is not tf.layers[layer].mlp or out.side != "output":
        raise ValueError(
            f"dictionaries: one writes {writes!r}; an attribution graph takes transcoders that write hook_mlp_out"
        )
    into = resolve(model, reads)
    normed = into.module is tf.layers[layer].mlp and into.side == "input"
    if not normed and re.fullmatch(rf"blocks\.{layer}\.hook_resid_mid", reads) is None:
        raise ValueError(
            f"dictionaries: the one that writes {writes!r} reads {reads!r}, expected 'blocks.{layer}.hook_resid_mid' "
            "or the module path of that layer's MLP with ':in'"
        )
    if not sae.transform.is_identity:
        raise NotImplementedError(
            f"dictionaries: {writes!r} normalises each token, which is not linear; train it without"
        )
    dtype, device = tf.W_U.dtype, tf.W_U.device

    def tensor(values: Any) -> Tensor:
        # The SAE's own memory where torch takes it (it warns of what is read-only): a set is hundreds of megabytes.
        return torch.from_numpy(values if values.flags.writeable else values.copy()).to(device, dtype)

    skip = tensor(sae.params["W_skip"]) if "W_skip" in sae.params else None
    rows = sae.rows
    return layer, Transcoder(
        sae, normed, tensor(rows["W_enc"]), tensor(sae.b_enc), tensor(rows["W_dec"]), tensor(sae.b_dec), skip
    )


def _freeze(
    tf: Transformer, ids: list[int], transcoders: dict[int, Transcoder], first_position: bool
) -> Frozen:
    seen = tf.read(ids)
    error = torch.stack(seen.mlp_out)
    bias = error.new_zeros((tf.n_layers, 2, tf.d_model))
    parts: list[tuple[Tensor, ...]] = []
    for layer, t in sorted(transcoders.items()):
        read = tf.mlp_in(seen, layer) if t.normed else seen.mid[layer]
        codes = t.sae.encode(read.cpu().numpy())
        rows = torch.from_numpy(np.repeat(np.arange(len(ids)), np.diff(codes.indptr)))
        latent = torch.from_numpy(codes.indices.astype(np.int64))
        value = torch.from_numpy(codes.data).to(read)
        linear, made = torch.empty_like(value), torch.zeros_like(read)
        for start in range(0, len(value), _GATHERED):
            at = slice(start, start + _GATHERED)
            linear[at] = (t.W_enc[latent[at]] * read[rows[at]]).sum(-1) + t.b_enc[latent[at]]
            made.index_add_(0, rows[at], value[at, None] * t.W_dec[latent[at]])
        if len(value) and float((linear - value).abs().max()) > 1e-3 * float(value.abs().max()):
            raise NotImplementedError(
                f"dictionaries: layer {layer}: {t.sae!r} has codes that are not W_enc x + b_enc where active, so no "
                "edge into them is linear; use TopK, BatchTopK, JumpReLU or L1"
            )
        skip = 0 if t.W_skip is None else read @ t.W_skip.T
        error[layer] -= made + t.b_dec + skip
        # what the norm's own bias sends through the skip depends on no source
        beta = tf.layers[layer].norm2.bias if t.normed else None
        bias[layer] = t.b_dec + (0 if t.W_skip is None or beta is None else t.W_skip @ beta)
        if not first_position:
            bias[layer, 0] += made[0]
            kept = rows > 0
            rows, latent, value = rows[kept], latent[kept], value[kept]
        parts.append((torch.full_like(rows, layer), rows, latent, value))
    if not first_position:
        bias[:, 0] += error[:, 0]
        error[:, 0] = 0
    none = (torch.zeros(0, dtype=torch.long),) * 3 + (error.new_zeros(0),)
    layer_, position, latent, activation = (
        torch.cat(column) for column in zip(*(parts or [none]), strict=True)
    )
    attention = torch.stack([_attention_bias(tf, number) for number in range(tf.n_layers)])
    return Frozen(
        tf,
        ids,
        seen,
        transcoders,
        layer_,
        position,
        latent,
        activation,
        error,
        bias,
        attention,
        first_position,
    )


def _attention_bias(tf: Transformer, number: int) -> Tensor:
    """A row of a pattern adds up to one, so the biases of values come through whole."""
    w = tf.layers[number]
    v = w.W_V.new_zeros(w.W_V.shape[0]) if w.b_V is None else w.b_V
    if w.norm1.bias is not None:
        v = v + w.W_V @ w.norm1.bias
    z = v.unflatten(0, (w.n_groups, -1)).repeat_interleave(w.n_heads // w.n_groups, 0).flatten()
    out: Tensor = w.W_O @ z
    return out if w.b_O is None else out + w.b_O
