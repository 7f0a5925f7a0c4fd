"""SAE: dtypes, shapes, watch-lists, save and load, bad input."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

import sparse_sae
from sparse_sae import SAE, TopK


def random_sae(d_in: int = 12, d_sae: int = 40, k: int = 5, seed: int = 0, dtype: Any = np.float32) -> SAE:
    rng = np.random.default_rng(seed)
    w_dec = rng.standard_normal((d_sae, d_in))
    w_dec /= np.linalg.norm(w_dec, axis=1, keepdims=True)
    params = {
        "W_enc": w_dec + 0.1 * rng.standard_normal((d_sae, d_in)),
        "W_dec": w_dec,
        "b_enc": 0.1 * rng.standard_normal(d_sae),
        "b_dec": rng.standard_normal(d_in),
    }
    return SAE.from_rows({name: value.astype(dtype) for name, value in params.items()}, TopK(k=k))


@pytest.fixture
def x() -> Any:
    return np.random.default_rng(1).standard_normal((30, 12)).astype(np.float32)


def dense_topk(sae: SAE, x: Any, k: int) -> Any:
    pre = np.maximum((x - sae.b_dec) @ sae.W_enc + sae.b_enc, 0)
    cut = np.sort(pre, axis=1)[:, -k][:, None]
    return np.where(pre >= cut, pre, 0)


def test_encode_decode_are_the_equations(x: Any) -> None:
    sae = random_sae()
    codes = sae.encode(x)
    expected = dense_topk(sae, x, 5)
    assert isinstance(codes, csr_array)
    assert codes.shape == (30, 40)
    assert codes.dtype == np.float32
    assert codes.indices.dtype == np.int32
    assert codes.has_sorted_indices
    np.testing.assert_allclose(codes.toarray(), expected, atol=1e-5)
    np.testing.assert_allclose(sae.decode(codes), expected @ sae.W_dec + sae.b_dec, atol=1e-5)
    np.testing.assert_allclose(sae.decode(expected), sae.decode(codes), atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(x), sae.decode(codes), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_float_types(x: Any, dtype: str) -> None:
    sae = random_sae()
    low = x.astype(dtype)
    exact = sae.encode(low.astype(np.float32))
    assert (sae.encode(low) != exact).nnz == 0


def test_torch_bfloat16_and_dlpack(x: Any) -> None:
    torch = pytest.importorskip("torch")
    sae = random_sae()
    tensor = torch.from_numpy(x).to(torch.bfloat16)
    assert (sae.encode(tensor) != sae.encode(tensor.float().numpy())).nnz == 0
    assert (sae.encode(torch.from_numpy(x).requires_grad_()) != sae.encode(x)).nnz == 0


def test_array_protocol(x: Any) -> None:
    class Wrapped:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return x

    assert (random_sae().encode(Wrapped()) != random_sae().encode(x)).nnz == 0


def test_vectors_and_stacks(x: Any) -> None:
    sae = random_sae()
    assert sae.encode(x[0]).shape == (1, 40)
    assert sae.reconstruct(x[0]).shape == (12,)
    stack = x.reshape(2, 15, 12)
    assert (sae.encode(stack) != sae.encode(x)).nnz == 0
    np.testing.assert_array_equal(sae.reconstruct(stack).reshape(30, 12), sae.reconstruct(x))


def test_a_row_alone_encodes_like_in_a_batch(x: Any) -> None:
    sae = random_sae(d_sae=400)
    whole = sae.encode(x).toarray()
    for n in (0, 7, 29):
        np.testing.assert_array_equal(sae.encode(x[n]).toarray()[0], whole[n])


def test_read_only_and_strided_input_just_works(x: Any) -> None:
    sae = random_sae()
    x.setflags(write=False)
    expected = sae.encode(x)
    assert (sae.encode(np.asfortranarray(x)) != expected).nnz == 0
    assert (sae.encode(np.repeat(x, 2, axis=1)[:, ::2]) != expected).nnz == 0
    assert (sae.encode(x[::-1])[::-1] != expected).nnz == 0


def test_watch_list_is_the_latent_on_its_own(x: Any) -> None:
    sae = random_sae()
    latents = [7, 3, 31]
    watched = sae.encode(x, latents=latents).toarray()
    pre = np.maximum((x - sae.b_dec) @ sae.W_enc + sae.b_enc, 0)[:, latents]
    np.testing.assert_allclose(watched, pre, atol=1e-5)
    full = sae.encode(x).toarray()[:, latents]
    np.testing.assert_array_equal(watched[full > 0], full[full > 0])


@pytest.mark.parametrize("latents", [[], [40], [-1], [[1, 2]], [0.5]])
def test_bad_watch_lists(x: Any, latents: Any) -> None:
    with pytest.raises(ValueError, match="latents"):
        random_sae().encode(x, latents=latents)


def test_empty_batch() -> None:
    codes = random_sae().encode(np.empty((0, 12), np.float32))
    assert codes.shape == (0, 40)
    assert random_sae().decode(codes).shape == (0, 12)


def test_nan_and_infinity_name_the_row(x: Any) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        broken = x.copy()
        broken[17, 3] = bad
        with pytest.raises(ValueError, match="row 17"):
            random_sae().encode(broken)


def test_too_large_for_float32(x: Any) -> None:
    big = x.astype(np.float64)
    big[2, 2] = 1e300
    with pytest.raises(ValueError, match="row 2"):
        random_sae().encode(big)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.zeros((3, 11), np.float32), ValueError),
        (np.zeros((3, 12), int), TypeError),
        (np.zeros((3, 12), complex), TypeError),
        (np.float32(1), ValueError),
    ],
)
def test_wrong_width_or_dtype(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="x: "):
        random_sae().encode(value)


def test_k_out_of_range() -> None:
    for k in (0, 41):
        with pytest.raises(ValueError, match="k: got"):
            random_sae(k=k)


def test_params_are_checked() -> None:
    sae = random_sae()
    with pytest.raises(ValueError, match="b_enc"):
        SAE.from_rows({**sae.params, "b_enc": np.zeros(3, np.float32)}, TopK(k=2))
    with pytest.raises(ValueError, match="NaN"):
        SAE.from_rows({**sae.params, "b_enc": np.full(40, np.nan, np.float32)}, TopK(k=2))
    with pytest.raises(TypeError, match="float32"):
        SAE.from_rows({**sae.params, "b_enc": np.zeros(40)}, TopK(k=2))
    with pytest.raises(ValueError, match="W_dec"):
        SAE.from_rows({"W_enc": sae.params["W_enc"]}, TopK(k=2))


def test_decode_checks_its_codes() -> None:
    with pytest.raises(ValueError, match="d_sae"):
        random_sae().decode(csr_array((2, 39), dtype=np.float32))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (None, "codes: got NoneType"),
        ("x", "codes: got str"),
        (np.full((2, 64), None), "codes: got ndarray"),
        (np.full((2, 64), 1j), "codes: dtype complex128, expected real numbers"),
    ],
)
def test_decode_refuses_what_holds_no_codes(tiny_sae: Any, codes: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tiny_sae.decode(codes)


def test_decode_sees_indices_before_they_are_narrowed(tiny_sae: Any) -> None:
    """2**32 + 5 in 32 bits is latent 5."""
    codes = csr_array((np.ones(1, np.float32), np.array([5]), np.array([0, 1])), shape=(1, 64))
    codes.indices = np.array([2**32 + 5])
    with pytest.raises(ValueError, match=f"codes: indices from {2**32 + 5} to {2**32 + 5}, expected 0 to 63"):
        tiny_sae.decode(codes)


def test_decode_sorts_indices() -> None:
    sae = random_sae()
    shuffled = csr_array(
        (np.array([2.0, 1.0], np.float32), np.array([9, 3]), np.array([0, 2])), shape=(1, 40)
    )
    expected = 2 * sae.W_dec[9] + sae.W_dec[3] + sae.b_dec
    np.testing.assert_allclose(sae.decode(shuffled)[0], expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_save_and_load(tmp_path: Path, x: Any, dtype: Any) -> None:
    sae = random_sae(dtype=dtype)
    sae.metadata["hook_name"] = "blocks.3.hook_resid_post"
    sae.save(tmp_path / "sae")
    back = sparse_sae.load(tmp_path / "sae")
    assert back.activation == sae.activation
    assert back.metadata["hook_name"] == "blocks.3.hook_resid_post"
    for name, value in sae.params.items():
        np.testing.assert_array_equal(back.params[name], value)
        assert back.params[name].dtype == dtype
    assert (back.encode(x) != sae.encode(x)).nnz == 0
    sae.save(tmp_path / "sae")  # over the old one
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sae"]


def test_full_disk_leaves_the_old_sae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sae = random_sae()
    sae.save(tmp_path / "sae")
    before = {p.name: p.read_bytes() for p in (tmp_path / "sae").iterdir()}

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        random_sae(seed=2).save(tmp_path / "sae")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["sae"]
    assert {p.name: p.read_bytes() for p in (tmp_path / "sae").iterdir()} == before


def test_repr_and_kernels() -> None:
    assert "d_sae=40" in repr(random_sae())
    report = sparse_sae.kernels()
    assert report["level"] in [*report["levels"], "reference"]
    assert report["threads"] >= 1
    assert report["version"]


def test_the_constructor_takes_what_the_properties_give() -> None:
    """Square weights too, where a transposed matrix would fit as well."""
    rng = np.random.default_rng(3)
    w, v = (rng.standard_normal((6, 6)).astype(np.float32) for _ in range(2))
    zeros = np.zeros(6, np.float32)
    a = SAE({"W_enc": w, "W_dec": v, "b_enc": zeros, "b_dec": zeros}, TopK(k=2))
    again = SAE({"W_enc": a.W_enc, "W_dec": a.W_dec, "b_enc": a.b_enc, "b_dec": a.b_dec}, TopK(k=2))
    np.testing.assert_array_equal(again.W_enc, w)
    x = rng.standard_normal((5, 6)).astype(np.float32)
    np.testing.assert_array_equal(again.reconstruct(x), a.reconstruct(x))
    rows = SAE.from_rows({**a.params}, TopK(k=2))
    np.testing.assert_array_equal(rows.W_enc, w)


def test_what_does_not_centre_its_input_is_an_sae_all_the_same() -> None:
    eye, zeros = np.eye(4, dtype=np.float32), np.zeros(4, np.float32)
    params = {"W_enc": eye, "W_dec": eye, "b_enc": zeros, "b_dec": zeros}
    sae = SAE(params, TopK(k=4), apply_b_dec_to_input=False)
    assert sae.kind == "sae" and not sae.is_transcoder and repr(sae).startswith("<SAE ")
    assert sparse_sae.evaluate(sae, np.abs(np.random.default_rng(0).standard_normal((40, 4)))).fvu < 1e-6
    told = SAE(params, TopK(k=4), kind="transcoder", apply_b_dec_to_input=False)
    assert told.is_transcoder and repr(told).startswith("<transcoder ")
    with pytest.raises(ValueError, match="y: a transcoder is measured against its targets"):
        sparse_sae.evaluate(told, np.ones((3, 4), np.float32))
    for wrong in ({"kind": "autoencoder"}, {"kind": "crosscoder"}, {"sources": (2, 2), "kind": "sae"}):
        with pytest.raises(ValueError, match="kind: got"):
            SAE(params, TopK(k=4), **wrong)
    with pytest.raises(ValueError, match="pass kind='transcoder'"):
        SAE({**params, "W_skip": eye}, TopK(k=4), kind="sae", apply_b_dec_to_input=False)


@pytest.mark.parametrize("kind", ["sae", "transcoder"])
def test_the_kind_is_stored(tmp_path: Path, kind: str) -> None:
    eye, zeros = np.eye(4, dtype=np.float32), np.zeros(4, np.float32)
    params = {"W_enc": eye, "W_dec": eye, "b_enc": zeros, "b_dec": zeros}
    SAE(params, TopK(k=2), kind=kind, apply_b_dec_to_input=False).save(tmp_path / "a")
    assert sparse_sae.load(tmp_path / "a").kind == kind


def test_weights_an_architecture_needs_are_asked_for() -> None:
    eye, zeros = np.eye(4, dtype=np.float32), np.zeros(4, np.float32)
    params = {"W_enc": eye, "W_dec": eye, "b_enc": zeros, "b_dec": zeros}
    with pytest.raises(ValueError, match=r"params: no .threshold., expected W_enc, .*threshold"):
        SAE(params, sparse_sae.JumpReLU())
    with pytest.raises(ValueError, match=r"threshold: shape \(3,\), expected \(4,\)"):
        SAE({**params, "threshold": np.zeros(3, np.float32)}, sparse_sae.JumpReLU())


def test_codes_that_would_be_changed_on_the_way_are_refused() -> None:
    sae = SAE.from_rows(
        {"W_enc": np.eye(4, dtype=np.float32), "W_dec": np.eye(4, dtype=np.float32)}
        | dict.fromkeys(("b_enc", "b_dec"), np.zeros(4, np.float32)),
        TopK(k=2),
    )
    far = csr_array((np.ones(1), np.zeros(1, np.int64), np.array([0, 1])), shape=(1, 4))
    far.indices = np.array([2**32 + 1], np.int64)
    with pytest.raises(ValueError, match="codes: indices"):
        sae.decode(far)
    with pytest.raises(TypeError, match="codes: dtype complex128"):
        sae.decode(np.ones((1, 4), complex))
    x = np.ma.masked_array(np.ones((2, 4), np.float32), mask=np.eye(2, 4, dtype=bool))
    with pytest.raises(TypeError, match="a masked array"):
        sae.encode(x)


@pytest.mark.parametrize("what", ["file", "symlink", "project", "cwd"])
def test_saving_replaces_nothing_that_is_not_an_sae(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    eye, zeros = np.eye(4, dtype=np.float32), np.zeros(4, np.float32)
    sae = SAE({"W_enc": eye, "W_dec": eye, "b_enc": zeros, "b_dec": zeros}, TopK(k=2))
    target = tmp_path / "there"
    if what == "file":
        target.write_text("mine")
    elif what == "symlink":
        (tmp_path / "real").mkdir()
        target.symlink_to(tmp_path / "real")
    else:
        target.mkdir()
        (target / "thesis.tex").write_text("mine")
        (target / "cfg.json").write_text("{}")
    if what == "cwd":
        monkeypatch.chdir(target)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="path: "):
        sae.save("." if what == "cwd" else target)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    sae.save(tmp_path / "own")
    sae.save(tmp_path / "own")
    assert sorted(p.name for p in (tmp_path / "own").iterdir()) == ["cfg.json", "sae_weights.safetensors"]


def test_a_prepared_sae_gives_the_same_codes_and_cannot_be_changed_by_accident(x: Any) -> None:
    rng = np.random.default_rng(5)
    sae = random_sae(160, 640, k=8)
    rows = rng.standard_normal((30, 160)).astype(np.float32)
    want = [sae.encode(rows[:n]) for n in (1, 8, 30)]
    for sample in (None, rows.astype(np.float16)):
        assert sae.prepare(sample) is sae
        for codes in want:
            got = sae.encode(rows[: codes.shape[0]])
            assert (got != codes).nnz == 0
    if sparse_sae.kernels()["int8"]:
        with pytest.raises(ValueError, match="read-only"):
            sae.params["W_enc"] *= 2
    twin = copy.deepcopy(sae)
    twin.params["W_enc"] = 2 * twin.params["W_enc"]
    assert (twin.encode(rows[:1]) != want[0]).nnz
    assert (sae.encode(rows[:1]) != want[0]).nnz == 0
    with pytest.raises(TypeError, match="prepare: an SAE of float64"):
        random_sae(dtype=np.float64).prepare()


def test_prepare_copies_weights_that_someone_else_may_change() -> None:
    rng = np.random.default_rng(6)
    memory = bytearray(4 * 160 * 640)
    w = np.frombuffer(memory, np.float32).reshape(640, 160)
    w[:] = rng.standard_normal(w.shape)
    params = {
        "W_enc": w,
        "W_dec": w.copy(),
        "b_enc": np.zeros(640, np.float32),
        "b_dec": np.zeros(160, np.float32),
    }
    sae = SAE.from_rows(params, TopK(k=8))
    rows = rng.standard_normal((2, 160)).astype(np.float32)
    want = sae.encode(rows)
    sae.prepare()
    assert (sae.encode(rows) != want).nnz == 0
    if sparse_sae.kernels()["int8"]:
        memory[:] = bytes(len(memory))
        assert (sae.encode(rows) != want).nnz == 0
