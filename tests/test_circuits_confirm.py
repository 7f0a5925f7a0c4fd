"""`confirm`: ablations against edits of the transformers model itself, by hooks, on tiny random models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from circuit_models import FAMILIES, IDS, model_of, transcoders  # noqa: E402
from sparse_sae.circuits import (  # noqa: E402
    Confirmation,
    Feature,
    Logit,
    LogitDifference,
    LogitFunction,
    attribute,
    load_graph,
    save_graph,
)
from sparse_sae.circuits.ablation import keeping, source, without  # noqa: E402
from sparse_sae.circuits.graph import FEATURE, TOKEN  # noqa: E402
from sparse_sae.lm import resolve  # noqa: E402


def hooked(model: Any, edits: dict[str, Any], ids: Any = IDS) -> Any:
    """Logits (T, V) of the transformers model with edits at hook points."""
    from contextlib import ExitStack

    with ExitStack() as stack, torch.no_grad():
        for name, edit in edits.items():
            stack.enter_context(resolve(model, name).attach(edit))
        return model(torch.tensor([ids]), use_cache=False).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_edges_predict_the_frozen_model_and_nodes_are_ablated_in_the_model_itself(family: str) -> None:
    model = model_of(family)
    targets = [Logit(7), LogitDifference(3, 4), LogitFunction(lambda x: x.logsumexp(-1)), Feature(2, 3, 5)]
    graph = attribute(model, transcoders(model), IDS, targets, max_features=None)
    found = graph.confirm(n_edges=200, n_nodes=12, n_random=3)
    assert isinstance(found, Confirmation) and len(found.frozen) == 200
    np.testing.assert_allclose(found.frozen.measured, found.frozen.predicted, rtol=1e-6, atol=1e-7)
    assert found.frozen.correlation > 1 - 1e-9 and found.frozen.sign_agreement == 1
    assert {int(k) for k in graph.kind[found.frozen.source]} == {0, 1, 2}
    # live attention and norms are another matter, in a random model most of all
    assert found.attention.correlation < 0.999

    # a node's ablation is the model's own answer when that vector leaves hook_mlp_out
    frozen = graph.origin.frozen
    clean = hooked(model, {})
    for node, measured in zip(found.nodes.source[:6], found.nodes.measured, strict=False):
        layer, position, vector = source(frozen, int(node))

        def edit(x: Any, position: int = position, vector: Any = vector) -> Any:
            x = x.clone()
            x[0, position] -= vector
            return x

        read: dict[str, Any] = {}

        def see(x: Any, read: Any = read) -> None:
            read["mid"] = x

        logits = hooked(model, {f"blocks.{layer}.hook_mlp_out": edit, "blocks.2.hook_resid_mid": see})
        feature = read["mid"][0, 3] @ frozen.transcoders[2].W_enc[5]
        own = float(frozen.seen.mid[2][3] @ frozen.transcoders[2].W_enc[5] - feature)

        def fall(f: Any, logits: Any = logits) -> float:
            return float(f(clean[-1]) - f(logits[-1]))

        weight = float(clean[-1].softmax(0)[7])
        expected = weight * fall(lambda x: x[7] - x.mean()) + fall(lambda x: x[3] - x[4])
        expected += fall(lambda x: x.logsumexp(0)) + own
        np.testing.assert_allclose(measured, expected, rtol=1e-4, atol=1e-5)  # float32 in its norms


@pytest.mark.parametrize("errors", ["keep", "remove"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_circuit_runs_as_transcoders_in_the_place_of_mlps(family: str, errors: Any) -> None:
    model = model_of(family)
    graph = attribute(model, transcoders(model), IDS, Logit(7), max_features=None)
    frozen = graph.origin.frozen
    rng = np.random.default_rng(0)
    masks = [np.ones(len(frozen.layer), bool), rng.random(len(frozen.layer)) < 0.5]
    reader = graph.origin.reader(frozen.n_sources)
    got = keeping(frozen, masks, [reader], errors)[:, 0]
    if errors == "keep":
        np.testing.assert_allclose(got[0], graph.activation[-1], rtol=1e-6)

    def stand_in(layer: int, mask: Any) -> Any:
        t, places = frozen.transcoders.get(layer), {}

        def read(x: Any) -> None:
            places["read"] = x[0]

        def write(x: Any) -> Any:
            out = x.clone()
            if t is None:
                out[0, 1:] = frozen.error[layer, 1:] if errors == "keep" else 0
                return out
            codes = t.sae.encode(places["read"].numpy()).toarray()
            here = frozen.features_of(layer)
            allowed = np.zeros_like(codes)
            allowed[frozen.position[here], frozen.latent[here]] = mask[here]
            new = torch.from_numpy(codes * allowed) @ t.W_dec + t.b_dec + places["read"] @ t.W_skip.T
            out[0, 1:] = (new + (frozen.error[layer] if errors == "keep" else 0))[1:]
            return out

        return read, write

    edits: dict[str, Any] = {}
    for layer in range(3):
        read, write = stand_in(layer, masks[1])
        transcoder = frozen.transcoders.get(layer)
        if transcoder is not None:
            path = "transformer.h" if family == "gpt2" else "model.layers"
            edits[f"{path}.{layer}.mlp:in" if transcoder.normed else f"blocks.{layer}.hook_resid_mid"] = read
        edits[f"blocks.{layer}.hook_mlp_out"] = write
    logits = hooked(model, edits)[-1]
    np.testing.assert_allclose(got[1], float(logits[7] - logits.mean()), rtol=1e-5)


def test_faithfulness_of_nothing_everything_and_the_same_number_at_random() -> None:
    model = model_of("llama")
    graph = attribute(model, transcoders(model), IDS, LogitDifference(3, 4), max_features=None)
    found = graph.confirm(n_random=9, size=4)
    n = int((graph.kind == FEATURE).sum())
    assert found.sizes[-1] == n and 4 in found.sizes
    np.testing.assert_allclose(found.curve[-1], 1, rtol=1e-6)
    np.testing.assert_allclose(found.curve[found.sizes.index(4)], found.faithfulness)
    assert len(found.random) == 9 and np.ptp(found.random) > 0
    whole = graph.confirm(size=n, n_random=9)
    np.testing.assert_allclose(whole.completeness, 0, atol=1e-9)
    assert whole.p_random == 1  # random circuits of all features are the circuit itself
    assert "not shown to be more faithful than random circuits" in whole.verdict
    again = graph.confirm(n_random=9, size=4)
    np.testing.assert_array_equal(again.random, found.random)
    assert graph.confirmation is again


def test_what_was_not_measured_is_not_confirmed() -> None:
    model = model_of("llama")
    graph = attribute(model, transcoders(model), IDS, Logit(7))
    found = graph.confirm(n_random=0, n_nodes=2)
    assert np.isnan(found.p_random) and np.isnan(found.nodes.correlation)
    assert len(found.failed) == 2 and "none drawn" in found.verdict
    # a target that no feature reaches: nothing to be faithful to
    early = attribute(model, transcoders(model), IDS, Feature(0, 3, 5)).confirm()
    assert np.isnan(early.faithfulness) and np.isnan(early.p_random) and len(early.failed) >= 1


def test_the_verdict_is_printed_and_a_pruned_graph_is_confirmed_for_itself() -> None:
    model = model_of("llama")
    graph = attribute(model, transcoders(model), IDS, Logit(7))
    assert str(graph).endswith("not confirmed: call graph.confirm()")
    graph = attribute(model, transcoders(model), IDS, Logit(7), confirm=True)
    assert graph.confirmation and str(graph).endswith(graph.confirmation.verdict)
    assert "64 edges ablated in the frozen model r 1.00, same sign 100%" in str(graph)
    pruned = graph.prune(0.5)
    assert pruned.confirmation is None
    found = pruned.confirm(n_edges=1000)
    assert len(found.frozen) == pruned.edges.nnz
    np.testing.assert_allclose(found.frozen.measured, found.frozen.predicted, rtol=1e-6, atol=1e-7)
    assert len(found.circuit) == (pruned.kind == FEATURE).sum() < (graph.kind == FEATURE).sum()


def test_paraphrases_are_measured_on_their_own_graphs() -> None:
    model = model_of("llama")
    graph = attribute(model, transcoders(model), IDS, Logit(7))
    other = [1, 4, 9, 3, 3, 7, 11, 2]
    found = graph.confirm(size=5, paraphrases=[IDS, other])
    same, new = found.paraphrases
    unasked = attribute(
        model, transcoders(model), IDS
    )  # its likeliest tokens are what paraphrases are asked too
    asked = [Logit(int(i)) for i in unasked.latent[unasked.kind == 3]]
    named = attribute(model, transcoders(model), IDS, asked).confirm(paraphrases=[other], size=5)
    assert unasked.confirm(paraphrases=[other], size=5).paraphrases == named.paraphrases
    assert same.overlap == 1 and new.prompt == tuple(other)
    np.testing.assert_allclose(same.faithfulness, found.faithfulness)
    np.testing.assert_allclose(same.nodes, found.nodes.correlation)
    alone = attribute(model, transcoders(model), other, Logit(7)).confirm(size=5)
    np.testing.assert_allclose(new.faithfulness, alone.faithfulness)
    mean, deviation = found.spread
    np.testing.assert_allclose(mean, (2 * found.faithfulness + new.faithfulness) / 3)
    assert f"over 3 prompts {mean:.2f} ± {deviation:.2f}" in found.verdict


def test_a_wrong_edge_is_found_out() -> None:
    """The check can fail: with the signs of half of the edges turned over nothing is confirmed."""
    model = model_of("llama")
    graph = attribute(model, transcoders(model), IDS, Logit(7))
    graph.edges.data[::2] *= -1
    assert "edges do not predict the frozen model" in graph.confirm().failed


def test_many_passes_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    graph = attribute(model, transcoders(model), IDS, Logit(7))
    frozen = graph.origin.frozen
    reader = graph.origin.reader(frozen.n_sources)
    numbers = [0, 3, 9, 20, frozen.first_feature, frozen.n_sources - 1]
    together = without(frozen, numbers, [reader], "model")
    monkeypatch.setattr("sparse_sae.circuits.ablation._MOST", 1)
    np.testing.assert_allclose(without(frozen, numbers, [reader], "model"), together, rtol=1e-8, atol=1e-10)


def test_wrong_input_says_what_to_do(tmp_path: Any) -> None:
    model = model_of("llama")
    graph = attribute(model, transcoders(model), IDS, Logit(7))
    for options, message in (
        ({"size": 1000}, "size: got 1000, the graph has"),
        ({"n_edges": 0}, "n_edges: got 0"),
        ({"paraphrases": [[1]]}, "prompt: 1 token"),
        ({"paraphrases": ["text"]}, "no tokenizer"),
        ({"n_random": -1}, "n_random: got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            graph.confirm(**options)
    with pytest.raises(TypeError, match="expected a list"):
        graph.confirm(paraphrases="text")
    save_graph(graph, tmp_path / "graph.npz")
    with pytest.raises(ValueError, match="it holds no model"):
        load_graph(tmp_path / "graph.npz").confirm()
    with pytest.raises(ValueError, match="nothing to ablate"):
        graph.subgraph(graph.kind == TOKEN).confirm()
