"""The toy models reproduce the geometry of Elhage et al. 2022, number by number."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sparse_sae.toy import ToyModel, effective_features


def test_gradients_are_those_of_the_loss():
    model = ToyModel(5, 3, density=[0.5, 1.0], importance=0.7 ** np.arange(5), seed=1)
    model.b += np.random.default_rng(0).standard_normal(model.b.shape).astype(np.float32) * 0.2
    x = model.sample(30)
    dW, db = model.gradients(x)

    def loss():
        return (
            (model.importance[:, None] * (x - model.reconstruct(x)) ** 2)
            .sum(axis=2)
            .mean(axis=1, dtype=float)
        )

    rng = np.random.default_rng(2)
    for p, g in ((model.W, dW), (model.b, db)):
        direction = rng.standard_normal(p.shape).astype(np.float32)
        p += 1e-3 * direction
        up = loss()
        p -= 2e-3 * direction
        slope = (up - loss()) / 2e-3
        p += 1e-3 * direction
        assert_allclose(slope, (g * direction).reshape(2, -1).sum(axis=1), rtol=0.02, atol=2e-3)


def test_dense_features_are_ranked_as_by_principal_components():
    """At density 1 the m most important features get a dimension each, the rest nothing."""
    model = ToyModel(8, 3, density=1.0, importance=0.7 ** np.arange(8), instances=2).train(1500, 256)
    assert_allclose(model.norms()[:, :3], 1, atol=0.05)
    assert model.norms()[:, 3:].max() < 0.1
    assert_allclose(model.dimensionality()[:, :3], 1, atol=0.02)
    assert_allclose(model.polysemanticity().sum(axis=1) >= 3, True)
    assert_allclose(model.dimensions_per_feature(), 1, atol=0.1)


def test_superposition_grows_with_sparsity():
    model = ToyModel(20, 5, density=[1.0, 0.1, 0.01], importance=0.7 ** np.arange(20)).train(1500, 512)
    represented = (model.norms() > 0.5).sum(axis=1)
    assert represented[0] == 5
    assert represented[0] < represented[1] < represented[2]
    assert model.dimensions_per_feature()[2] < 0.7
    assert model.polysemanticity()[2].mean() > 2


@pytest.mark.parametrize(
    ("n", "m", "density", "shape"),
    [(2, 1, 0.05, 1 / 2), (3, 2, 0.6, 2 / 3), (5, 2, 0.02, 2 / 5), (4, 2, 0.05, 1 / 2)],
    ids=["antipodal pair", "triangle", "pentagon", "two pairs"],
)
def test_features_form_regular_polytopes(n, m, density, shape):
    """Of several starts, the one with the lowest loss has every feature at the polytope's dimensionality."""
    model = ToyModel(n, m, density=density, instances=12, seed=1).train(1200, 256, lr=2e-2)
    best = model.dimensionality()[model.loss.argmin()]
    assert_allclose(best, shape, atol=0.04)
    assert_allclose(best.sum(), n * shape, atol=0.02)


def test_a_tetrahedron_is_as_good_as_the_best_start():
    model = ToyModel(4, 3, density=0.6, instances=16, seed=1).train(1200, 256, lr=2e-2)
    tetrahedra = np.abs(model.dimensionality() - 3 / 4).max(axis=1) < 0.08
    assert tetrahedra.any()
    assert model.loss[tetrahedra].min() < 1.05 * model.loss.min()


def test_dimensionality_sticks_at_simple_fractions():
    """Of 30 equal features, those that fit pair up (1/2), or at lower density some form pentagons (2/5)."""
    model = ToyModel(30, 6, density=[0.25, 0.3]).train(1200, 256)
    d, represented = model.dimensionality(), model.norms() > 0.5
    assert_allclose(d[1][represented[1]], 1 / 2, atol=0.02)
    to_nearest = np.abs(d[0][represented[0]][:, None] - [1 / 2, 2 / 5]).min(axis=1)
    assert (to_nearest < 0.02).mean() > 0.9
    assert represented.sum(axis=1).min() >= 11
    assert d[~represented].max() < 0.05


def test_antipodal_pairs_point_opposite_ways():
    model = ToyModel(2, 1, density=0.05, instances=8).train(600, 256)
    W = model.W[model.loss.argmin(), 0]
    assert W[0] * W[1] < -0.8


def test_phase_change_over_density_and_importance():
    """Two features, one dimension: the second is ignored, shares the dimension, or takes it."""
    density = np.repeat([1.0, 0.05, 1.0], 6)
    importance = np.repeat([[1, 0.3], [1, 1], [1, 10]], 6, axis=0)
    model = ToyModel(2, 1, density=density, importance=importance, seed=1).train(800, 256, lr=2e-2)
    best = np.arange(0, 18, 6) + model.loss.reshape(3, 6).argmin(axis=1)
    norms = model.norms()[best]
    assert_allclose(norms[0], [1, 0], atol=0.1)
    assert norms[1].min() > 0.8
    assert_allclose(norms[2], [0, 1], atol=0.1)
    assert_allclose(model.dimensionality()[best[1]], 0.5, atol=0.03)


def test_interference_and_dimensionality_by_hand():
    model = ToyModel(3, 2)
    model.W[0] = [[1, 0, -0.5], [0, 2, 0]]
    assert_allclose(model.interference()[0], [0.25, 0, 1])
    assert_allclose(model.dimensionality()[0], [1 / 1.25, 1, 0.25**2 / (0.25**2 + 0.25)])
    assert_allclose(model.dimensions_per_feature(), 2 / 5.25)


def test_effective_features():
    responses = np.array([[3, 3, 0, 0], [3, 0, 0, 1], [3, 0.01, 0, 1]])
    assert_allclose(effective_features(responses), [3, 1, 0, 2], atol=1e-3)
    with pytest.raises(ValueError, match="n_features, n_units"):
        effective_features([1, 2])


def test_training_is_repeatable():
    one, two = (ToyModel(4, 2, seed=5).train(20, 64) for _ in range(2))
    assert_allclose(one.W, two.W, rtol=0)
    assert np.isnan(ToyModel(4, 2).loss).all()
    assert one.loss.shape == (1,)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"density": 0}, r"density: got .*, expected a value in \(0, 1\]"),
        ({"density": [0.1, 0.2], "instances": 3}, "for 3 instances"),
        ({"importance": [1, 2]}, "importance: got 2 values, expected 4"),
        ({"importance": -1}, "importance cannot be negative"),
        ({"importance": np.ones((2, 4)), "density": [0.1] * 3}, "got shapes"),
    ],
)
def test_refuses(bad, message):
    with pytest.raises(ValueError, match=message):
        ToyModel(4, 2, **bad)


def test_refuses_sizes():
    with pytest.raises(ValueError, match="n_features and n_hidden"):
        ToyModel(0, 2)
    with pytest.raises(ValueError, match="n_steps, batch_size and lr"):
        ToyModel(2, 1).train(0)
