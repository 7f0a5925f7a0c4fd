"""Ground-truth data: the lesson's exact numbers, and generators that do what their arguments say."""

import hashlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from sparse_sae.synthetic import lesson


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
