"""Pursuit codes solve the problem they state, and dictionaries learned with them find the truth."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from sparse_sae import SAE, TopK, load, train
from sparse_sae.architectures import Pursuit
from sparse_sae.match import match
from sparse_sae.pursuit import encode, inference, learn, refine
from sparse_sae.synthetic import lesson, superposition


def dictionary(seed, m, d):
    W = np.random.default_rng(seed).standard_normal((m, d)).astype(np.float32)
    return W / np.linalg.norm(W, axis=1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 8), st.floats(0.05, 1.0))
def test_lasso_codes_satisfy_the_optimality_conditions(seed, m, d, penalty):
    """At the minimum the gradient is 0 where a code is positive and not negative elsewhere."""
    rng = np.random.default_rng(seed)
    W = dictionary(seed, m, d) * rng.uniform(0.5, 2, (m, 1)).astype(np.float32)
    x = rng.standard_normal((7, d)).astype(np.float32)
    z = encode(x, W, method="lasso", penalty=penalty, tolerance=1e-6).toarray()
    gradient = (z @ W - x) @ W.T + penalty * np.linalg.norm(W, axis=1)
    assert z.min() >= 0
    assert gradient.min() > -2e-3
    assert np.abs(gradient[z > 1e-3]).max(initial=0) < 2e-2


def test_reweighting_removes_shrinkage_and_small_entries():
    data = lesson(n_samples=500, noise=0.02)
    plain, sharp = (encode(data.x, data.features, method=m, penalty=0.4) for m in ("lasso", "reweighted"))
    error = [np.linalg.norm(data.x - z @ data.features) for z in (plain, sharp)]
    assert error[1] < 0.6 * error[0]
    assert sharp.nnz < 0.85 * plain.nnz


@pytest.mark.parametrize("method", ["omp", "iht"])
def test_k_methods_recover_codes_over_an_easy_dictionary(method):
    rng = np.random.default_rng(0)
    W = dictionary(1, 40, 60)
    truth = np.zeros((50, 40), np.float32)
    for row in truth:
        row[rng.choice(40, 3, replace=False)] = rng.uniform(1, 2, 3)
    codes = encode(truth @ W + 1.5, W * 2, np.full(60, 1.5), method=method, k=3)
    assert_allclose(codes.toarray(), truth / 2, atol=1e-3)


@pytest.mark.parametrize("how", [{"method": "omp", "k": 4}, {"method": "iht", "k": 4}])
def test_refits_are_least_squares_on_their_support(how):
    from scipy.optimize import nnls

    x, W = np.random.default_rng(2).standard_normal((20, 6)), dictionary(3, 15, 6)
    codes = encode(x, W, **how)
    assert np.diff(codes.indptr).max() <= 4
    for i in range(20):
        active = codes.indices[codes.indptr[i] : codes.indptr[i + 1]]
        expected, _ = nnls(W[active].T.astype(float), x[i])
        assert_allclose(codes.data[codes.indptr[i] : codes.indptr[i + 1]], expected, atol=2e-3)


def test_pursuit_beats_the_linear_encoder_at_the_true_dictionary():
    """What the module is for: with the true dictionary given, a TopK of W_dec x finds few of the active
    features."""
    data = lesson(n_samples=1000)
    true = data.codes.toarray() > 0.2
    linear = data.x @ data.features.T
    linear_active = linear >= np.sort(linear, axis=1)[:, [-3]]
    found = encode(data.x, data.features, method="reweighted", penalty=0.4).toarray() > 0
    recall = [(a & true).sum() / true.sum() for a in (linear_active, found)]
    assert recall[0] < 0.55
    assert recall[1] > 0.7
    assert found.sum(axis=1).mean() < 3.5


@pytest.mark.parametrize("method", inference.METHODS)
def test_rows_do_not_depend_on_their_neighbours(method):
    x, W = np.random.default_rng(4).standard_normal((9, 5)), dictionary(5, 11, 5)
    W[3] = 0  # a dead row never fires and divides nothing
    how = {"k": 3} if method in ("omp", "iht") else {"penalty": 0.2}
    whole = encode(x, W, method=method, **how)
    one_by_one = np.concatenate([encode(x[i : i + 1], W, method=method, **how).toarray() for i in range(9)])
    assert_array_equal(whole.toarray(), one_by_one)
    assert_array_equal(whole.toarray(), encode(x, W, method=method, num_threads=3, **how).toarray())
    assert whole.dtype == np.float32
    assert whole.has_sorted_indices
    assert_array_equal(whole[:, [3]].toarray(), 0)
    assert encode(x[:0], W, method=method, **how).shape == (0, 11)


def test_refuses():
    x, W = np.ones((2, 3)), np.eye(3)
    for how, message in [
        ({"method": "nnls"}, "method: got"),
        ({"method": "lasso"}, "takes a penalty"),
        ({"method": "lasso", "penalty": 0.1, "k": 2}, "no k"),
        ({"method": "omp", "k": 4}, "k in 1..3"),
        ({"method": "omp", "k": 2, "penalty": 0.1}, "no penalty"),
        ({"method": "omp", "k": 2, "n_steps": 5}, "n_steps"),
        ({"method": "iht", "k": 2, "n_steps": 0}, "n_steps"),
        ({"method": "lasso", "penalty": 0.1, "n_steps": 5}, "n_steps: got 5 for 'lasso', expected .*iht"),
        ({"method": "iht", "k": 2, "tolerance": 1e-4}, "tolerance: got 0.0001 for 'iht'"),
        ({"penalty": 0.1, "tolerance": 0.0}, "tolerance: got 0.0 for 'reweighted'"),
    ]:
        with pytest.raises(ValueError, match=message):
            encode(x, W, **how)
    with pytest.raises(ValueError, match=r"x: got shape .*, expected \(n, 3\)"):
        encode(x[:, :2], W, penalty=0.1)
    with pytest.raises(ValueError, match="b_dec: got shape"):
        encode(x, W, np.ones(2), penalty=0.1)
    with pytest.raises(ValueError, match="x holds NaN"):
        encode(x * np.nan, W, penalty=0.1)
    with pytest.raises(ValueError, match="W_dec: got shape"):
        encode(x, W[0], penalty=0.1)
    with pytest.raises(ValueError, match="restarts: got 1, expected at least 2"):
        learn(np.ones((20, 3)), restarts=1, d_sae=2)
    with pytest.raises(ValueError, match="d_sae, batch_size"):
        learn(np.ones((20, 3)), d_sae=21)
    with pytest.raises(ValueError, match="x: got shape"):
        learn(np.ones(20))


def test_learning_finds_a_small_truth_and_its_size():
    data = lesson(seed=5, n_samples=4000, n_features=16, d_in=10)
    how = {"d_sae": 20, "n_steps": 60, "n_polish": 20, "batch_size": 256, "restarts": 2}
    found = learn(data.x, **how)
    m = match(found.W_dec, data, chance=0)
    assert m.above(0.95) == 16
    assert len(found.W_dec) == 16
    assert found.stability.shape == (16,)
    assert min(found.report, key=lambda r: r["nats_per_sample"])["d_sae"] == 16


def test_learning_repeats_itself():
    x = lesson(n_samples=600, n_features=6, d_in=6).x
    how = {"d_sae": 7, "n_steps": 10, "n_polish": 3, "batch_size": 100, "restarts": 2}
    assert_array_equal(learn(x, **how).W_dec, learn(x, **how).W_dec)
    assert not np.array_equal(learn(x, **how).W_dec, learn(x, seed=1, **how).W_dec)


def test_pursuit_is_an_architecture_that_saves_and_trains(tmp_path):
    data = lesson(n_samples=400)
    n = len(data.features)
    params = {"W_enc": data.features, "W_dec": data.features, "b_enc": np.zeros(n, np.float32)}
    sae = SAE.from_rows(params | {"b_dec": np.zeros(8, np.float32)}, Pursuit(penalty=0.4))
    codes = sae.encode(data.x)
    assert_allclose(codes.toarray(), encode(data.x, data.features, penalty=0.4).toarray())
    assert_allclose(sae.encode(data.x, latents=[9, 2]).toarray(), codes.toarray()[:, [9, 2]])
    sae.save(tmp_path / "sae")
    again = load(tmp_path / "sae")
    assert again.activation == sae.activation
    assert (again.encode(data.x) != codes).nnz == 0
    result = train(
        data.x, Pursuit(method="omp", k=3), d_sae=24, n_tokens=8000, batch_size=200, lr=1e-2, seed=0
    )
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]
    scaled = train(data.x * 100, Pursuit(penalty=0.1), d_sae=24, n_tokens=400, batch_size=200).sae
    assert scaled.activation.penalty > 1  # was in units of the scaled data, is now in those of x
    assert 1 < scaled.encode(data.x * 100).nnz / 400 < 8
    with pytest.raises(ValueError, match=r"k in 1\.\.24"):
        train(data.x, Pursuit(method="omp", k=25), d_sae=24, n_tokens=800)


def refined_simply(x, codes, W, threshold):
    """The definition, a latent at a time."""
    kept = np.zeros_like(codes)
    for n, j in zip(*codes.nonzero(), strict=True):
        others = codes[n].copy()
        others[j] = 0
        alone = (x[n] - others @ W) @ W[j] / np.linalg.norm(W[j])
        kept[n, j] = codes[n, j] if alone > threshold else 0
    return kept


@pytest.mark.parametrize("threads", [1, 2])
def test_refinement_keeps_what_the_others_do_not_explain(threads):
    rng = np.random.default_rng(0)
    W = rng.standard_normal((40, 7)).astype(np.float32)
    codes = np.maximum(rng.standard_normal((60, 40)) - 1, 0).astype(np.float32)
    b_dec = rng.standard_normal(7).astype(np.float32)
    x = codes @ W + b_dec + rng.standard_normal((60, 7)).astype(np.float32)
    found = refine(x, csr_array(codes), W, b_dec, threshold=0.5, num_threads=threads)
    expected = refined_simply((x - b_dec).astype(float), codes.astype(float), W.astype(float), 0.5)
    assert 0.2 < found.nnz / np.count_nonzero(codes) < 0.95
    assert_allclose(found.toarray(), expected, rtol=1e-6)
    twice = refine(x, codes, W, b_dec, threshold=0.5, rounds=2, num_threads=threads)
    assert_array_equal(twice.toarray(), refine(x, found, W, b_dec, threshold=0.5).toarray())


def test_refinement_raises_precision_where_features_overlap():
    world = superposition(256, 48, probability=0.02, noise=0.02, seed=0)
    samples, W = world.block(0, 500), world.features
    zeros = {"b_enc": np.zeros(256, np.float32), "b_dec": np.zeros(48, np.float32)}
    codes = SAE.from_rows({"W_enc": W, "W_dec": W, **zeros}, TopK(k=10)).encode(samples.x)
    found = refine(samples.x, codes, W, threshold=0.3)
    truth = samples.codes.toarray() > 0

    def precision(codes):
        return truth[codes.toarray() > 0].mean()

    assert precision(found) > precision(codes) + 0.1
    assert found.nnz < codes.nnz


def test_refinement_names_what_it_cannot_use():
    x, W = np.ones((2, 3)), np.eye(3)
    assert refine(np.zeros((0, 3)), np.zeros((0, 3)), W, threshold=0.0).shape == (0, 3)
    assert refine(x, np.zeros((2, 3)), W, threshold=0.0).nnz == 0
    assert refine(x, np.ones((2, 3)), np.diag([1.0, 1.0, 0.0]), threshold=0.0).indices.tolist() == [
        0,
        1,
        0,
        1,
    ]
    with pytest.raises(ValueError, match=r"codes: got shape \(2, 4\)"):
        refine(x, np.ones((2, 4)), W, threshold=0.0)
    with pytest.raises(ValueError, match="codes: got NaN"):
        refine(x, np.full((2, 3), np.nan), W, threshold=0.0)
    with pytest.raises(ValueError, match="threshold"):
        refine(x, np.ones((2, 3)), W, threshold=float("nan"))


@pytest.mark.slow
def test_learning_finds_all_of_the_lesson():
    data = lesson()
    found = learn(data.x)
    codes = found.encode(data.x)
    m = match(found.W_dec, data, chance=0)
    assert (m.above(0.9), m.above(0.95)) == (32, 32)
    assert len(found.W_dec) <= 64
    assert codes.nnz / len(data.x) < 5
