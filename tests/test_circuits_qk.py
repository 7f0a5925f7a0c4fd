"""QK attributions: their sum against the model's own attention, their pairs against second differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from circuit_models import FAMILIES, IDS, model_of, transcoders  # noqa: E402
from sparse_sae.circuits import Logit, attribute, freeze, load_graph, qk_attribution, save_graph  # noqa: E402
from sparse_sae.circuits.ablation import _changed, _held, source  # noqa: E402
from sparse_sae.circuits.transformer import rotate  # noqa: E402


@pytest.mark.parametrize("family", FAMILIES)
def test_all_pairs_add_up_to_the_attention_of_the_model(family: str) -> None:
    model = model_of(family)
    model.set_attn_implementation("eager")
    own = model(torch.tensor([IDS]), output_attentions=True, use_cache=False).attentions
    frozen = freeze(model, transcoders(model), IDS)
    for layer, head, query in ((0, 1, 3), (2, 3, 5), (1, 2, 4)):
        window = frozen.transformer.layers[layer].window or 99
        keys = [j for j in range(query + 1) if query - j < window]
        found = [qk_attribution(frozen, layer, head, query, j) for j in keys]
        scores = torch.tensor([f.score for f in found])
        np.testing.assert_allclose(scores.softmax(0), own[layer][0, head, query, keys], rtol=1e-5)
        one = found[1]
        np.testing.assert_allclose(one.pattern, float(own[layer][0, head, query, keys[1]]), rtol=1e-5)
        np.testing.assert_allclose([one.by_query.sum(), one.by_key.sum()], one.score, rtol=1e-9)
        pairs = one.pairs(10**6)
        np.testing.assert_allclose(sum(p.value for p in pairs), one.score, rtol=1e-8, atol=1e-10)
        # through the heads of the layer just below: what W_O and the two maps make of their outputs
        w, seen = frozen.transformer.layers[layer], frozen.seen
        if layer and w.k_norm is None and family != "gpt2":
            below = frozen.transformer.layers[layer - 1]
            z = seen.z[layer - 1][keys[1]]
            written = torch.stack(
                [below.W_O.unflatten(1, (below.n_heads, -1))[:, h] @ z[h] for h in range(4)]
            )
            group = head // (w.n_heads // w.n_groups)
            W = w.W_K.unflatten(0, (w.n_groups, -1))[group]
            k = w.norm1.linear(written, seen.scale1[layer][keys[1]]) @ W.T
            cos, sin = frozen.transformer.rotation(len(IDS))
            direct = rotate(k, cos[keys[1]], sin[keys[1]]) @ seen.q[layer][head, query] * w.scale
            skip = frozen.transcoders.get(layer - 1)
            if skip is None:  # nothing else carries a head's output on
                np.testing.assert_allclose(one.key_heads[layer - 1], direct, rtol=1e-6)
        than = qk_attribution(frozen, layer, head, query, keys[1], than=keys[0])
        np.testing.assert_allclose(than.score, one.score - found[0].score, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_is_the_second_difference_of_the_score(family: str) -> None:
    """Score with both, without either, without both: the norms held, computed forwards."""
    model = model_of(family)
    frozen = freeze(model, transcoders(model), IDS)
    tf, seen, layer, head, query, key = frozen.transformer, frozen.seen, 2, 3, 5, 3
    w = tf.layers[layer]

    def projected(number: int | None, side: str) -> Any:
        x = seen.embedding[None].clone()
        changes = {}
        if number is not None:
            at, position, vector = source(frozen, number)
            if at < 0:
                x[0, position] -= vector
            changes[at] = [(0, position, vector)]
        pre = tf.pre(tf.run(x, _changed(_held(frozen), changes), seen, record=True), layer)[0]
        at = query if side == "query" else key
        n1 = w.norm1.apply(pre[at], seen.scale1[layer][at])
        own = w.norm1.apply(tf.pre(seen, layer)[at], seen.scale1[layer][at])
        W, b, norm, group = (
            (w.W_Q, w.b_Q, w.q_norm, head)
            if side == "query"
            else (w.W_K, w.b_K, w.k_norm, head // (w.n_heads // w.n_groups))
        )
        values, clean = (
            torch.nn.functional.linear(n, W, b).unflatten(0, (-1, w.d_head))[group] for n in (n1, own)
        )
        if norm is not None:
            values = norm.apply(values, norm.scale(clean))
        rotation = tf.rotation(len(IDS))
        return values if rotation is None else rotate(values, rotation[0][at], rotation[1][at])

    graph = attribute(model, transcoders(model), IDS, Logit(7))
    found = qk_attribution(graph, layer, head, query, key)
    top = [p for p in found.pairs(60) if p.query >= 0 and p.key >= 0]
    assert len(top) > 10 and abs(top[0].value) > 0.01
    clean = {side: projected(None, side) for side in ("query", "key")}
    for pair in [*top[:6], *top[-2:]]:
        q, k = projected(pair.query, "query"), projected(pair.key, "key")
        difference = float((clean["query"] - q) @ (clean["key"] - k)) * w.scale
        np.testing.assert_allclose(pair.value, difference, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found.value(pair.query, pair.key), pair.value)
        assert pair.query_label == graph.labels[pair.query] and pair.key_label == graph.labels[pair.key]
    assert {p.query_label.split(" ")[0] for p in found.pairs(5, kinds=["error"])} == {"error"}
    assert "L2H3 from position 5 to 3" in str(found)


def test_wrong_input_says_what_to_do(tmp_path: Any) -> None:
    model = model_of("mistral")  # a window of 4
    graph = attribute(model, transcoders(model), IDS, Logit(7))
    for at, message in (
        ((3, 0, 5, 5), "layer: got 3"),
        ((0, 4, 5, 5), "head: got 4"),
        ((0, 0, 2, 3), "hidden from a query at 2"),
        ((0, 0, 5, 1), "expected 2 to 5"),
        ((0, 0, 9, 1), "query: got 9"),
    ):
        with pytest.raises(ValueError, match=message):
            qk_attribution(graph, *at)
    with pytest.raises(ValueError, match="kinds: got"):
        qk_attribution(graph, 0, 0, 5, 5).pairs(kinds=["target"])
    save_graph(graph, tmp_path / "graph.npz")
    with pytest.raises(ValueError, match="holds no model"):
        qk_attribution(load_graph(tmp_path / "graph.npz"), 0, 0, 5, 5)
