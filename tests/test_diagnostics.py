"""Each warning appears where its cause was planted, and stays away where it was not."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from sparse_sae import SAE, TopK, train
from sparse_sae.architectures import Pursuit
from sparse_sae.evaluation.diagnostics import (
    as_good_as_control,
    at_chance,
    diagnose,
    dying_latents,
    narrow_training_data,
    shuffled_components,
    too_sparse,
    unstable,
)
from sparse_sae.match import match, stability
from sparse_sae.synthetic import lesson, superposition


def sae_of(W, architecture):
    W = np.asarray(W, np.float32)
    n, d = W.shape
    zeros = {"b_enc": np.zeros(n, np.float32), "b_dec": np.zeros(d, np.float32)}
    return SAE.from_rows({"W_enc": W, "W_dec": W} | zeros, architecture)


def names(findings):
    return {f.name for f in findings}


@pytest.fixture(scope="module")
def data():
    return lesson(n_samples=400)


def random_directions(seed, n):
    rows = np.random.default_rng(seed).standard_normal((n, 8))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_narrow_training_data_appears_and_stays_away():
    """The first 16 features are all the narrow SAE knows; the other data uses all 40."""
    both = superposition(40, 24, probability=0.06, noise=0.02, seed=1)
    samples = both.block(0, 1000)
    narrow_rows = samples.x[samples.codes[:, 16:].sum(axis=1) == 0]
    narrow = sae_of(both.features[:16], Pursuit(penalty=0.2))
    found = {f.name: f for f in diagnose(narrow, narrow_rows, other=samples.x)}
    evidence = found["narrow training data"].evidence
    assert evidence["fvu_other"] > 2 * evidence["fvu_held_out"]
    broad = sae_of(both.features, Pursuit(penalty=0.2))
    assert "narrow training data" not in names(diagnose(broad, narrow_rows, other=samples.x))
    assert narrow_training_data(0.1, 0.12) is None


def test_dead_and_dying_latents_appear_and_stay_away(data):
    W = np.vstack([data.features, -np.abs(data.features[:8])])
    sae = sae_of(data.features, Pursuit(penalty=0.4))
    assert not {"dead latents", "latents are dying"} & names(diagnose(sae, data.x))
    W[32:] = 0  # eight latents that can never fire
    dead = sae_of(W, Pursuit(penalty=0.4))
    found = {f.name: f for f in diagnose(dead, data.x)}
    assert found["dead latents"].evidence["dead_fraction"] == pytest.approx(0.2)
    assert "dead_fraction 0.2" in str(found["dead latents"])
    rising = dying_latents([0.1] * 92 + [0] * 8, 1000, dead_before=0.01)
    assert rising.name == "latents are dying"
    assert rising.evidence["dead_fraction_before"] == 0.01
    assert dying_latents([0.1] * 92 + [0] * 8, 1000, dead_before=0.07) is None


def test_too_sparse_appears_and_stays_away():
    world = superposition(30, 24, probability=0.15, noise=0.02, seed=2)
    x = world.block(0, 400).x
    appears = too_sparse(sae_of(world.features, Pursuit(method="omp", k=1)), x)
    assert appears.evidence["fvu_pursuit_at_l0"] > appears.evidence["fvu_pursuit_at_twice_l0"] + 0.1
    assert "2 active latents than with 1" in appears.message
    assert too_sparse(sae_of(world.features, Pursuit(method="omp", k=8)), x) is None
    assert too_sparse(sae_of(world.features[:1], Pursuit(method="omp", k=1)), x) is None  # no room for more
    with pytest.raises(ValueError, match="x: got shape"):
        too_sparse(sae_of(world.features, Pursuit(method="omp", k=1)), x[0])


def test_low_fvu_at_chance_appears_and_stays_away(data):
    """128 random directions in 8 dimensions reconstruct well and know nothing."""
    blind, seeing = (sae_of(W, Pursuit(penalty=0.2)) for W in (random_directions(0, 128), data.features))
    found = {f.name: f for f in diagnose(blind, data.x, truth=data)}
    assert found["matches at chance level"].evidence["fvu"] < 0.1
    assert found["matches at chance level"].evidence["mcc"] > 0.7
    assert "matches at chance level" not in names(diagnose(seeing, data.x, truth=data))
    assert at_chance(match(random_directions(0, 64), data), fvu=0.9) is None  # a high FVU says so itself


def test_instability_appears_and_stays_away(data):
    random = [sae_of(random_directions(s, 64), Pursuit(penalty=0.2)) for s in range(3)]
    assert "unstable across seeds" in names(diagnose(random[0], data.x, seeds=random[1:]))
    rng = np.random.default_rng(0)
    same = [sae_of(rng.permutation(data.features), Pursuit(penalty=0.2)) for _ in range(3)]
    assert "unstable across seeds" not in names(diagnose(same[0], data.x, seeds=same[1:]))
    assert unstable(stability([random_directions(s, 32) for s in range(2)]), fvu=0.8) is None


def test_as_good_as_control_appears_and_stays_away(data):
    """SAEs trained alike on data and on its shuffled components: worse only where there is something to
    find."""

    def trained(x, seed):
        return train(x[:1000], TopK(k=4), d_sae=32, n_tokens=60_000, batch_size=250, lr=5e-3, seed=seed).sae

    gaussian = np.random.default_rng(0).standard_normal((1500, 8)).astype(np.float32)
    sparse = superposition(12, 8, probability=0.1, seed=3).block(0, 1500).x
    for x, expected in ((gaussian, True), (sparse, False)):
        control = shuffled_components(x)
        found = diagnose(
            trained(x, 0), x[1000:], controls={"shuffled components": (trained(control, 0), control[1000:])}
        )
        assert ("as good as control" in names(found)) == expected
    assert as_good_as_control(0.5, 0.5) is None


def test_shuffled_components_keep_covariance_and_lose_the_rest(data):
    control = shuffled_components(data.x)
    assert_allclose(control.mean(axis=0), data.x.mean(axis=0), atol=1e-4)
    assert_allclose(np.cov(control.T), np.cov(data.x.T), atol=0.15)
    assert not np.allclose(control, data.x, atol=0.1)
    with pytest.raises(ValueError, match="n >= 2"):
        shuffled_components(data.x[:1])


def test_nothing_is_said_where_all_is_well(data):
    sae = sae_of(data.features, Pursuit(penalty=0.4))
    assert (
        diagnose(
            sae, data.x, other=lesson(n_samples=1).x.repeat(2, 0) * 0 + data.x[:2], truth=data, seeds=[sae]
        )
        == []
    )
