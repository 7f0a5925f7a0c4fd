"""Encoding: every level and the reference select what sorting all pre-activations selects, bit for bit.

Small integers make every product and sum exact in any order, so the levels, the reference and plain NumPy
must agree to the last bit, ties included; ties are then the rule. Gaussian data checks the fast version
against the simple one of the same level, where rounding is real.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from sparse_sae import _kernels
from sparse_sae._kernels import reference

LEVELS = [*_kernels.loadable_levels(), "reference"]
level = pytest.mark.parametrize("kernels", [_kernels.load(name) for name in LEVELS], ids=LEVELS)
dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
COMPILED = [_kernels.load(name) for name in _kernels.loadable_levels()]
compiled = pytest.mark.parametrize("kernels", COMPILED, ids=_kernels.loadable_levels())
quick = settings(max_examples=25, deadline=None, derandomize=True)


def same(a: tuple[Any, ...], b: tuple[Any, ...]) -> None:
    """Equal codes: pattern and bits of the values (the trailing count of fallbacks may differ)."""
    for one, other in zip(a[:3], b[:3], strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@st.composite
def problems(draw: Any, integers: bool = True) -> dict[str, Any]:
    """Rows, weights and options of one encode; sizes around the edges of tiles and vectors."""
    n = draw(st.sampled_from([0, 1, 2, 5, 6, 7, 13, 40]))
    d = draw(st.sampled_from([1, 2, 7, 8, 31, 32, 33, 65]))
    m = draw(st.sampled_from([1, 2, 15, 16, 17, 33, 64, 130, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))

    def numbers(*shape: int) -> Any:
        return rng.integers(-2, 3, shape) if integers else rng.standard_normal(shape)

    latents = None
    if draw(st.booleans()):
        latents = rng.integers(0, m, draw(st.integers(1, m))).astype(np.int32)
    return {
        "x": numbers(n, d),
        "w": numbers(m, d),
        "b": numbers(m) if draw(st.booleans()) else None,
        "k": draw(st.sampled_from([1, 2, 3, 8, 40, m])),
        "options": {"center": numbers(d) if draw(st.booleans()) else None, "latents": latents},
        "absolute": draw(st.booleans()),
        "relu": draw(st.booleans()),
        "threshold": numbers(m),
        "dead": rng.random(m) < draw(st.sampled_from([0.0, 0.3, 1.0])),
        "aux_k": draw(st.sampled_from([1, 5, 200])),
        "total": draw(st.sampled_from([1, 4, 50, 2000])),
    }


def cast(p: dict[str, Any], dtype: Any) -> dict[str, Any]:
    out = dict(p)
    for name in ("x", "w", "b", "threshold"):
        out[name] = None if p[name] is None else p[name].astype(dtype)
    center = p["options"]["center"]
    out["options"] = {**p["options"], "center": None if center is None else center.astype(dtype)}
    return out


@level
@dtype
@given(problem=problems())
@quick
def test_topk_is_a_stable_sort(kernels: Any, dtype: Any, problem: dict[str, Any]) -> None:
    p = cast(problem, dtype)
    rows = p["x"] - (0 if p["options"]["center"] is None else p["options"]["center"])
    pre = rows @ p["w"].T + (0 if p["b"] is None else p["b"])
    if p["options"]["latents"] is not None:
        pre = pre[:, p["options"]["latents"]]
    got = kernels.encode_topk(
        p["x"], p["w"], p["b"], p["k"], absolute=p["absolute"], relu=p["relu"], **p["options"], num_threads=2
    )
    for n, row in enumerate(pre):
        key = np.abs(row) if p["absolute"] else row
        best = sorted(range(len(row)), key=lambda j: (-key[j], j))[: p["k"]]
        best = sorted(j for j in best if row[j] > 0 or (row[j] < 0 and not p["relu"]))
        at = slice(got[0][n], got[0][n + 1])
        assert got[1][at].tolist() == best
        np.testing.assert_array_equal(got[2][at], row[best].astype(dtype))
    assert len(got[0]) == len(pre) + 1
    assert got[0][-1] == len(got[1]) == len(got[2])


@level
@dtype
@given(problem=problems())
@quick
def test_threshold_and_batch_topk_equal_the_reference(
    kernels: Any, dtype: Any, problem: dict[str, Any]
) -> None:
    p = cast(problem, dtype)
    for threshold in (None, p["threshold"]):
        want = reference.encode_threshold(p["x"], p["w"], p["b"], threshold, **p["options"])
        same(kernels.encode_threshold(p["x"], p["w"], p["b"], threshold, **p["options"], num_threads=2), want)
    center = p["options"]["center"]
    want = reference.encode_batch_topk(p["x"], p["w"], p["b"], p["total"], center=center)
    same(kernels.encode_batch_topk(p["x"], p["w"], p["b"], p["total"], center=center, num_threads=2), want)


@compiled
@dtype
@given(problem=problems(integers=False))
@quick
def test_fast_equals_simple_and_threads_do_not_matter(
    kernels: Any, dtype: Any, problem: dict[str, Any]
) -> None:
    p = cast(problem, dtype)
    args, options = (p["x"], p["w"], p["b"]), p["options"]
    topk = {"absolute": p["absolute"], "relu": p["relu"], **options}
    want = kernels.encode_topk(*args, p["k"], simple=True, **topk)
    above = kernels.encode_threshold(*args, p["threshold"], **options)
    batch = kernels.encode_batch_topk(*args, p["total"], center=options["center"])
    for screen, threads in product(screens(dtype), (1, 2, 7)):
        how = {"screen": screen, "num_threads": threads}
        if screen == "float" or not p["absolute"]:
            same(kernels.encode_topk(*args, p["k"], **how, **topk), want)
        same(kernels.encode_threshold(*args, p["threshold"], **how, **options), above)
        same(kernels.encode_batch_topk(*args, p["total"], center=options["center"], **how), batch)


INTEGERS = ("int8", "amx")  # screens that multiply integers, each forced on every level


def screens(dtype: Any, absolute: bool = False) -> tuple[str, ...]:
    """The ways to find candidates that there are."""
    return ("float", *INTEGERS) if dtype == np.float32 and not absolute else ("float",)


@compiled
def test_screens_that_cannot_be_are_refused(kernels: Any) -> None:
    x, w, b = np.ones((20, 40), np.float32), np.ones((80, 40), np.float32), np.zeros(80, np.float32)
    for wrong in ({"screen": "int4"}, {"screen": "int8", "absolute": True}):
        with pytest.raises(ValueError, match="screen: got"):
            kernels.encode_topk(x, w, b, 3, **wrong)
    for screen in INTEGERS:
        with pytest.raises(ValueError, match="float32"):
            kernels.encode_topk(x.astype(float), w.astype(float), b.astype(float), 3, screen=screen)


@compiled
def test_bytes_decide_on_activations_like_those_of_a_model(kernels: Any) -> None:
    """A mean, two dimensions far larger than the rest, unequal spreads: the bound still tells most rows apart."""
    rng = np.random.default_rng(2)
    features = rng.standard_normal((600, 160))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    codes = (rng.random((200, 600)) < 0.02) * rng.exponential(8, (200, 600))
    x = codes @ features + 0.5 * rng.standard_normal((200, 160)) * np.exp(rng.standard_normal(160) / 2)
    x += 3 * rng.standard_normal(160)
    x[:, 17] += 60 + 30 * rng.standard_normal(200)
    x[:, 90] -= 200 + 10 * rng.standard_normal(200)
    center = x.mean(axis=0).astype(np.float32)
    x, w = x.astype(np.float32), features.astype(np.float32)
    want = kernels.encode_topk(x, w, None, 8, center=center, screen="float")
    for screen in INTEGERS:
        got = kernels.encode_topk(x, w, None, 8, center=center, screen=screen, num_threads=2)
        same(got, want)
        assert got[3] == 0
    np.testing.assert_array_equal(want[3], 0)


def separately(kernels: Any, x: Any, w: Any, b: Any, k: int, dead: Any, aux_k: int, **options: Any) -> Any:
    """What encode_topk_aux promises: two encodes."""
    main = kernels.encode_topk(x, w, b, k, **options)
    if not dead.any():
        empty = (np.zeros(len(x) + 1, np.int32), np.zeros(0, np.int32), np.zeros(0, w.dtype))
        return main[:3], empty
    latents = np.flatnonzero(dead).astype(np.int32)
    options = {"center": options.get("center"), "relu": False, "latents": latents}
    aux = kernels.encode_topk(x, w, b, min(aux_k, len(latents)), **options)
    return main[:3], (aux[0], latents[aux[1]], aux[2])


@compiled
@dtype
@given(problem=problems(integers=False))
@quick
def test_both_selections_from_one_sweep(kernels: Any, dtype: Any, problem: dict[str, Any]) -> None:
    p = cast(problem, dtype)
    args = (p["x"], p["w"], p["b"], p["k"], p["dead"], p["aux_k"])
    options = {"center": p["options"]["center"], "absolute": p["absolute"], "relu": p["relu"]}
    main, aux = separately(kernels, *args, **options)
    for screen, threads in product(screens(dtype, p["absolute"]), (1, 2, 7)):
        got = kernels.encode_topk_aux(*args, **options, screen=screen, num_threads=threads)
        same(got[:3], main)
        same(got[3:6], aux)
    want = reference.encode_topk_aux(*args, **options)
    np.testing.assert_array_equal(got[1], want[1])
    np.testing.assert_array_equal(got[4], want[4])


def adversaries(rng: np.random.Generator) -> dict[str, tuple[Any, Any, Any]]:
    """Inputs made to break screening: (rows, weights, bias)."""
    n, d, m = 24, 96, 700
    x, w = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    none = np.zeros(m)
    outliers = x.copy()
    outliers[::3, 5] = 3e4
    outliers[1::3, 17] = -1e6
    near = np.repeat(w[:10], 70, axis=0)
    near += 1e-7 * rng.standard_normal(near.shape)
    biased = 50 + rng.standard_normal((n, d))
    huge = x.copy()
    huge[4] *= 1e18
    huge[9] = 0
    one_weight = w.copy()
    one_weight[3] *= 1e6
    return {
        "outliers": (outliers, w, none),
        "duplicate latents": (x, np.repeat(w[:7], 100, axis=0), none),
        "near ties": (x, near, none),
        "all rows equal": (np.repeat(x[:1], n, axis=0), w, none),
        "all latents equal": (x, np.repeat(w[:1], m, axis=0), none),
        "denormals": (x * 1e-42, w, none),
        "denormal products": (x * 1e-30, w * 1e-12, none),
        "zeros": (x * 0, w, none),
        "all below zero": (x, w, none - 1e3),
        "bias decides": (x, w * 1e-3, rng.standard_normal(m) * 1e3),
        "far from the origin": (biased, w, none),
        "overflow": (huge, w * 1e21, none),
        "one huge latent": (x, one_weight, none),
    }


CASES = adversaries(np.random.default_rng(0))


def misleading_orders() -> dict[str, Any]:
    """Lengths of 2,800 latents whose order misleads whoever takes the first ones for a sample."""
    few, late = np.ones((2800, 1)), np.ones((2800, 1))
    few[::64] = 3
    late[-100:] = 3
    rising = np.linspace(0.1, 2, 2800)[:, None]
    # The panels (of 32 latents with AVX-512) that are visited first hold all that is large.
    first = np.where(np.arange(2800) // 32 % 5 == 0, 3.0, 1.0)[:, None]
    orders = {"equal": np.ones((2800, 1)), "rising": rising, "falling": rising[::-1]}
    return {**orders, "few": few, "late": late, "first": first}


@compiled
@pytest.mark.parametrize("order", misleading_orders())
@pytest.mark.parametrize("relu", [True, False])
def test_guessed_thresholds_never_change_the_answer(kernels: Any, order: str, relu: bool) -> None:
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((300, 160)).astype(np.float32), rng.standard_normal((2800, 160))
    w = (w * misleading_orders()[order]).astype(np.float32)
    for k in (5, 64):
        want = kernels.encode_topk(x, w, None, k, relu=relu, screen="float")
        for screen, threads in product(INTEGERS, (1, 2, 7)):
            same(kernels.encode_topk(x, w, None, k, relu=relu, screen=screen, num_threads=threads), want)


@compiled
@pytest.mark.parametrize("order", misleading_orders())
@pytest.mark.parametrize("loud", [1, 20])
def test_a_guessed_cut_of_a_whole_batch_never_changes_the_answer(
    kernels: Any, order: str, loud: float
) -> None:
    """Some rows far larger than the others take most of the batch, or more than their lists hold."""
    rng = np.random.default_rng(9)
    x, w = rng.standard_normal((300, 160)), rng.standard_normal((2800, 160))
    x[::75] *= loud
    x, w = x.astype(np.float32), (w * misleading_orders()[order]).astype(np.float32)
    for total in (1, 1500, 9600):
        want = kernels.encode_batch_topk(x, w, None, total, screen="float")
        assert len(want[1]) == total
        for screen, threads in product(INTEGERS, (1, 2, 7)):
            same(kernels.encode_batch_topk(x, w, None, total, screen=screen, num_threads=threads), want)


@compiled
def test_many_nearly_equal_latents_are_told_apart(kernels: Any) -> None:
    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((300, 160)).astype(np.float32), rng.standard_normal((40, 160))
    w = (np.repeat(w, 70, axis=0) + 1e-6 * rng.standard_normal((2800, 160))).astype(np.float32)
    for k in (5, 64):
        want = kernels.encode_topk(x, w, None, k, screen="float")
        for screen in INTEGERS:
            same(kernels.encode_topk(x, w, None, k, screen=screen), want)


@compiled
def test_the_environment_forces_a_screen(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((40, 130), (300, 130)))
    want = kernels.encode_topk(x, w, None, 4)
    for screen in ("float", *INTEGERS, "auto"):
        monkeypatch.setenv("SPARSE_SAE_SCREEN", screen)
        same(kernels.encode_topk(x, w, None, 4), want)
    monkeypatch.setenv("SPARSE_SAE_SCREEN", "int4")
    with pytest.raises(ValueError, match="SPARSE_SAE_SCREEN: got int4"):
        kernels.encode_topk(x, w, None, 4)


@compiled
def test_the_choice_of_a_screen_is_measured_and_can_be_read(kernels: Any) -> None:
    rng = np.random.default_rng(8)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((512, 129), (257, 129)))
    want = kernels.encode_topk(x, w, None, 3, screen="float")
    for _ in range(8):
        same(kernels.encode_topk(x, w, None, 3), want)
    found = [r for r in kernels.screens() if (r["d_in"], r["d_sae"], r["k"]) == (129, 257, 3)]
    assert {r["kernel"] for r in found} <= {"encode_topk"}
    for report in found:  # a level without 8-bit dot products measures nothing
        took = {screen: report[f"{screen}_us_per_row"] for screen in ("float", *INTEGERS)}
        measured = {screen: time for screen, time in took.items() if time > 0}  # -1: no such instruction
        assert set(measured) >= {"float", "int8"}
        assert report["chosen"] == min(measured, key=lambda screen: measured[screen])


@compiled
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("absolute", [False, True])
def test_screening_never_changes_the_answer(kernels: Any, name: str, absolute: bool) -> None:
    x, w, b = (np.ascontiguousarray(a, np.float32) for a in CASES[name])
    for screen, k in product(screens(np.float32, absolute), (1, 16, 64)):
        want = kernels.encode_topk(x, w, b, k, absolute=absolute, relu=not absolute, simple=True)
        same(
            kernels.encode_topk(
                x, w, b, k, absolute=absolute, relu=not absolute, screen=screen, num_threads=2
            ),
            want,
        )
        dead = np.arange(len(w)) % 3 > 0
        main, aux = separately(kernels, x, w, b, k, dead, 2 * k, absolute=absolute, relu=not absolute)
        got = kernels.encode_topk_aux(
            x, w, b, k, dead, 2 * k, absolute=absolute, relu=not absolute, screen=screen
        )
        same(got[:3], main)
        same(got[3:6], aux)
        batch = kernels.encode_batch_topk(x, w, b, k * len(x), screen="float")
        same(kernels.encode_batch_topk(x, w, b, k * len(x), screen=screen, num_threads=2), batch)
        counts = np.diff(want[0])
        assert name in ("zeros", "all below zero") or counts.max() == k


@compiled
def test_rows_that_screening_cannot_decide_are_counted(kernels: Any) -> None:
    x, w, b = (np.ascontiguousarray(a, np.float32) for a in CASES["all latents equal"])
    assert kernels.encode_topk(x, np.abs(w), b, 16, relu=False)[3] == len(x)
    x, w, b = (np.ascontiguousarray(a, np.float32) for a in CASES["outliers"])
    assert kernels.encode_topk(x, w, b, 16)[3] == 0


@level
def test_nan_and_infinite_preactivations(kernels: Any) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((20, 40)).astype(np.float32)
    w = rng.standard_normal((200, 40)).astype(np.float32)
    w[50] = np.nan
    x[3] = np.nan
    b = np.zeros(200, np.float32)
    b[60] = np.inf
    b[70] = -np.inf
    indptr, indices, values, _ = kernels.encode_topk(x, w, b, 9)
    assert not np.isnan(values).any()
    assert 50 not in indices
    assert 70 not in indices
    np.testing.assert_array_equal(np.diff(indptr), np.where(np.arange(20) == 3, 0, 9))
    assert (indices == 60).sum() == 19
    same(kernels.encode_topk(x, w, b, 9, simple=True), (indptr, indices, values))
    for codes in (kernels.encode_threshold(x, w, b, None), kernels.encode_batch_topk(x, w, b, 100)):
        assert not np.isnan(codes[2]).any()
        assert (codes[1] == 60).sum() == 19


@compiled
@dtype
def test_a_row_encodes_the_same_alone_or_in_a_batch(kernels: Any, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((50, 70)).astype(dtype)
    w = rng.standard_normal((500, 70)).astype(dtype)
    b = rng.standard_normal(500).astype(dtype)
    whole = kernels.encode_topk(x, w, b, 11)
    above = kernels.encode_threshold(x, w, b, None)
    for size in (1, 2, 7, 20):
        for codes, encode in (
            (whole, lambda part: kernels.encode_topk(part, w, b, 11)),
            (above, lambda part: kernels.encode_threshold(part, w, b, None)),
        ):
            at = slice(codes[0][30], codes[0][30 + size])
            same((codes[0][:1], codes[1][at], codes[2][at]), (codes[0][:1], *encode(x[30 : 30 + size])[1:3]))


@compiled
def test_watch_list_values_are_those_of_the_whole(kernels: Any) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((9, 70)).astype(np.float32)
    w = rng.standard_normal((500, 70)).astype(np.float32)
    latents = np.array([7, 499, 3, 3], np.int32)
    dense = np.zeros((9, 500), np.float32)
    indptr, indices, values = kernels.encode_threshold(x, w, None, None)
    dense[np.repeat(np.arange(9), np.diff(indptr)), indices] = values
    for rows in (x, x[:1]):
        indptr, indices, values = kernels.encode_threshold(rows, w, None, None, latents=latents)
        listed = np.zeros((len(rows), 4), np.float32)
        listed[np.repeat(np.arange(len(rows)), np.diff(indptr)), indices] = values
        np.testing.assert_array_equal(listed, dense[: len(rows), latents])


@level
def test_input_types_and_strides(kernels: Any) -> None:
    rng = np.random.default_rng(4)
    base = rng.standard_normal((30, 64)).astype(np.float16)
    w = rng.integers(-2, 3, (90, 32)).astype(np.float32)
    want = kernels.encode_topk(np.ascontiguousarray(base[::3, :32], np.float32), w, None, 5)
    bits = (base.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    for x in (base[::3, :32], base.astype(np.float32)[::3, :32], base.astype(np.float64)[::3, :32]):
        x.flags.writeable = False
        got = kernels.encode_topk(x, w, None, 5)
        np.testing.assert_array_equal(got[1], want[1])
        np.testing.assert_allclose(got[2], want[2], rtol=1e-5, atol=1e-5)
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    got, want = (kernels.encode_topk(x[::3, :32], w, None, 5) for x in (bits, rounded))
    np.testing.assert_array_equal(got[1], want[1])


@compiled
def test_every_half_and_bfloat16_converts_exactly(kernels: Any) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    one = np.ones((1, 1), np.float32)
    for x, exact in (
        (bits.view(np.float16), bits.view(np.float16).astype(np.float32)),
        (bits, (bits.astype(np.uint32) << 16).view(np.float32)),
    ):
        keep = ~np.isnan(exact) & (exact > 0)
        indptr, _, values = kernels.encode_threshold(x[:, None], one, None, None)
        np.testing.assert_array_equal(np.diff(indptr), keep)
        np.testing.assert_array_equal(values, exact[keep])


@level
def test_first_nonfinite_row(kernels: Any) -> None:
    x = np.zeros((700, 5))
    assert kernels.first_nonfinite_row(x, num_threads=2) == -1
    assert kernels.first_nonfinite_row(x[:0], num_threads=2) == -1
    x[650, 1], x[300, 4] = np.nan, np.inf
    for kind in (np.float16, np.float32, np.float64):
        assert kernels.first_nonfinite_row(x.astype(kind), num_threads=2) == 300
    assert kernels.first_nonfinite_row(np.full((2, 2), 1e300), num_threads=2) == -1


@compiled
def test_wrong_arguments_are_named(kernels: Any) -> None:
    x, w = np.zeros((3, 4), np.float32), np.zeros((6, 4), np.float32)
    with pytest.raises(ValueError, match=r"x: shape \(3, 3\), expected \(any, 4\)"):
        kernels.encode_topk(x[:, :3], w, None, 2)
    with pytest.raises(ValueError, match="k: 0, expected at least 1"):
        kernels.encode_topk(x, w, None, 0)
    with pytest.raises(TypeError, match="x: dtype int64"):
        kernels.encode_topk(x.astype(np.int64), w, None, 2)
    with pytest.raises(ValueError, match="latents: 6, expected 0 to 5"):
        kernels.encode_threshold(x, w, None, None, latents=np.array([6], np.int32))
    with pytest.raises(ValueError, match="last axis must be contiguous"):
        kernels.encode_topk(np.zeros((3, 8), np.float32)[:, ::2], w, None, 2)
    with pytest.raises(ValueError, match="w: empty"):
        kernels.encode_topk(x, w[:0], None, 2)
    with pytest.raises(ValueError, match="total: 0, expected at least 1"):
        kernels.encode_batch_topk(x, w, None, 0)
    with pytest.raises(ValueError, match=r"b: shape \(5,\), expected \(6\)"):
        kernels.encode_topk(x, w, np.zeros(5, np.float32), 2)


@compiled
def test_numbers_and_bytes_are_checked_before_anything_is_computed(kernels: Any) -> None:
    rng = np.random.default_rng(9)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((20, 40), (90, 40)))
    everything = kernels.encode_topk(x, w, None, 90, relu=False)
    for k in (91, 2**31, 2**62):
        same(kernels.encode_topk(x, w, None, k, relu=False), everything)
    same(kernels.encode_batch_topk(x, w, None, 2**62), kernels.encode_threshold(x, w, None, None))
    with pytest.raises(TypeError, match=r"x: dtype >f4 has the byte order of another machine"):
        kernels.encode_topk(x.astype(">f4"), w, None, 3)
    with pytest.raises(ValueError, match="x: not aligned in memory"):
        kernels.encode_topk(
            np.frombuffer(b"0" + x.tobytes(), np.float32, offset=1).reshape(x.shape), w, None, 3
        )
    indptr, indices, values, _ = kernels.encode_topk(x, w, None, 3)
    for wrong in (-1, 90, 2**31 - 1):
        bad = indices.copy()
        bad[4] = wrong
        with pytest.raises(ValueError, match="indices"):
            kernels.decode(indptr, bad, values, w)


def test_the_reference_ranks_nan_last_as_the_kernels_do() -> None:
    x, w = np.ones((1, 2), np.float32), np.array([[1, 1], [np.nan, 1], [-1, -1], [3, 1]], np.float32)
    for absolute in (False, True):
        want = reference.encode_topk(x, w, None, 3, absolute=absolute, relu=False)
        for name in _kernels.loadable_levels():
            same(_kernels.load(name).encode_topk(x, w, None, 3, absolute=absolute, relu=False), want)
        np.testing.assert_array_equal(want[1], [0, 2, 3])


def read_only(w: Any) -> Any:
    w.flags.writeable = False
    return w


@compiled
@pytest.mark.parametrize("name", CASES)
def test_a_kept_copy_never_changes_the_answer(kernels: Any, name: str) -> None:
    x, w, b = (np.ascontiguousarray(a, np.float32) for a in CASES[name])
    x, center = np.concatenate([x, -x, x * 3]), x.mean(axis=0)
    w, threshold = read_only(w.copy()), np.linspace(-1, 9, len(w), dtype=np.float32)
    sizes = (1, 2, 5, 6, 7, 12, 13, 72)
    calls = {
        "topk": lambda n, **how: kernels.encode_topk(x[:n], w, b, 16, center=center, **how),
        "any sign": lambda n, **how: kernels.encode_topk(x[:n], w, b, 3, relu=False, **how),
        "above": lambda n, **how: kernels.encode_threshold(x[:n], w, b, threshold, center=center, **how),
        "positive": lambda n, **how: kernels.encode_threshold(x[:n], w, None, None, **how),
    }
    want = {(what, n): call(n, screen="float") for what, call in calls.items() for n in sizes}
    for sample in (None, x[:50] - center):
        handle, memory = kernels.keep_int8(w, sample=sample, num_threads=2)
        assert memory > w.size
        ways = (*product(("auto", "int8"), (1, 2)), ("amx", 2))
        for (what, n), (screen, threads) in product(want, ways):
            same(calls[what](n, screen=screen, num_threads=threads), want[what, n])
        del handle


@compiled
def test_a_kept_copy_decides_nearly_all_rows_of_large_dictionaries(kernels: Any) -> None:
    rng = np.random.default_rng(11)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((40, 300), (2000, 300)))
    x[:, 7] += 40
    want = {n: kernels.encode_topk(x[:n], read_only(w), None, 20, screen="float") for n in (1, 8, 40)}
    handle = kernels.keep_int8(w, sample=x)
    for n, codes in want.items():
        for screen in INTEGERS:
            got = kernels.encode_topk(x[:n], w, None, 20, screen=screen)
            same(got, codes)
            assert got[3] == 0
    del handle


@compiled
def test_weights_that_changed_are_not_those_that_were_kept(kernels: Any) -> None:
    rng = np.random.default_rng(12)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 130), (400, 130)))
    with pytest.raises(ValueError, match="w: writeable"):
        kernels.keep_int8(w)
    handle = kernels.keep_int8(read_only(w))
    w.flags.writeable = True
    w[:] = rng.standard_normal(w.shape)
    want = kernels.encode_topk(x, w.copy(), None, 5, simple=True)
    for screen in INTEGERS:
        same(kernels.encode_topk(x, w, None, 5, screen=screen), want)
    bad = np.full((64, 130), np.nan, np.float32)
    kept = kernels.keep_int8(read_only(bad))  # finite weights are nobody's promise
    for screen in INTEGERS:
        assert len(kernels.encode_topk(x, bad, None, 5, screen=screen)[1]) == 0
    del handle, kept
