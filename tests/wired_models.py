"""Transformers wired by hand, whose circuits are therefore known, with the transcoders that their MLPs are.

Programs on a GPT-2 (`Board`): one-hot tokens and positions, ReLU neurons, weights zero but for what is wired. The
stream is kept centred and of nearly constant norm (a large constant, and a dimension that takes what is written out
again), so that LayerNorm changes next to nothing. Induction on a Llama: RMSNorm, rotary positions, two heads a layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import sparse_sae

Edge = tuple[
    Any, Any
]  # (target, source); a node is ("token", position), ("feature", layer, latent, position), "target"
_LARGE = 100.0


@dataclass
class Board:
    """A GPT-2 of two layers and two heads to be wired.

    names: the dimensions of its residual stream; "one" (constant) and "balance" are added.
    """

    names: list[str]
    words: list[str]
    positions: int
    neurons: list[list[tuple[dict[str, float], float, dict[str, float]]]] = field(
        default_factory=lambda: [[], []]
    )
    heads: dict[tuple[int, int], list[tuple[Any, Any, float]]] = field(default_factory=dict)
    values: dict[tuple[int, int], list[tuple[str, str]]] = field(default_factory=dict)
    reads_out: dict[str, dict[str, float]] = field(default_factory=dict)

    def attend(
        self, layer: int, head: int, pairs: list[tuple[str, str, float]], moves: list[tuple[str, str]]
    ) -> None:
        """A head whose score is Σ strength over pairs (dimension at the query, at the key); what it moves to where."""
        self.heads[layer, head], self.values[layer, head] = pairs, moves

    def neuron(self, layer: int, reads: dict[str, float], bias: float, writes: dict[str, float]) -> int:
        """ReLU(reads · x + bias), written; its number."""
        self.neurons[layer].append((reads, bias, writes))
        return len(self.neurons[layer]) - 1

    def build(self) -> tuple[Any, dict[Any, Any]]:
        """The model and the transcoders of its two MLPs."""
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        all_ = [*self.names, "one", "balance"]
        d = 2 * math.ceil(max(len(all_), 64) / 2)
        at = {name: i for i, name in enumerate(all_)}
        width = max(map(len, self.neurons))
        config = GPT2Config(
            vocab_size=len(self.words),
            n_embd=d,
            n_layer=2,
            n_head=2,
            n_positions=self.positions,
            n_inner=width,
            activation_function="relu",
            bos_token_id=0,
            eos_token_id=None,
            tie_word_embeddings=False,
        )
        model = GPT2LMHeadModel(config).eval().requires_grad_(False).double()
        spread = math.sqrt(2 * (_LARGE**2) / d + config.layer_norm_epsilon)
        for name, p in model.named_parameters():
            p.fill_(spread if ".ln_" in name and name.endswith("weight") else 0)
        base = model.transformer

        def centred(row: Any) -> Any:
            row[at["balance"]] -= row.sum()
            return row

        for i, word in enumerate(self.words):
            base.wte.weight[i, at[f"is {word}"]] = 1
            base.wte.weight[i, at["one"]] = _LARGE
            centred(base.wte.weight[i])
        for i in range(self.positions):
            if f"at {i}" in at:
                base.wpe.weight[i, at[f"at {i}"]] = 1
                centred(base.wpe.weight[i])
        E = d // 2
        for (layer, head), pairs in self.heads.items():
            block, first = base.h[layer], head * E
            for e, (query, key, strength) in enumerate(pairs):
                block.attn.c_attn.weight[at[query], first + e] = strength * math.sqrt(E)
                block.attn.c_attn.weight[at[key], d + first + e] = 1
            for e, (source, place) in enumerate(self.values[layer, head]):
                block.attn.c_attn.weight[at[source], 2 * d + first + e] = 1
                block.attn.c_proj.weight[first + e, at[place]] = 1
                centred(block.attn.c_proj.weight[first + e])
        saes = {}
        for layer, neurons in enumerate(self.neurons):
            mlp = base.h[layer].mlp
            for i, (reads, bias, writes) in enumerate(neurons):
                for name, weight in reads.items():
                    mlp.c_fc.weight[at[name], i] = weight
                mlp.c_fc.bias[i] = bias
                for name, weight in writes.items():
                    mlp.c_proj.weight[i, at[name]] = weight
                centred(mlp.c_proj.weight[i])
            saes[f"transformer.h.{layer}.mlp:in", f"blocks.{layer}.hook_mlp_out"] = transcoder(
                mlp.c_fc.weight.T, mlp.c_fc.bias, mlp.c_proj.weight
            )
        for word, reads in self.reads_out.items():
            for name, weight in reads.items():
                model.lm_head.weight[self.words.index(word), at[name]] = weight
        assert torch.isfinite(model(torch.tensor([[0, 1]])).logits).all()
        return model, saes


def transcoder(W_enc: Any, b_enc: Any, W_dec: Any) -> Any:
    """ReLU neurons as a transcoder; every matrix has a neuron a row."""
    params = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec}
    arrays = {k: np.ascontiguousarray(np.asarray(v, np.float64)) for k, v in params.items()}
    arrays["b_dec"] = np.zeros(arrays["W_dec"].shape[1])
    return sparse_sae.SAE.from_rows(arrays, sparse_sae.L1(), kind="transcoder", apply_b_dec_to_input=False)


def fractions() -> tuple[Any, dict[Any, Any], Any]:
    """How many of the tokens so far are x: none, some (more than .1), many (more than .45)."""
    words = ["BOS", "a", "b", "x", "none", "some", "many"]
    board = Board([f"is {w}" for w in words] + ["share", "low", "high", "some", "many"], words, 12)
    board.attend(0, 0, [], [("is x", "share")])
    low = board.neuron(0, {"share": 10}, -1, {"low": 1})
    high = board.neuron(0, {"share": 10}, -4.5, {"high": 1})
    some = board.neuron(1, {"low": 1, "high": -20}, 0, {"some": 1})
    many = board.neuron(1, {"high": 1}, 0, {"many": 1})
    board.reads_out = {"some": {"some": 1}, "many": {"many": 1}}

    def truth(ids: list[int]) -> tuple[str, set[Edge]]:
        edges: set[Edge] = set()
        answer = "none"
        for p in range(1, len(ids)):
            xs = [i for i in range(p + 1) if words[ids[i]] == "x"]
            share = len(xs) / (p + 1)
            answer = "many" if share > 0.45 else "some" if share > 0.1 else "none"
            for feature, least in ((low, 0.1), (high, 0.45)):
                if share > least:
                    edges |= {(("feature", 0, feature, p), ("token", i)) for i in xs}
            if answer == "some":
                edges.add((("feature", 1, some, p), ("feature", 0, low, p)))
            if answer == "many":
                edges.add((("feature", 1, many, p), ("feature", 0, high, p)))
        if answer != "none":
            edges.add(("target", ("feature", 1, some if answer == "some" else many, len(ids) - 1)))
        return answer, edges

    return *board.build(), truth


def counts() -> tuple[Any, dict[Any, Any], Any]:
    """hist: how often the current token has been seen, itself included, up to 4; a head weighs it against BOS."""
    letters, numbers = ["a", "b", "c"], ["1", "2", "3", "4"]
    words = ["BOS", *letters, *numbers]
    names = [f"is {w}" for w in words] + [
        "weight",
        *(f"up to {n}" for n in numbers),
        *(f"exactly {n}" for n in numbers),
    ]
    board = Board(names, words, 12)
    pairs = [(f"is {w}", f"is {w}", 30.0) for w in letters] + [(f"is {w}", "is BOS", 30.0) for w in letters]
    board.attend(0, 1, pairs, [("is BOS", "weight")])
    least = {n: (1 / (n + 1) + 1 / (n + 2)) / 2 for n in range(1, 5)}  # BOS gets 1 / (n + 1) of n matches
    for n in range(1, 5):
        board.neuron(0, {"weight": 60}, -60 * least[n], {f"up to {n}": 1})
        below = {f"up to {n - 1}": -20.0} if n > 1 else {}
        board.neuron(1, {f"up to {n}": 1, **below}, 0, {f"exactly {n}": 1})
    board.reads_out = {str(n): {f"exactly {n}": 1} for n in range(1, 5)}

    def truth(ids: list[int]) -> tuple[str, set[Edge]]:
        edges: set[Edge] = set()
        count = 0
        for p in range(1, len(ids)):
            count = sum(ids[i] == ids[p] for i in range(1, p + 1))
            edges |= {(("feature", 0, n - 1, p), ("token", 0)) for n in range(count, 5)}
            edges.add((("feature", 1, count - 1, p), ("feature", 0, count - 1, p)))
        edges.add(("target", ("feature", 1, count - 1, len(ids) - 1)))
        return str(count), edges

    return *board.build(), truth


def backwards() -> tuple[Any, dict[Any, Any], Any]:
    """reverse: four letters, a bar, then each read from behind, said one place later: two hops through two heads."""
    letters = ["a", "b", "c", "d"]
    words = ["BOS", *letters, "bar"]
    names = [f"is {w}" for w in words] + [f"at {i}" for i in range(10)]
    names += [f"{kind} {w}" for kind in ("fetched", "held", "moved", "said") for w in letters]
    board = Board(names, words, 10)
    lookup = [(f"at {5 + k}", f"at {4 - k}", 40.0) for k in range(4)]
    board.attend(0, 0, lookup, [(f"is {w}", f"fetched {w}") for w in letters])
    board.attend(
        1,
        1,
        [(f"at {6 + k}", f"at {5 + k}", 40.0) for k in range(4)],
        [(f"held {w}", f"moved {w}") for w in letters],
    )
    for w in letters:
        board.neuron(0, {f"fetched {w}": 1}, -0.5, {f"held {w}": 2})
        board.neuron(1, {f"moved {w}": 1}, -0.5, {f"said {w}": 2})
    board.reads_out = {w: {f"said {w}": 5} for w in letters}

    def truth(ids: list[int]) -> tuple[str, set[Edge]]:
        edges: set[Edge] = set()
        for p in range(5, len(ids)):
            source = 9 - p
            edges.add((("feature", 0, ids[source] - 1, p), ("token", source)))
            if p > 5:
                edges.add(
                    (("feature", 1, ids[source + 1] - 1, p), ("feature", 0, ids[source + 1] - 1, p - 1))
                )
        said = ids[9 - (len(ids) - 2)]
        edges.add(("target", ("feature", 1, said - 1, len(ids) - 1)))
        return words[said], edges

    return *board.build(), truth


N_LETTERS = 8
SPACES = ["is", "before", "held", "next", "said", "junk"]  # of the induction model's stream, after BOS


def induction() -> tuple[Any, dict[Any, Any]]:
    """A Llama that continues … A B … A with B. Token 0 is BOS, tokens 1 to 8 are letters.

    Head 0 of layer 0 moves each letter one place on; the MLP there holds it (feature v: the letter before was v).
    Head 1 of layer 1 looks for the place whose letter before is the current one and moves its letter here; the MLP
    there says it. Heads L0H1 and L1H0 attend and write, into dimensions that nothing reads.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    V, E = N_LETTERS, 32
    spaces = {name: slice(1 + i * V, 1 + (i + 1) * V) for i, name in enumerate(SPACES)}
    d = 2 + 6 * V  # BOS, and one to make it even
    config = LlamaConfig(
        vocab_size=V + 1,
        hidden_size=d,
        intermediate_size=V,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=E,
        max_position_embeddings=64,
        attention_bias=True,
        mlp_bias=True,
        rope_theta=1e8,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
        rms_norm_eps=1e-9,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False).double()
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        p.fill_(1 / math.sqrt(d) if "norm" in name else 0)  # a norm of one, then, is left alone
    eye = torch.eye(V, dtype=torch.float64)
    model.model.embed_tokens.weight[0, 0] = 1
    model.model.embed_tokens.weight[1:, spaces["is"]] = eye
    first, second = model.model.layers

    # Position: a query and a key whose fast pairs agree at a distance of one, and slow pairs that never turn.
    attention = first.self_attn
    frequency = config_frequencies(model)
    fast = [i for i in range(E // 2) if frequency[i] > 0.05]
    for i in fast:
        attention.q_proj.bias[i] = 30
        attention.k_proj.bias[i] = 30 * math.cos(frequency[i])
        attention.k_proj.bias[i + E // 2] = 30 * math.sin(frequency[i])
    attention.v_proj.weight[:V, spaces["is"]] = eye
    attention.o_proj.weight[spaces["before"], :V] = eye
    # Content: slow pairs hold the letter; BOS is what is looked at where no letter fits.
    attention = second.self_attn
    slow = torch.arange(E // 2 - V, E // 2) + E
    attention.q_proj.weight[slow, spaces["is"]] = 12 * eye
    attention.k_proj.weight[slow, spaces["held"]] = 12 * eye
    attention.q_proj.bias[int(slow[0]) + E // 2] = 12  # the other half of a slow pair
    attention.k_proj.weight[int(slow[0]) + E // 2, 0] = 2
    attention.v_proj.weight[E : E + V, spaces["is"]] = eye
    attention.o_proj.weight[spaces["next"], E : E + V] = eye
    for block, free in ((first, 1), (second, 0)):
        rows = slice(free * E, free * E + V)
        for projection in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj):
            projection.weight[rows, spaces["is"]] = torch.randn(V, V, generator=generator).double()
        block.self_attn.o_proj.weight[spaces["junk"], rows] = (
            0.1 * torch.randn(V, V, generator=generator).double()
        )
    saes = {}
    for layer, block, reads, writes in ((0, first, "before", "held"), (1, second, "next", "said")):
        # SiLU of a steep line is a ReLU: tens above the threshold, and e^-20 below it
        block.mlp.gate_proj.weight[:, spaces[reads]] = 100 * eye
        block.mlp.gate_proj.bias[:] = -20
        block.mlp.up_proj.bias[:] = 1
        block.mlp.down_proj.weight[spaces[writes]] = eye / 40
        saes[f"model.layers.{layer}.mlp:in", f"blocks.{layer}.hook_mlp_out"] = transcoder(
            block.mlp.gate_proj.weight, block.mlp.gate_proj.bias, block.mlp.down_proj.weight.T
        )
    model.lm_head.weight[1:, spaces["said"]] = 20 * eye
    return model, saes


def config_frequencies(model: Any) -> list[float]:
    """Radians a position of each rotary pair."""
    return [float(f) for f in model.model.rotary_emb.inv_freq]
