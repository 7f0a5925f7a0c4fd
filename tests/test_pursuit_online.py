"""Dictionaries learned online: the truth is found at an L0 that was asked for; bad input is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparse_sae.match import match
from sparse_sae.pursuit import encode, learn_online
from sparse_sae.pursuit.online import _Memory
from sparse_sae.synthetic import superposition


def world() -> Any:
    return superposition(60, 24, probability=0.05, std=0.3, noise=0.02, seed=1)


def test_the_truth_is_found_where_rows_of_data_do_not_show_it() -> None:
    made = world()
    samples, other = made.block(0, 5000), made.block(1, 1000)
    found = learn_online(samples.x, 70, l0=3.0, n_tokens=50_000, batch_size=500)
    assert match(found.W_dec, made, chance=0).above(0.9) >= 58
    rows = samples.x[:70] - found.b_dec
    assert match(rows / np.linalg.norm(rows, axis=1, keepdims=True), made, chance=0).above(0.9) < 50
    codes = found.encode(other.x)
    assert 2 < codes.nnz / 1000 < 4.5
    left = other.x - codes @ found.W_dec - found.b_dec
    assert (left**2).sum() < 0.06 * ((other.x - other.x.mean(axis=0)) ** 2).sum()
    np.testing.assert_allclose(np.linalg.norm(found.W_dec, axis=1), 1, atol=1e-5)
    last = found.history[-1]
    assert (last["tokens"], last["method"]) == (50_000, "reweighted")
    assert {r["method"] for r in found.history[:70]} == {"lasso"}
    assert abs(np.mean([r["l0"] for r in found.history[-20:]]) - 3) < 0.6


def test_the_same_for_any_threads_and_any_float_type() -> None:
    x = world().block(0, 600).x
    how: dict[str, Any] = {"l0": 3.0, "n_tokens": 1500, "batch_size": 100, "seed": 3}
    one = learn_online(x, 70, num_threads=1, **how)
    np.testing.assert_array_equal(learn_online(x, 70, num_threads=3, **how).W_dec, one.W_dec)
    assert not np.array_equal(learn_online(x, 70, **{**how, "seed": 4}).W_dec, one.W_dec)
    assert learn_online(x.astype(np.float16), 70, **how).W_dec.dtype == np.float32


def test_a_round_minimises_over_one_row_at_a_time() -> None:
    """A block in which rows see those before them, against the definition."""
    rng = np.random.default_rng(0)
    codes = np.maximum(rng.standard_normal((200, 9)), 0).astype(np.float32)
    x = rng.standard_normal((200, 5)).astype(np.float32)
    W = rng.standard_normal((9, 5)).astype(np.float32)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    state = _Memory(9, 5)
    from scipy.sparse import csr_array

    state.add(csr_array(codes), x, 0.0)
    moved, expected = W.copy(), W.astype(float)
    state.move(moved, np.array([0, 2, 3, 8]))
    together, with_x = codes.T.astype(float) @ codes, codes.T.astype(float) @ x
    for j in (0, 2, 3, 8):
        row = expected[j] + (with_x[j] - together[j] @ expected) / together[j, j]
        expected[j] = row / np.linalg.norm(row)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_directions_that_nothing_uses_become_residuals() -> None:
    x = world().block(0, 1000).x
    state = _Memory(4, 24)
    state.used[[0, 3]] = 5
    W = np.eye(4, 24, dtype=np.float32)
    error = np.zeros_like(x[:50])
    error[7], error[9] = 2 * x[7], x[9]
    assert state.replace_unused(W, x[:50], error, np.random.default_rng(0)) == 2
    both = {tuple(np.round(r / np.linalg.norm(r), 5)) for r in (x[7], x[9])}
    assert {tuple(np.round(r, 5)) for r in W[[1, 2]]} == both
    np.testing.assert_array_equal(W[[0, 3]], np.eye(4, 24)[[0, 3]])
    assert state.replace_unused(W, x[:50], error * 0, np.random.default_rng(0)) == 0


def test_names_what_it_cannot_use() -> None:
    x = world().block(0, 100).x
    for change, message in [
        ({"l0": 0}, "l0: got 0, expected above 0"),
        ({"l0": 80}, "l0: got 80"),
        ({"polish": 1.5}, "polish: got 1.5"),
        ({"d_sae": 101}, "expected at most the 100 rows of x"),
        ({"batch_size": 101}, "expected at most the 100 rows of x"),
        ({"n_tokens": 0}, "n_tokens"),
        ({"memory": 0}, "memory"),
    ]:
        how: dict[str, Any] = {"d_sae": 70, "l0": 3.0, "batch_size": 50, **change}
        with pytest.raises(ValueError, match=message):
            learn_online(x, **how)
    bad = x.copy()
    bad[7, 3] = np.nan
    with pytest.raises(ValueError, match="x: row 7 holds NaN or infinity"):
        learn_online(bad, 70, l0=3.0, batch_size=50)
    with pytest.raises(ValueError, match=r"x: got int64 of shape \(4, 2\), expected floats"):
        learn_online(np.ones((4, 2), int), 2, l0=1.0)


def test_penalties_are_looked_for_on_both_sides() -> None:
    from sparse_sae.pursuit.online import _penalty

    made = world()
    for l0 in (1.0, 8.0):
        penalty = _penalty(made.block(0, 400).x, made.features, "lasso", l0, 1)
        assert encode(
            made.block(0, 400).x, made.features, method="lasso", penalty=penalty
        ).nnz / 400 == pytest.approx(l0, rel=0.2)
