"""Ground-truth data: the lesson's exact numbers, and generators that do what their arguments say."""

import hashlib
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sparse_sae import TopK, train
from sparse_sae.synthetic import (
    Hierarchy,
    lesson,
    push_apart,
    random_directions,
    superposition,
    synthsaebench_16k,
    zipf,
)


def test_lesson_is_always_the_same_data():
    before = np.random.get_state()[1].copy()
    data = lesson()
    assert_array_equal(np.random.get_state()[1], before)
    assert [data.x.shape, data.features.shape, data.codes.shape] == [(20_000, 8), (32, 8), (20_000, 32)]
    digest = hashlib.sha256(np.round(data.x, 3).astype(np.float32).tobytes()).hexdigest()
    assert digest.startswith("85db141627c54a29")


def test_lesson_equals_the_plain_script():
    data = lesson(n_samples=50)
    np_random = np.random.RandomState(42)
    features = np_random.randn(32, 8)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    x = np.zeros((50, 8))
    for i in range(50):
        n = np_random.randint(2, 5)
        active = np_random.choice(32, n, replace=False)
        x[i] = (1.5 + 0.8 * np_random.randn(n)) @ features[active]
        assert_array_equal(np.sort(active), data.codes[[i]].indices)
    x += 0.05 * np_random.randn(50, 8)
    assert_allclose(data.x, x, atol=1e-5)


def test_lesson_residual_is_the_noise():
    data = lesson(seed=3, n_samples=2000, noise=0.1)
    residual = data.x - data.codes @ data.features
    assert residual.std() == pytest.approx(0.1, rel=0.05)
    counts = np.diff(data.codes.indptr)
    assert set(counts) == {2, 3, 4}


@pytest.mark.parametrize(
    "bad", [{"n_samples": 0}, {"n_features": 3}, {"d_in": 0}, {"noise": -1}, {"noise": float("nan")}]
)
def test_lesson_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        lesson(**bad)


def fired(world, blocks=20, n=2000):
    codes = [world.block(i, n).codes for i in range(blocks)]
    return np.vstack([c.toarray() > 0 for c in codes])


@pytest.mark.parametrize("rank", [0, 3])
def test_features_fire_as_often_as_asked(rank):
    """From never to always, with and without correlation, within five standard errors."""
    p = np.concatenate([[0, 1, 0.995, 0.9, 0.5], zipf(60, 0.7, 0.3, 0.002)])
    world = superposition(65, 8, probability=p, correlation_rank=rank, correlation_scale=0.4, seed=2)
    n = 40_000
    counted = fired(world).sum(axis=0)
    # Correlated features vary together from block to block, but each one's count is still binomial.
    assert (np.abs(counted - n * p) <= 5 * np.sqrt(n * p * (1 - p)) + 1e-9).all()


def test_features_fire_together_as_the_copula_says():
    """Joint frequencies equal those of Gaussians thresholded one by one (the slow way)."""
    p = np.array([0.3, 0.05, 0.2, 0.01, 0.6])
    world = superposition(5, 4, probability=p, correlation_rank=2, correlation_scale=0.5, seed=4)
    ours = fired(world, 40)
    rng = np.random.default_rng(0)
    c = world._firing.factors
    slow = rng.standard_normal((200_000, 2)) @ c.T
    slow += rng.standard_normal(slow.shape) * np.sqrt(1 - (c**2).sum(axis=1))
    slow = slow > world._firing.threshold
    joint = [(x.T.astype(float) @ x) / len(x) for x in (ours, slow)]
    assert_allclose(joint[0], joint[1], atol=5e-3)
    independent = np.outer(p, p)[np.triu_indices(5, 1)]
    assert np.abs(joint[0][np.triu_indices(5, 1)] - independent).max() > 0.02


def test_children_fire_only_under_their_parents():
    tree = Hierarchy(3, 4, 2, exclusive=1.0, compensate=True)
    p = np.concatenate([[0.5] * 3, [0.08] * 12, [0.01] * 48, [0.2] * 7])
    world = superposition(70, 8, probability=p, hierarchy=tree)
    assert_array_equal(np.bincount(world.parent[world.parent >= 0]), [4] * 15)
    assert (world.parent[:3] == -1).all()
    assert (world.parent[63:] == -1).all()
    on = fired(world)
    below = np.arange(3, 63)
    assert not (on[:, below] & ~on[:, world.parent[below]]).any()
    for parent in range(15):
        assert on[:, world.parent == parent].sum(axis=1).max() == 1
    assert_allclose(on[:, 63:].mean(axis=0), 0.2, rtol=0.1)
    assert_allclose(on[:, 3:15].mean(), 0.08, rtol=0.15)  # compensation is approximate by construction
    assert_allclose(on[:, 15:63].mean(), 0.01, rtol=0.3)


def test_children_without_exclusion_or_compensation():
    world = superposition(6, 4, probability=0.5, hierarchy=Hierarchy(2, 2, 1))
    on = fired(world)
    assert_allclose(on[:, 2:].mean(axis=0), 0.25, atol=0.02)
    assert (on[:, 2] & on[:, 3]).any()


def test_children_follow_their_parents_magnitude():
    tree = Hierarchy(1, 2, 1, scale_by_parent=True)
    world = superposition(3, 4, probability=0.9, mean=4.0, std=[1.0, 0, 0], hierarchy=tree)
    codes = world.block(0, 500).codes.toarray()
    both = codes[codes[:, 1] > 0]
    assert_allclose(both[:, 1], both[:, 0], rtol=1e-5)  # 4 times parent / 4
    plain = superposition(3, 4, probability=0.9, mean=4.0, std=[1.0, 0, 0], hierarchy=Hierarchy(1, 2, 1))
    assert set(np.unique(plain.block(0, 500).codes.toarray()[:, 1])) == {0, 4}


def test_samples_are_codes_times_features_plus_bias_and_noise():
    world = superposition(50, 16, probability=0.1, mean=2.0, std=0.3, noise=0.2, bias_norm=3.0, seed=7)
    samples = world.block(3, 4000)
    residual = samples.x - samples.codes @ world.features - world.bias
    assert residual.std() == pytest.approx(0.2, rel=0.02)
    assert abs(residual.mean()) < 0.01
    assert np.linalg.norm(world.bias) == pytest.approx(3, rel=1e-5)
    assert samples.codes.data.mean() == pytest.approx(2, rel=0.01)
    assert samples.codes.data.std() == pytest.approx(0.3, rel=0.03)
    assert samples.codes.has_canonical_format


def test_blocks_are_the_same_in_any_order_and_differ_from_each_other():
    make = {"probability": 0.05, "correlation_rank": 2, "noise": 0.1, "seed": 9}
    one, two = superposition(40, 8, **make), superposition(40, 8, **make)
    later = one.block(5, 100).x
    one.block(0, 100)
    assert_array_equal(two.block(5, 100).x, later)
    assert not np.array_equal(two.block(6, 100).x, later)
    assert not np.array_equal(superposition(40, 8, **make | {"seed": 10}).features, one.features)


def test_stream_feeds_training():
    world = superposition(40, 8, probability=0.05, seed=1)
    stream = world.stream(2500, block_size=1000, start=3)
    assert [len(x) for x in stream] == [1000, 1000, 500]
    assert_array_equal(next(iter(stream)), world.block(3, 1000).x)
    endless = iter(world.stream(block_size=10))
    assert sum(len(next(endless)) for _ in range(5)) == 50
    sae = train(world.stream(), TopK(k=2), d_sae=48, n_tokens=20_000, batch_size=500).sae
    assert sae.d_in == 8


def test_stream_of_several_threads_gives_the_same_blocks():
    world = superposition(40, 8, probability=0.05, seed=1)
    assert_array_equal(*(np.concatenate(list(world.stream(55, 10, 2, num_threads=n))) for n in (1, 3)))
    assert list(world.stream(0, num_threads=2)) == []
    endless = iter(world.stream(block_size=10, num_threads=2))
    assert len(next(endless)) == 10
    endless.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sparse_sae-world")]
    with pytest.raises(ValueError, match="num_threads: got 0, expected a whole number from 1"):
        world.stream(num_threads=0)


def test_pieces_of_a_block_change_nothing(monkeypatch):
    probability = np.append(zipf(40, 0.7, 0.3, 0.01), 0.999)
    world = superposition(41, 8, probability=probability, correlation_rank=2, correlation_scale=0.4, seed=4)
    assert len(world._firing.listed)
    whole = world.block(0, 500).codes
    monkeypatch.setattr("sparse_sae.synthetic.firing.CELLS", 1)  # 64 samples at a time
    assert_array_equal(world.block(0, 500).codes.toarray(), whole.toarray())


def test_features_that_fire_nearly_always_are_candidates_everywhere():
    """Beside rare ones, and where the factors pull hard: what is drawn has the probability that was asked for."""
    wanted = np.array([0.999, 0.5, 0.01, 0.97])
    world = superposition(4, 8, probability=wanted, correlation_rank=2, correlation_scale=0.6, seed=3)
    assert len(world._firing.listed) and world._firing.rate.max() < 0.99
    fired = np.bincount(world.block(0, 40_000).codes.indices, minlength=4) / 40_000
    assert_allclose(fired, wanted, atol=5 * np.sqrt(wanted * (1 - wanted) / 40_000).max())


def test_pushing_apart_follows_the_gradient_of_all_pairs():
    """One step equals one step of Adam on the pairwise loss written out."""
    start = random_directions(20, 6, np.random.default_rng(0))
    cosines = start @ start.T
    off = cosines - np.diag(np.diag(cosines))
    gradient = 4 * off @ start + 4 * 20 * (np.diag(cosines)[:, None] - 1) * start
    expected = start - 0.01 * np.sign(gradient)  # Adam's first step
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert_allclose(push_apart(start, 1, 0.01), expected, atol=2e-4)


def test_pushing_apart_reaches_the_lowest_total_cosine():
    """The sum of squared cosines cannot go below n² / d (Welch's bound); random directions are well above
    it."""
    start = random_directions(300, 32, np.random.default_rng(1))
    apart = push_apart(start, 60, 0.01)
    welch = 300**2 / 32
    assert ((start @ start.T) ** 2).sum() > 1.05 * welch
    assert welch * 0.999 < ((apart @ apart.T) ** 2).sum() < 1.01 * welch
    assert_allclose(np.linalg.norm(apart, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("scale_by_parent", [False, True])
def test_synthsaebench_has_the_papers_sparsity(scale_by_parent):
    """About 34 features of 16,384 fire, 25 of them among the first 4,096 (arXiv 2602.14687, section 3)."""
    world = synthsaebench_16k(scale_by_parent=scale_by_parent, d_in=32, apart_steps=0)
    codes = world.block(0, 4000).codes
    assert codes.nnz / 4000 == pytest.approx(34, abs=1.5)
    assert (codes.indices < 4096).sum() / 4000 == pytest.approx(25, abs=1)
    first_children = codes[:, 128:640]
    spread = first_children.data.std() / first_children.data.mean()
    plain = synthsaebench_16k(d_in=32, apart_steps=0).block(0, 4000).codes[:, 128:640]
    assert (spread > 1.1 * plain.data.std() / plain.data.mean()) == scale_by_parent


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"probability": 1.5}, "probability: got values"),
        ({"probability": [0.1, 0.2]}, "probability: got shape .*, expected one finite number or 5"),
        ({"mean": float("nan")}, "mean: got"),
        ({"std": -1}, "std, noise and bias_norm: got"),
        ({"correlation_rank": -1}, "expected three numbers of at least 0"),
        ({"mean": 0, "hierarchy": Hierarchy(1, 2, 1, scale_by_parent=True)}, "mean: got 0 or less"),
        (
            {"probability": 0, "hierarchy": Hierarchy(1, 2, 1, compensate=True)},
            "probability: got 0, expected positive",
        ),
    ],
)
def test_superposition_refuses(bad, message):
    with pytest.raises(ValueError, match=message):
        superposition(5, 3, **bad)


def test_other_refusals():
    with pytest.raises(ValueError, match="roots, branching, depth"):
        Hierarchy(0, 2, 1)
    with pytest.raises(ValueError, match="minimum <= maximum"):
        zipf(5, 1.0, 0.1, 0.2)
    with pytest.raises(ValueError, match="index and n: got"):
        superposition(5, 3).block(-1)
    with pytest.raises(ValueError, match="n_features and d_in"):
        superposition(0, 3)
