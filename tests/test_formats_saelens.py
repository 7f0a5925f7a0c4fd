"""SAELens' files: read with SAELens' own encodings, and written so that SAELens computes the same.

tests/golden/make_saelens.py made the files with SAELens; each folder has `expected.npz` (x, z, y), computed by it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparse_sae
from sparse_sae.formats._files import read_safetensors

GOLDEN = Path(__file__).parent / "golden" / "saelens"
CASES = sorted(p.name for p in GOLDEN.iterdir())
# Two float32 programs that sum in different orders.
CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("case", CASES)
def test_encodings_and_reconstructions_are_saelens_own(case: str) -> None:
    sae = sparse_sae.load(GOLDEN / case)
    expected = np.load(GOLDEN / case / "expected.npz")
    z = sae.encode(expected["x"]).toarray()
    assert (expected["z"] != 0).any()
    assert np.array_equal(z != 0, expected["z"] != 0)
    np.testing.assert_allclose(z, expected["z"], **CLOSE)
    np.testing.assert_allclose(sae.reconstruct(expected["x"]), expected["y"], **CLOSE)


@pytest.mark.parametrize("case", [c for c in CASES if c.startswith("ours_")])
def test_what_saelens_opened_is_what_is_written_today(case: str, tmp_path: Path) -> None:
    sparse_sae.load(GOLDEN / case).save(tmp_path / "again")
    old, new = (json.loads((p / "cfg.json").read_text()) for p in (GOLDEN / case, tmp_path / "again"))
    # Hyperparameters of training may be added; SAELens does not read them.
    for config in (old, new):
        config["metadata"].pop("sparse_sae")
    assert old == new
    tensors = [read_safetensors(p / "sae_weights.safetensors") for p in (GOLDEN / case, tmp_path / "again")]
    assert tensors[0].keys() == tensors[1].keys()
    for name, value in tensors[0].items():
        assert np.array_equal(value, tensors[1][name]), name


@pytest.mark.parametrize("case", CASES)
def test_saved_again_and_loaded_it_is_the_same(case: str, tmp_path: Path) -> None:
    sae = sparse_sae.load(GOLDEN / case)
    sae.save(tmp_path / "again")
    again = sparse_sae.load(tmp_path / "again")
    assert again.metadata.get("hook_name") == sae.metadata.get("hook_name")
    assert again.activation == sae.activation
    assert (again.transform, again.apply_b_dec_to_input) == (sae.transform, sae.apply_b_dec_to_input)
    assert again.params.keys() == sae.params.keys()
    for name, value in sae.params.items():
        assert np.array_equal(again.params[name], value), name


def test_metadata_of_old_and_new_configurations() -> None:
    assert sparse_sae.load(GOLDEN / "topk").metadata["hook_name"] == "blocks.1.hook_resid_post"
    old = sparse_sae.load(GOLDEN / "old_topk")
    assert old.metadata["hook_name"] == "blocks.3.hook_resid_pre"
    assert old.metadata["model_name"] == "gpt2-small"
    assert not old.apply_b_dec_to_input
    assert sparse_sae.load(GOLDEN / "hook_z").metadata["reshape_activations"] == "hook_z"


def edited(tmp_path: Path, case: str, **changes: Any) -> Path:
    """A copy of a stored directory with other settings; None removes one."""
    folder = tmp_path / "edited"
    shutil.copytree(GOLDEN / case, folder)
    config = {**json.loads((folder / "cfg.json").read_text()), **changes}
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def test_inputs_that_are_scaled_outside_are_warned_about(tmp_path: Path) -> None:
    folder = edited(tmp_path, "standard", normalize_activations="expected_average_only_in")
    with pytest.warns(UserWarning, match="expects activations scaled to an average norm"):
        sae = sparse_sae.load(folder)
    assert sae.transform.is_identity


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"architecture": "temporal"}, NotImplementedError, "depend on earlier tokens"),
        ({"architecture": "matching_pursuit"}, NotImplementedError, "greedy pursuit"),
        ({"architecture": "from_the_future"}, NotImplementedError, "from_the_future"),
        (
            {"normalize_activations": "constant_scalar_rescale"},
            NotImplementedError,
            "constant_scalar_rescale",
        ),
        ({"architecture": "jumprelu"}, ValueError, r"no threshold; found W_dec, W_enc, b_dec, b_enc"),
        ({"architecture": "gated"}, ValueError, "no b_gate, b_mag, r_mag"),
        ({"k": None}, ValueError, "'k' should be a whole number, found nothing"),
        ({"k": 2.5}, ValueError, "'k' should be a whole number, found 2.5"),
        ({"k": 0}, ValueError, "k: got 0, expected 1 to d_sae = 24"),
        ({"d_sae": 48}, ValueError, "d_sae is 48, the weights say 24"),
        ({"d_in": 16}, ValueError, "d_in is 16, the weights say 8"),
    ],
)
def test_configurations_that_cannot_be_honoured(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sparse_sae.load(edited(tmp_path, "topk", **changes))


def test_old_activation_function_that_is_not_known(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="'tanh-relu' is not read"):
        sparse_sae.load(edited(tmp_path, "old_standard", activation_fn_str="tanh-relu"))


def test_tensors_that_nobody_would_read_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds threshold beside"):
        sparse_sae.load(edited(tmp_path, "jumprelu", architecture="standard"))


def test_saelens_changing_k_wins_over_what_was_written_here(tmp_path: Path) -> None:
    assert sparse_sae.load(edited(tmp_path, "ours_topk", k=7)).activation == sparse_sae.TopK(k=7).activation


def test_finetuned_scaling_factor_is_in_the_decoder(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    folder = edited(tmp_path, "old_standard", finetuning_scaling_factor=True)
    tensors = {n: v.copy() for n, v in read_safetensors(folder / "sae_weights.safetensors").items()}
    tensors["scaling_factor"] = np.linspace(0.5, 2, 24, dtype=np.float32)
    save_file(tensors, folder / "sae_weights.safetensors")
    plain, scaled = sparse_sae.load(GOLDEN / "old_standard"), sparse_sae.load(folder)
    x = np.load(folder / "expected.npz")["x"]
    z = plain.encode(x).toarray()
    np.testing.assert_array_equal(scaled.encode(x).toarray(), z)
    np.testing.assert_allclose(
        scaled.reconstruct(x), (z * tensors["scaling_factor"]) @ plain.W_dec + plain.b_dec, **CLOSE
    )


def test_a_topk_transcoder_is_not_passed_off_as_a_relu_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"W_enc": (12, 4), "W_dec": (12, 3), "b_enc": (12,), "b_dec": (3,)}
    params = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    sae = sparse_sae.SAE.from_rows(params, sparse_sae.TopK(k=2), apply_b_dec_to_input=False)
    sae.save(tmp_path / "t")
    # SAELens knows "transcoder", and would compute ReLU.
    assert (
        json.loads((tmp_path / "t" / "cfg.json").read_text())["architecture"] == "sparse_sae_topk_transcoder"
    )
    x = rng.standard_normal((5, 4)).astype(np.float32)
    assert (sparse_sae.load(tmp_path / "t").encode(x) != sae.encode(x)).nnz == 0
