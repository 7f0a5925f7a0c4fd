"""A two-layer transformer that has learned to continue repeated sequences; its induction circuit in SAE features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import sparse_sae
from sparse_sae.circuits import (
    DictionarySet,
    Logit,
    Pair,
    attribute,
    feature_circuit,
    head_scores,
    qk_attribution,
)
from sparse_sae.circuits.families import transformer_of
from sparse_sae.lm import read_hooks

V, T = 16, 32
RESIDUAL = "blocks.0.hook_resid_post"
MLP = ("blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out")


@dataclass
class Learned:
    """The model, its dictionaries, and the sequences they were trained on."""

    model: Any
    accuracy: float
    ids: Any  # (n, T + 1)
    residual: Any  # SAE
    transcoder: Any
    codes: Any  # (n T, latents) of the residual SAE


def sequences(rng: Any, n: int) -> Any:
    """BOS, then a block of 8 to 16 random letters again and again."""
    return np.array(
        [[0, *np.resize(rng.integers(1, V + 1, rng.integers(T // 4, T // 2 + 1)), T)] for _ in range(n)]
    )


def learn() -> Learned:
    """Train the model, an SAE of its residual stream and a transcoder of its first MLP."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = LlamaConfig(
        vocab_size=V + 1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=None,
        initializer_range=0.05,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    steps, right = 300, []
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * min(1, step / 50) * (1 - step / steps) ** 0.5
        ids = sequences(rng, 64)
        period = np.array(
            [next(p for p in range(8, 17) if (row[1 + p :] == row[1 : T + 1 - p]).all()) for row in ids]
        )
        told = torch.from_numpy(np.arange(T) >= period[:, None])  # only the repetition can be known
        x = torch.from_numpy(ids)
        logits = model(x[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[told], x[:, 1:][told])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        right.append(float((logits.argmax(-1) == x[:, 1:])[told].float().mean()))
    model = model.eval().requires_grad_(False)
    ids = sequences(rng, 3000)
    with torch.inference_mode():
        read = read_hooks(model, [RESIDUAL, *MLP], torch.from_numpy(ids))
    rows = {hook: x[:, 1:].reshape(-1, 64).numpy() for hook, x in read.items()}
    options: dict[str, Any] = {"d_sae": 256, "n_tokens": 500_000, "batch_size": 512, "progress": False}
    sae = sparse_sae.train(rows[RESIDUAL], sparse_sae.TopK(k=8), **options).sae
    transcoder = sparse_sae.train(
        (rows[MLP[0]], rows[MLP[1]]), sparse_sae.TopK(k=8), coder="transcoder", **options
    ).sae
    return Learned(
        model, float(np.mean(right[-10:])), ids, sae, transcoder, sae.encode(rows[RESIDUAL]).toarray()
    )


def asked(rng: Any) -> tuple[Pair, int]:
    """Twelve letters and seven of them again; the patch has another letter where the asked one stood before its answer.

    The place is where the answer stood the first time.
    """
    letters = [int(i) for i in rng.permutation(V) + 1]
    clean = [0, *letters[:12], *letters[:7]]
    patch = [*clean[:7], letters[12], *clean[8:]]
    return Pair(clean, patch, letters[7], letters[13]), 8


def explained(codes: Any, labels: Any) -> Any:
    """Share of each latent's variance that the labels explain."""
    means = np.array(
        [codes[labels == k].mean(0) if (labels == k).any() else codes.mean(0) for k in range(V + 1)]
    )
    spread = ((codes - codes.mean(0)) ** 2).sum(0)
    return ((means[labels] - codes.mean(0)) ** 2).sum(0) / np.maximum(spread, 1e-9)


def circuit_in_features(learned: Learned) -> dict[str, Any]:
    """How often the strongest feature is the right one, where the effect is, and curves beside the baselines.

    Right: it stands where the answer stood, tells the letter before and not the one that stands there, and of all
    heads one that looks one place back writes most of what it tells the two prompts apart by.
    """
    import torch

    back = head_scores(learned.model, n_sequences=16, length=12).previous()
    rng = np.random.default_rng(1)
    pairs = [asked(rng) for _ in range(24)]
    before, current = learned.ids[:, :-1].ravel(), learned.ids[:, 1:].ravel()
    by_before, by_current = explained(learned.codes, before), explained(learned.codes, current)
    saes = {RESIDUAL: learned.residual}
    tf = transformer_of(learned.model)
    hits = 0
    for pair, place in pairs:
        circuit = feature_circuit(learned.model, saes, [pair], method="exact", node_threshold=0.02)
        node = min((n for n in circuit.nodes if n.latent >= 0), key=lambda n: n.effect)
        right = node.position == place and by_before[node.latent] > 0.3 > by_current[node.latent]
        row = torch.from_numpy(np.array(learned.residual.rows["W_enc"][node.latent]))
        z = [tf.read(ids).z[0][place] for ids in (pair.clean, pair.patch)]
        by_head = ((z[0] - z[1])[:, None] * tf.layers[0].W_O.unflatten(1, (4, -1)).permute(1, 0, 2)).sum(
            -1
        ) @ row
        hits += right and (0, int(by_head.abs().argmax())) in back
    listed = [pair for pair, _ in pairs]
    circuit = feature_circuit(learned.model, saes, listed, method="integrated", node_threshold=0.05)
    by_place = np.abs(circuit.effects[0].units).sum(1)
    kinds: tuple[Any, ...] = ("features", "neurons", "random")
    curves = {
        units: feature_circuit(
            learned.model, saes, listed, units=units, positions="summed", node_threshold=0.01
        ).curve()
        for units in kinds
    }
    return {
        "pairs": len(pairs),
        "right": int(hits),
        "place": int(by_place.argmax()),
        "share_at_place": float(by_place[8] / by_place.sum()),
        "cpr": {units: c.cpr for units, c in curves.items()},
        "cmd": {units: c.cmd for units, c in curves.items()},
    }


def head_in_features(learned: Learned) -> dict[str, Any]:
    """Why the induction head looks where it does: how often the letter before, through a head that looks back."""
    heads = head_scores(learned.model, n_sequences=16, length=12)
    layer, head = heads.induction()[0]
    back = heads.previous()
    dictionaries = DictionarySet({MLP: learned.transcoder}, model_name="llama")
    rng = np.random.default_rng(2)
    from_letter, through_back, frozen = 0, 0, []
    for _ in range(16):
        pair, place = asked(rng)
        graph = attribute(learned.model, dictionaries, pair.clean, Logit(int(pair.right)))
        why = qk_attribution(graph, layer, head, query=-1, key=place, than=place - 3)
        tokens = np.array([why.by_key[i] if i < place else -np.inf for i in range(len(pair.clean))])
        from_letter += int(tokens.argmax()) == place - 1
        through_back += (0, int(why.key_heads[0].argmax())) in back
        frozen.append(graph.confirm(n_random=0).frozen.correlation)
    return {
        "prompts": 16,
        "from_letter": from_letter,
        "through_back": through_back,
        "frozen_least": float(min(frozen)),
    }
