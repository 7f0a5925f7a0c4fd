"""Feature circuits over clean/patch pairs: effects, edges and faithfulness against passes of the model itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.integrate import trapezoid

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import sparse_sae  # noqa: E402
import wired_models  # noqa: E402
from circuit_models import FAMILIES, model_of, transcoders  # noqa: E402
from sparse_sae.circuits import Pair, feature_circuit, pair_margins  # noqa: E402
from sparse_sae.circuits.effects import sides  # noqa: E402
from sparse_sae.circuits.unit_faithfulness import matched  # noqa: E402
from sparse_sae.lm import read_hooks, resolve  # noqa: E402

CLEAN, PATCH = [1, 9, 3, 7, 11, 9], [1, 9, 3, 8, 11, 9]
PAIRS = [Pair(CLEAN, PATCH, 7, 4), Pair([1, 5, 3, 7, 2, 9], [1, 5, 4, 7, 2, 9], 7, 4)]
ALL = {"node_threshold": 1e-12, "edge_threshold": 1e-12}


def residual_saes(layers: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    saes = {}
    for layer in layers:
        params = {
            "W_enc": rng.normal(size=(40, 32)),
            "W_dec": rng.normal(size=(40, 32)) / 6,
            "b_enc": rng.normal(size=40) / 4,
            "b_dec": rng.normal(size=32) / 4,
        }
        saes[f"blocks.{layer}.hook_resid_post"] = sparse_sae.SAE.from_rows(
            {k: v.astype(np.float32) for k, v in params.items()}, sparse_sae.TopK(k=6)
        )
    return saes


def metric(model: Any, pair: Pair, edits: dict[str, Any], ids: Any = None) -> float:
    from contextlib import ExitStack

    with ExitStack() as stack, torch.no_grad():
        for hook, edit in edits.items():
            stack.enter_context(resolve(model, hook).attach(edit))
        logits = model(torch.tensor([ids or pair.clean]), use_cache=False).logits[0, -1]
    return float(logits[pair.right] - logits[pair.wrong])


def moved(position: int, vector: Any) -> Any:
    def edit(x: Any) -> Any:
        x = x.clone()
        x[:, position] += torch.as_tensor(vector).to(x)
        return x

    return edit


@pytest.mark.parametrize("units", ["features", "neurons", "random"])
@pytest.mark.parametrize("family", FAMILIES)
def test_effects_are_those_of_the_model(family: str, units: Any) -> None:
    """Exact: a pass with the unit as in the patch prompt. Attribution: its derivative."""
    model = model_of(family)
    pair = PAIRS[0]
    exact = feature_circuit(model, residual_saes(), [pair], method="exact", units=units, **ALL)
    linear = feature_circuit(model, residual_saes(), [pair], units=units, **ALL)
    clean = metric(model, pair, {})
    np.testing.assert_allclose(
        [exact.value, exact.patched], [clean, metric(model, pair, {}, pair.patch)], rtol=1e-5
    )
    strong = sorted(exact.nodes, key=lambda n: -abs(n.effect))
    for node in [*strong[:3], *(n for n in strong if n.latent < 0)][:5]:
        u = next(u for u in exact._units if u.hook == node.hook)
        a, b = (
            sides(u, read_hooks(model, [u.hook], torch.tensor([ids]))[u.hook].float().numpy())
            for ids in (pair.clean, pair.patch)
        )
        if node.latent < 0:
            move = (b.error - a.error)[node.position]
        else:
            change = (b.codes - a.codes).toarray()[node.position, node.latent]
            move = change * u.directions[node.latent]
        got = metric(model, pair, {node.hook: moved(node.position, move)}) - clean
        np.testing.assert_allclose(node.effect, got, rtol=1e-4, atol=1e-5)
        h = 1e-3
        slope = [metric(model, pair, {node.hook: moved(node.position, s * h * move)}) for s in (1, -1)]
        match = [
            n
            for n in linear.nodes
            if (n.hook, n.position, n.latent) == (node.hook, node.position, node.latent)
        ]
        np.testing.assert_allclose(match[0].effect, (slope[0] - slope[1]) / (2 * h), rtol=2e-3, atol=1e-4)
    assert (units == "features") == any(n.latent < 0 for n in exact.nodes)


def test_integrated_effects_add_up_to_the_whole_difference() -> None:
    model = model_of("llama")
    circuit = feature_circuit(model, residual_saes(), PAIRS, method="integrated", steps=200, **ALL)
    for e in circuit.effects:
        total = e.units.sum() + e.errors.sum()
        np.testing.assert_allclose(total, circuit.patched - circuit.value, rtol=0.02)


@pytest.mark.parametrize("positions", ["separate", "summed"])
@pytest.mark.parametrize("units", ["features", "neurons"])
def test_edges_into_all_targets_are_the_effect_of_a_source(units: Any, positions: Any) -> None:
    """The chain rule: everything passes through the next hook point of the residual stream."""
    model = model_of("llama")
    circuit = feature_circuit(model, residual_saes(), PAIRS, units=units, positions=positions, **ALL)
    below = [i for i, n in enumerate(circuit.nodes) if n.hook == circuit.hooks[0]]
    totals = np.asarray(circuit.edges.sum(0)).ravel()[below]
    effects = [circuit.nodes[i].effect for i in below]
    np.testing.assert_allclose(totals, effects, rtol=1e-3, atol=1e-4 * np.abs(effects).max())


def test_an_edge_is_a_derivative_through_one_feature() -> None:
    model, pair = model_of("gpt2"), PAIRS[0]
    circuit = feature_circuit(model, residual_saes(), [pair], **ALL)
    lower, upper = circuit._units
    a, b = (
        sides(lower, read_hooks(model, [lower.hook], torch.tensor([ids]))[lower.hook].float().numpy())
        for ids in (pair.clean, pair.patch)
    )
    change = (b.codes - a.codes).toarray()
    dense = np.abs(circuit.edges.toarray())
    for t, s in np.argwhere(dense >= np.sort(dense.ravel())[-12]):
        target, source = circuit.nodes[t], circuit.nodes[s]
        if target.latent < 0 or source.latent < 0:
            continue
        move = change[source.position, source.latent] * lower.directions[source.latent]

        def pre(sign: float, move: Any = move, source: Any = source, target: Any = target) -> float:
            with resolve(model, lower.hook).attach(moved(source.position, sign * 1e-3 * move)):
                x = read_hooks(model, [upper.hook], torch.tensor([pair.clean]))[upper.hook]
            return float(x[0, target.position] @ torch.from_numpy(upper.readers[target.latent]).double())

        direction = upper.directions[target.latent]
        up, down = (
            metric(model, pair, {upper.hook: moved(target.position, s * 1e-3 * direction)}) for s in (1, -1)
        )
        expected = (up - down) / 2e-3 * (pre(1) - pre(-1)) / 2e-3
        np.testing.assert_allclose(circuit.edges[t, s], expected, rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("reference", ["patch", "zero"])
@pytest.mark.parametrize("errors", ["default", "keep"])
@pytest.mark.parametrize("units", ["features", "neurons", "random"])
def test_all_nodes_are_the_model_and_none_is_nothing(units: Any, errors: Any, reference: Any) -> None:
    model = model_of("llama")
    circuit = feature_circuit(model, residual_saes(), PAIRS, units=units, **ALL)
    options = {"errors": errors, "reference": reference}
    curve = circuit.curve(**options)
    assert curve.fractions[-1] == 1 and len(set(curve.sizes)) == len(curve.sizes)
    if reference == "patch":  # a unit without effect is the same on both sides, so nothing is lost without it
        np.testing.assert_allclose(curve.faithfulness[-1], 1, rtol=1e-4)
        if errors == "default":  # live errors wake latents that neither side has, and that no circuit holds
            np.testing.assert_allclose(curve.completeness[-1], 0, atol=1e-4)
    with pytest.raises(ValueError, match="no node has an effect of 1e\\+09 or more, the largest is"):
        feature_circuit(model, residual_saes(), PAIRS, units=units, node_threshold=1e9)
    np.testing.assert_allclose(
        curve.cpr - 1, -trapezoid(1 - np.array([0, *curve.faithfulness]), [0, *curve.fractions]), rtol=1e-9
    )
    assert f"errors {errors}, reference {reference}: CPR {curve.cpr:.3f}" in str(curve)
    assert curve.cmd >= abs(1 - curve.cpr) - 1e-9


def test_faithfulness_by_hand() -> None:
    """The circuit's codes and errors written out, at both hook points, one after the other."""
    model, pair = model_of("llama"), PAIRS[0]
    circuit = feature_circuit(model, residual_saes(), [pair], node_threshold=0.02)
    assert 3 < len(circuit.nodes) < 60
    kept = {(n.hook, n.position, n.latent) for n in circuit.nodes}
    patch = {
        u.hook: sides(u, read_hooks(model, [u.hook], torch.tensor([pair.patch]))[u.hook].float().numpy())
        for u in circuit._units
    }

    def put(u: Any) -> Any:
        def edit(x: Any) -> Any:
            a = u.encode(x[0].float().numpy())
            error = u.error(x[0].float().numpy(), a)
            out = x.clone()
            codes, other = a.toarray(), patch[u.hook].codes.toarray()
            for t in range(1, x.shape[1]):
                now = [codes[t, j] if (u.hook, t, j) in kept else other[t, j] for j in range(len(u))]
                e = error[t] if (u.hook, t, -1) in kept else patch[u.hook].error[t]
                out[0, t] = torch.from_numpy(np.array(now) @ u.directions + u.offset + e)
            return out

        return edit

    m = metric(model, pair, {u.hook: put(u) for u in circuit._units})
    expected = (m - circuit.patched) / (circuit.value - circuit.patched)
    np.testing.assert_allclose(circuit.faithfulness(), expected, rtol=1e-3, atol=1e-4)
    assert circuit.faithfulness(errors="remove") != circuit.faithfulness(errors="keep")


def axes(model: Any, names: dict[str, slice], width: int) -> Any:
    """An SAE whose latents are named dimensions of the stream: (SAE, names)."""
    at = [i for s in names.values() for i in range(s.start, s.stop)]
    rows = np.eye(width, dtype=np.float32)[at]
    zero = np.zeros(len(at), np.float32)
    params = {"W_enc": rows, "W_dec": rows, "b_enc": zero, "b_dec": np.zeros(width, np.float32)}
    labels = [f"{name} {i + 1}" for name, s in names.items() for i in range(s.stop - s.start)]
    return sparse_sae.SAE.from_rows(params, sparse_sae.L1()), labels


@pytest.mark.parametrize("method", ["integrated", "exact"])
def test_the_induction_circuit_of_the_wired_model(method: Any) -> None:
    """What is moved, and, through the attention, why: patching either side finds the right features."""
    model, _ = wired_models.induction()
    V, d = wired_models.N_LETTERS, 2 + 6 * wired_models.N_LETTERS
    spaces = {name: slice(1 + i * V, 1 + (i + 1) * V) for i, name in enumerate(wired_models.SPACES)}
    saes, labels = {}, {}
    for layer, names in ((0, ("is", "before", "held")), (1, ("is", "before", "held", "next", "said"))):
        hook = f"blocks.{layer}.hook_resid_post"
        saes[hook], labels[hook] = axes(model, {n: spaces[n] for n in names}, d)
    clean = [0, 3, 5, 2, 7, 3]

    def found(patch: list[int], right: int, wrong: int) -> tuple[Any, set[Any]]:
        pair = Pair(clean, patch, right, wrong)
        circuit = feature_circuit(model, saes, [pair], method=method, node_threshold=0.3, steps=20)
        return circuit, {(n.hook[7], labels[n.hook][n.latent], n.position) for n in circuit.nodes}

    # the letter that is moved: 5 or 6 after the first 3
    circuit, nodes = found([0, 3, 6, 2, 7, 3], 5, 6)
    assert nodes >= {("0", "is 5", 2), ("0", "is 6", 2), ("1", "said 5", 5), ("1", "said 6", 5)}
    assert {n for n in nodes if n[0] == "1"} <= {("1", f"said {i}", 5) for i in (5, 6)}
    assert {n for n in nodes if n[0] == "0"} == {("0", "is 5", 2), ("0", "is 6", 2)}
    np.testing.assert_allclose(circuit.faithfulness(), 1, atol=0.01)
    np.testing.assert_allclose(circuit.completeness(), 0, atol=0.01)
    # the letter that draws the head there: 3 or 4 before the 5
    circuit, nodes = found([0, 4, 5, 2, 7, 3], 5, 6)
    assert ("0", "held 3", 2) in nodes and {n for n in nodes if n[0] == "1"} == {("1", "said 5", 5)}
    assert all(n[2] == 2 for n in nodes if n[0] == "0")
    np.testing.assert_allclose(circuit.faithfulness(), 1, atol=0.2)  # less is left in the norm's denominator


def test_margins_come_in_the_order_of_the_pairs() -> None:
    model = model_of("llama")
    pairs = [PAIRS[0], Pair([1, 9, 3, 7], [1, 9, 4, 7], 7, 4), PAIRS[1]]
    by_hand = [[metric(model, p, {}), -metric(model, p, {}, p.patch)] for p in pairs]
    np.testing.assert_allclose(pair_margins(model, pairs, batch_size=1), by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pair_margins(model, pairs), by_hand, rtol=1e-5, atol=1e-6)


def test_random_circuits_have_as_many_features_at_the_same_places() -> None:
    model = model_of("llama")
    whole = feature_circuit(model, residual_saes(), PAIRS, **ALL)
    circuit = feature_circuit(model, residual_saes(), PAIRS, max_nodes=12, edge_threshold=None)
    largest = sorted(whole.nodes, key=lambda n: -abs(n.effect))[:12]
    assert {str(n) for n in circuit.nodes} == {str(n) for n in largest} and circuit.edges.nnz == 0
    assert sum(n.latent >= 0 for n in circuit.nodes) > 5
    draws = circuit.random(n_random=8, seed=1)
    np.testing.assert_array_equal(draws, circuit.random(n_random=8, seed=1))
    curve = whole.curve(sizes=[12, 3])
    assert curve.sizes == [3, 12]
    np.testing.assert_allclose(curve.faithfulness[1], circuit.faithfulness(), rtol=1e-6)
    np.testing.assert_allclose(curve.completeness[1], circuit.completeness(), rtol=1e-6)
    with pytest.raises(ValueError, match="sizes: got 100000, expected a whole number from 1 up to"):
        whole.curve(sizes=[100_000])
    assert len(set(draws)) > 4 and circuit.faithfulness() not in draws
    drawn = [
        matched(m, e, np.random.default_rng(0)) for m, e in zip(circuit.masks(), circuit.effects, strict=True)
    ]
    for mask, random, e in zip(circuit.masks(), drawn, circuit.effects, strict=True):
        np.testing.assert_array_equal(random.units.sum(1), mask.units.sum(1))
        np.testing.assert_array_equal(random.errors, mask.errors)
        assert e.units[random.units].all()
    # a circuit of everything that has an effect leaves no choice
    np.testing.assert_allclose(whole.random(n_random=2), whole.faithfulness(), rtol=1e-6)
    for options in ({"n_random": 0}, {"errors": "x"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: got"):
            circuit.random(**options)


def test_lengths_may_differ_where_positions_are_summed() -> None:
    model = model_of("llama")
    pairs = [*PAIRS, Pair([1, 9, 3, 7], [1, 9, 4, 7], 7, 4)]
    with pytest.raises(ValueError, match=r"prompts of 4, 6 tokens, expected .* positions='summed'"):
        feature_circuit(model, residual_saes(), pairs)
    circuit = feature_circuit(model, residual_saes(), pairs, positions="summed", node_threshold=0.02)
    assert {n.position for n in circuit.nodes} == {-1} and circuit.effects[0].units.shape == (1, 40)
    alone = [
        feature_circuit(model, residual_saes(), [p], positions="summed", **ALL).effects[0] for p in pairs
    ]
    np.testing.assert_allclose(circuit.effects[0].units, np.mean([e.units for e in alone], 0), atol=1e-4)
    assert np.isfinite(circuit.faithfulness([Pair(CLEAN, PATCH, 7, 4)]))
    separate = feature_circuit(model, residual_saes(), PAIRS, node_threshold=0.02)
    with pytest.raises(ValueError, match="prompts of 4 tokens, expected 6"):
        separate.faithfulness(pairs[2:])


def test_wrong_input_says_what_to_do() -> None:
    model = model_of("llama")
    saes = residual_saes()
    for pairs, message in (
        ([], "pairs: none given"),
        ([Pair(CLEAN, PATCH[:-1], 7, 4)], "clean has 6 tokens and patch 5"),
        ([Pair(CLEAN, [2, *PATCH[1:]], 7, 4)], "begin with the same token"),
        ([Pair([1], [1], 7, 4)], "clean has 1"),
        ([Pair(CLEAN, PATCH, "a", 4)], "the model has no tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            feature_circuit(model, saes, pairs)
    with pytest.raises(ValueError, match="feature circuits take SAEs"):
        feature_circuit(model, transcoders(model), PAIRS)
    for options, message in (
        ({"method": "x"}, "expected one of attribution"),
        ({"units": "x"}, "expected one of features"),
        ({"steps": 0}, "steps: got 0"),
        ({"node_threshold": 0}, "node_threshold: got 0"),
        ({"positions": "x"}, "expected one of separate"),
        ({"max_nodes": 0}, "max_nodes: got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            feature_circuit(model, saes, PAIRS, **options)
    circuit = feature_circuit(model, saes, PAIRS, node_threshold=0.02)
    with pytest.raises(ValueError, match="errors: got 'x', expected one of default"):
        circuit.faithfulness(errors="x")
    with pytest.raises(ValueError, match="does not have"):
        feature_circuit(model, {"blocks.9.hook_resid_post": saes["blocks.0.hook_resid_post"]}, PAIRS)
