"""Attribution graphs against the Jacobian of the frozen model, on tiny random models of every family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from scipy.sparse import csr_array  # noqa: E402

import sparse_sae  # noqa: E402
from circuit_models import FAMILIES, IDS, model_of, transcoders  # noqa: E402
from sparse_sae.circuits import (  # noqa: E402
    AttributionGraph,
    DictionarySet,
    Feature,
    Logit,
    LogitDifference,
    LogitFunction,
    attribute,
    attribute_many,
    freeze,
    graph_of,
    pull as pull_module,
    rows as rows_module,
)
from sparse_sae.circuits.attribution import _largest  # noqa: E402
from sparse_sae.circuits.families import transformer_of  # noqa: E402
from sparse_sae.circuits.influence import csr_rows, influence, normalise, ordered_influence  # noqa: E402
from sparse_sae.circuits.pull import pull  # noqa: E402
from sparse_sae.circuits.rows import feature_row  # noqa: E402
from sparse_sae.circuits.targets import rows_of  # noqa: E402

torch.set_num_threads(1)


def differentiable(f: Any, scales: Any) -> tuple[Any, ...]:
    """The frozen model written a second time, forwards, from its sources: (pre-activations, logits)."""
    tf, seen = f.transformer, f.seen
    embedding = scales[: f.n_positions, None] * seen.embedding
    errors = scales[f.n_positions : f.first_feature].reshape(tf.n_layers, -1, 1) * f.error
    acts = scales[f.first_feature :] * f.activation
    x, pre = embedding, {}
    for number, w in enumerate(tf.layers):
        n1 = w.norm1.apply(x, seen.scale1[number])
        v = torch.nn.functional.linear(n1, w.W_V, w.b_V).unflatten(-1, (w.n_groups, -1))
        p = f.pattern(number)
        z = torch.stack([p[h] @ v[:, h // (w.n_heads // w.n_groups)] for h in range(w.n_heads)], 1).flatten(1)
        mid = x + torch.nn.functional.linear(z, w.W_O, w.b_O)
        n2 = w.norm2.apply(mid, seen.scale2[number])
        out = errors[number]
        t = f.transcoders.get(number)
        if t is None and not f.first_position:
            out = torch.cat([f.mlp_bias[number, :1], out[1:] + f.mlp_bias[number, 1]])
        if t is not None:
            read = n2 if t.normed else mid
            pre[number] = read @ t.W_enc.T + t.b_enc
            out = out + t.b_dec
            if t.W_skip is not None:
                out = out + read @ t.W_skip.T
            here = f.features_of(number)
            out = out.index_add(0, f.position[here], acts[here, None] * t.W_dec[f.latent[here]])
            if (
                not f.first_position
            ):  # what the first position's features and error add is held, and not a source
                held = seen.mlp_out[number][0] - t.b_dec
                if t.W_skip is not None:
                    own = tf.mlp_in(seen, number) if t.normed else seen.mid[number]
                    held = held - own[0] @ t.W_skip.T
                out = torch.cat([out[:1] + held, out[1:]])
        x = mid + out
    return pre, torch.nn.functional.linear(tf.norm_final.apply(x, seen.scale_final), tf.W_U, tf.b_U)


@pytest.mark.parametrize("first_position", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_edges_are_the_jacobian_of_the_frozen_model(family: str, first_position: bool) -> None:
    model = model_of(family)
    frozen = freeze(model, transcoders(model), IDS, first_position=first_position)
    targets = [Logit(7), LogitDifference(3, 4), Logit(5, position=2), LogitFunction(lambda x: x.logsumexp(0))]
    graph = graph_of(frozen, targets, max_features=None)
    one = torch.ones(frozen.n_sources, dtype=torch.float64)

    def everything(scales: Any) -> Any:
        pre, logits = differentiable(frozen, scales)
        ends = frozen.logits(-1).softmax(0)
        features = [
            pre[int(a)][int(b), int(c)]
            for a, b, c in zip(frozen.layer, frozen.position, frozen.latent, strict=True)
        ]
        wanted = [
            logits[-1, 7] - logits[-1].mean(),
            logits[-1, 3] - logits[-1, 4],
            logits[2, 5] - logits[2].mean(),
            ends @ logits[-1],
        ]
        return torch.stack([*features, *wanted])

    jacobian = torch.autograd.functional.jacobian(everything, one).numpy()
    edges = graph.edges.toarray()[frozen.first_feature :, : frozen.n_sources]
    np.testing.assert_allclose(edges, jacobian, rtol=1e-6, atol=1e-8 * np.abs(jacobian).max())
    assert np.abs(edges).max() > 0.1

    # what the rows leave out is their bias: with it they give the pre-activations of the model itself
    sums = edges.sum(1) + graph.bias[frozen.first_feature :]
    values = np.concatenate([frozen.activation.numpy(), graph.activation[-len(targets) :]])
    np.testing.assert_allclose(sums, values, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_float32_is_within_one_in_ten_thousand(family: str) -> None:
    exact = freeze(model_of(family), transcoders(model_of(family)), IDS)
    float32 = model_of(family, torch.float32)
    got = freeze(float32, transcoders(float32), IDS)
    np.testing.assert_array_equal(got.latent.numpy(), exact.latent.numpy())
    a, b = (graph_of(f, Logit(7), max_features=None).edges.toarray() for f in (exact, got))
    assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(a)


def test_a_row_has_the_same_bits_alone_and_among_others() -> None:
    frozen = freeze(model := model_of("llama", torch.float32), transcoders(model), IDS)
    rows = [
        feature_row(frozen, int(a), int(b), int(c))
        for a, b, c in zip(frozen.layer, frozen.position, frozen.latent, strict=True)
    ]
    together: dict[int, Any] = {}
    pull(frozen, rows, lambda n, got: together.update(zip(n, got.edges.numpy().copy(), strict=True)))
    assert len(together) == len(rows) > 16
    for number, row in enumerate(rows):
        alone: list[Any] = []
        pull(frozen, [row], lambda _n, got, alone=alone: alone.append(got.edges.numpy()[0].copy()))
        np.testing.assert_array_equal(alone[0], together[number])


@pytest.mark.parametrize("family", ["nine heads", "gpt2"])
def test_rows_have_the_same_bits_in_any_batch_and_with_any_threads(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of three chunks of positions, in passes of one block of rows and of all, on one to three threads."""
    rng = np.random.default_rng(0)
    model = model_of(family, torch.float32)
    monkeypatch.setattr(pull_module, "_CHUNK", 12)
    ids = [1, *rng.integers(2, 30, 28).tolist()]
    frozen = freeze(model, transcoders(model), ids)
    rows = [
        feature_row(frozen, int(frozen.layer[i]), int(frozen.position[i]), int(frozen.latent[i]))
        for i in rng.permutation(len(frozen.layer))[:120]
    ]

    def computed(numbers: list[int], batch_bytes: int, threads: int) -> dict[int, Any]:
        monkeypatch.setattr(rows_module, "_BATCH_BYTES", batch_bytes)
        torch.set_num_threads(threads)
        found: dict[int, Any] = {}

        def keep(places: list[int], got: Any) -> None:
            for place, *parts in zip(places, got.edges, got.bias, got.heads, strict=True):
                found[numbers[place]] = torch.cat([part.flatten() for part in parts]).numpy().copy()

        try:
            pull(frozen, [rows[i] for i in numbers], keep)
        finally:
            torch.set_num_threads(1)
        return found

    whole = computed(list(range(len(rows))), 1 << 40, 1)
    assert len(whole) == len(rows)
    for numbers, batch_bytes, threads in (
        (list(range(len(rows))), 1, 1),
        (rng.permutation(len(rows)).tolist(), 1 << 20, 2),
        (rng.permutation(len(rows))[:50].tolist(), 1 << 40, 3),
    ):
        for number, row in computed(numbers, batch_bytes, threads).items():
            np.testing.assert_array_equal(row, whole[number])


def test_a_target_over_a_large_vocabulary_has_the_same_bits_with_any_threads() -> None:
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.standard_normal(40_000).astype("f"))
    rows = torch.from_numpy(rng.standard_normal((40_000, 64)).astype("f"))
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(rows_module._combined(weights, rows))
    torch.set_num_threads(1)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0].double(), weights.double() @ rows.double(), rtol=1e-3, atol=1e-2)


def test_edges_take_eight_bytes_whole_and_pruned() -> None:
    model = model_of("llama", torch.float32)
    graph = attribute(model, transcoders(model), IDS, [7], max_features=None)
    for some in (graph, graph.prune()):
        assert some.edges.indices.dtype == np.int32 and some.edges.data.dtype == np.float32


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_batch_is_its_prompts_to_the_bit(family: str) -> None:
    """Graphs together and alone, targets together and alone, with and without the other rows."""
    model = model_of(family, torch.float32)
    prompts = [IDS, [1, 9, 3], [1, 4, 4, 8, 20, 31, 7, 2]]
    together = attribute_many(model, transcoders(model), prompts, [7, Logit(3)], max_features=None)
    for ids, graph in zip(prompts, together, strict=True):
        alone = attribute(model, transcoders(model), ids, [7, Logit(3)], max_features=None)
        for name in ("data", "indices", "indptr"):
            np.testing.assert_array_equal(getattr(graph.edges, name), getattr(alone.edges, name))
        for name in ("activation", "bias", "heads", "weight", "influence"):
            np.testing.assert_array_equal(getattr(graph, name), getattr(alone, name))
        one = attribute(model, transcoders(model), ids, 3, max_features=5)
        np.testing.assert_array_equal(one.edges[[-1]].toarray()[0, :-1], alone.edges[[-1]].toarray()[0, :-2])
        for row in np.flatnonzero(one.expanded[:-1]):
            np.testing.assert_array_equal(
                one.edges[[row]].toarray()[0, :-1], alone.edges[[row]].toarray()[0, :-2]
            )
    with pytest.raises(TypeError, match="call attribute for one"):
        attribute_many(model, transcoders(model), "text")


def test_missing_layers_are_errors_and_heads_add_up() -> None:
    model = model_of("llama")
    graph = attribute(model, transcoders(model, (2,)), IDS, Logit(7))
    assert graph.missing_layers == [0, 1] and "no transcoder in layers [0, 1]" in str(graph)
    assert (graph.kind == 1).sum() == 3 * len(IDS)
    # heads, MLPs and the token at the read position are everything that a logit reads directly
    frozen = freeze(model, transcoders(model, (2,), skip=False), IDS)
    (asked,) = rows_of(frozen, Logit(7))
    seen, tf = frozen.seen, frozen.transformer
    last = graph_of(frozen, Logit(7), max_features=1).heads[-1][2].sum()
    w = tf.layers[2]
    direct = float((seen.z[2][-1].flatten() @ w.W_O.T) @ asked.row.vector)
    np.testing.assert_allclose(last, direct, rtol=1e-4)


def test_limits_choose_rows_and_edges_and_say_what_they_leave() -> None:
    model = model_of("llama")
    whole = attribute(model, transcoders(model), IDS, max_features=None)
    some = attribute(model, transcoders(model), IDS, max_features=7, max_edges=10)
    features = some.kind == 2
    assert some.expanded[features].sum() == 7 and np.diff(some.edges.indptr).max() == 10
    pruned = some.prune(0.5, 0.9)
    places = [pruned.origin.index[i] for i in range(len(pruned))] if pruned.origin else []
    assert len(some.heads) == some.expanded.sum()
    assert 1 < len(pruned.heads) == pruned.expanded.sum()
    for node in range(len(some)):
        whole_heads = whole.heads_of(node) if some.expanded[node] else 0 * whole.heads[0]
        np.testing.assert_array_equal(some.heads_of(node), whole_heads)
        if node in places:
            np.testing.assert_array_equal(pruned.heads_of(places.index(node)), whole_heads)
    for row in np.flatnonzero(some.expanded):
        full = np.abs(whole.edges[[row]].toarray()).sum()
        np.testing.assert_allclose(np.abs(some.edges[[row]].toarray()).sum() + some.rest[row], full)
    expanded_value = whole.influence[np.flatnonzero(some.expanded & features)]
    assert expanded_value.mean() > 2 * whole.influence[features].mean()


def hand_made() -> AttributionGraph:
    """Token 0 -> feature 2 -> target 4 (weight 1), error 1 -> feature 2; feature 3 hangs on by a thread."""
    edges = np.zeros((5, 5))
    edges[2, 0], edges[2, 1], edges[3, 0] = 3, -1, 1
    edges[4, 2], edges[4, 3] = -9, 1
    n = 5
    return AttributionGraph(
        "m",
        [1],
        ["a"],
        1,
        np.array([0, 1, 2, 2, 3], np.int8),
        np.array([-1, 0, 0, 0, 1], np.int32),
        np.zeros(n, np.int32),
        np.zeros(n, np.int64),
        np.ones(n),
        np.array([0, 0, 0, 0, 1.0]),
        list("abcde"),
        csr_array(edges),
        np.zeros(n),
        np.zeros(n),
        np.ones(n, bool),
        np.zeros((n, 1, 1), np.float32),
        [],
    )


def test_influence_scores_and_pruning_by_hand() -> None:
    graph = hand_made()
    np.testing.assert_allclose(graph.influence, [0.9 * 0.75 + 0.1, 0.9 * 0.25, 0.9, 0.1, 0])
    np.testing.assert_allclose(graph.replacement, 0.775)
    np.testing.assert_allclose(graph.completeness, 1 - 0.25 * 0.9 / (0.775 + 0.225 + 0.9 + 0.1 + 1))
    pruned = graph.prune(node_threshold=0.8, edge_threshold=0.98)
    assert pruned.labels == ["a", "c", "e"] and pruned.edges.nnz == 2
    np.testing.assert_allclose(pruned.rest, [0, 1, 1])
    assert graph.prune(1.0, 1.0).edges.nnz == graph.edges.nnz
    with pytest.raises(ValueError, match=r"node_threshold: got 1.5"):
        graph.prune(1.5)


def test_influence_is_the_sum_over_all_paths() -> None:
    rng = np.random.default_rng(0)
    dense = np.tril(rng.normal(size=(12, 12)), -1).astype(np.float32)
    dense[rng.permutation(12)[:5]] = 0
    rest, weight = rng.random(12), rng.random(12)
    shares = np.abs(dense) / np.maximum(np.abs(dense).sum(1) + rest, 1e-10)[:, None]
    expected = weight @ (np.linalg.inv(np.eye(12) - shares) - np.eye(12))
    edges = csr_array(dense)
    np.testing.assert_allclose(normalise(edges, rest).toarray(), shares, rtol=1e-6)
    np.testing.assert_allclose(influence(normalise(edges, rest), weight), expected, rtol=1e-6)

    rows = list(csr_rows(edges, rest))
    assert len(rows) < 12
    shuffled = [rows[i] for i in rng.permutation(len(rows))]
    ordered = ordered_influence(shuffled, weight, np.arange(12))
    np.testing.assert_allclose(ordered, expected, rtol=1e-6)
    assert ordered_influence(rows, weight, np.arange(12)[::-1]) is None
    assert ordered_influence(rows, weight, np.zeros(12)) is None


def test_influence_of_a_graph_in_no_order_of_layers() -> None:
    graph = hand_made()
    upside_down = replace(graph, layer=-graph.layer)
    assert ordered_influence(csr_rows(graph.edges, graph.rest), graph.weight, upside_down._depth) is None
    np.testing.assert_allclose(upside_down.influence, graph.influence)
    np.testing.assert_allclose(upside_down.completeness, graph.completeness)


def test_a_row_keeps_its_largest_edges_and_the_sum_of_the_others() -> None:
    values = np.array([0, -3, 1, 0, 2, -2, 2, 0.5], np.float32)
    columns, kept, rest = _largest(values, 3)
    np.testing.assert_array_equal(columns, [1, 4, 5])  # of three edges of size 2, the first two
    np.testing.assert_array_equal(kept, [-3, 2, -2])
    assert rest == 3.5
    columns, kept, rest = _largest(values, 6)
    np.testing.assert_array_equal(columns, [1, 2, 4, 5, 6, 7])
    assert rest == 0


def test_a_pass_that_is_not_the_models_is_refused() -> None:
    model = model_of("llama")
    tf = transformer_of(model)
    tf.read(IDS)
    other = replace(tf, norm_final=replace(tf.norm_final, gain=tf.norm_final.gain * 1.01))
    with pytest.raises(NotImplementedError, match="written-out forward pass gives logits that differ by"):
        other.read(IDS)

    def doubled(_module: Any, _inputs: Any, out: Any) -> Any:
        out.logits = 2 * out.logits
        return out

    with model.register_forward_hook(doubled), pytest.raises(NotImplementedError, match="logits that differ"):
        tf.read(IDS)


def test_blocks_of_positions_are_the_whole_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("mistral")
    frozen = freeze(model, transcoders(model), IDS)
    whole = graph_of(frozen, Logit(7), max_features=None).edges.toarray()
    monkeypatch.setattr(pull_module, "_BLOCK", 2)
    np.testing.assert_allclose(
        graph_of(frozen, Logit(7), max_features=None).edges.toarray(), whole, rtol=1e-12, atol=1e-14
    )


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        influence(csr_array(np.array([[0, 1.0], [1.0, 0]])), np.ones(2))


def test_wrong_input_says_what_to_do() -> None:
    model = model_of("llama")
    good = transcoders(model)
    for ids, message in (
        ([1], r"prompt: 1 token"),
        ([1, 50], r"expected 0 to 49"),
        ([1, 1, 3], "two tokens 1"),
        (list(range(3, 40)), "37 token"),
        ("text", "no tokenizer"),
    ):
        with pytest.raises(ValueError, match=message):
            attribute(model, good, ids)
    for target, message in (
        (Logit(50), "token 50, expected 0 to 49"),
        (Logit("a"), "no tokenizer"),
        (Feature(1, 0, 0), r"expected one of \[0, 2\]"),
        (Feature(0, 0, 40), "expected 0 to d_sae - 1 = 39"),
        (Logit(3, position=9), "position: got 9"),
        ([], "none given"),
        (LogitFunction(lambda _x: torch.zeros(())), "depends on the logits"),
    ):
        with pytest.raises(ValueError, match=message):
            attribute(model, good, IDS, target)
    with pytest.raises(TypeError, match=r"targets: got 1.5, expected a token's text or number"):
        attribute(model, good, IDS, [1.5])
    with pytest.raises(TypeError, match=r"prompt: got 1.5, expected a whole number"):
        attribute(model, good, [1, 1.5])
    for options in ({"max_features": 0}, {"max_edges": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: got 0"):
            attribute(model, good, IDS, 7, **options)
    with pytest.raises(ValueError, match=r"kept: shape \(2,\), expected a boolean for each"):
        attribute(model, good, IDS, 7).subgraph(np.ones(2, bool))
    sae = good["blocks.2.hook_mlp_out"].sae
    with pytest.raises(ValueError, match="takes transcoders that write hook_mlp_out"):
        attribute(model, {("blocks.2.hook_resid_mid", "blocks.2.hook_resid_post"): sae}, IDS)
    with pytest.raises(ValueError, match=r"expected 'blocks.2.hook_resid_mid'"):
        attribute(model, {("blocks.1.hook_resid_mid", "blocks.2.hook_mlp_out"): sae}, IDS)
    with pytest.raises(ValueError, match="does not have"):
        attribute(model, {("blocks.7.hook_resid_mid", "blocks.7.hook_mlp_out"): sae}, IDS)


def test_another_name_or_width_is_refused(tmp_path: Any) -> None:
    from sparse_sae.lm import LanguageModel

    module = model_of("llama")
    good = transcoders(module)
    named = LanguageModel(module, None, "other")
    with pytest.raises(ValueError, match=r"made for the model 'llama', this one is 'other'"):
        attribute(named, good, IDS)
    assert len(attribute(named, good, IDS, any_name=True))
    narrow = sparse_sae.SAE.from_rows(
        {"W_enc": np.eye(8), "W_dec": np.eye(8), "b_enc": np.zeros(8), "b_dec": np.zeros(8)},
        sparse_sae.TopK(k=1),
        apply_b_dec_to_input=False,
    )
    with pytest.raises(ValueError, match="reads 8 numbers a token"):
        attribute(module, {("blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"): narrow}, IDS)


def test_a_set_is_saved_and_changed_files_are_refused(tmp_path: Any) -> None:
    model = model_of("llama")
    made = transcoders(model)
    made.save(tmp_path / "set")
    back = DictionarySet.load(tmp_path / "set")
    assert list(back) == list(made) and back.model_name == "llama"
    assert [d.reads for d in back.values()] == [d.reads for d in made.values()]
    for a, b in zip(made.values(), back.values(), strict=True):
        np.testing.assert_allclose(a.sae.W_enc, b.sae.W_enc, rtol=1e-6)
    weights = next((tmp_path / "set").rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="SHA-256"):
        DictionarySet.load(tmp_path / "set")
    with pytest.raises(FileNotFoundError, match=r"dictionaries\.json"):
        DictionarySet.load(tmp_path)
