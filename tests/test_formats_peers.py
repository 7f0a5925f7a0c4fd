"""Files of sparsify, dictionary_learning, OpenAI, circuit-tracer and Gemma Scope, with the projects' own encodings.

The files and `expected.npz` (x, z, y) beside them were made by tests/golden/make_*.py, running each project's code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparse_sae
from sparse_sae.activations import GroupMax, JumpReLU, ReLU

GOLDEN = Path(__file__).parent / "golden"
CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}
FILES = {
    **{f"sparsify/{p.name}": p for p in sorted((GOLDEN / "sparsify").iterdir()) if p.is_dir()},
    **{f"dictionary_learning/{p.name}": p for p in sorted((GOLDEN / "dictionary_learning").iterdir())},
    **{f"openai/{p.parts[-3]}": p for p in sorted((GOLDEN / "openai").rglob("*.pt"))},
    "circuit_tracer": GOLDEN / "circuit_tracer" / "layer_5.safetensors",
    "gemma_scope": GOLDEN / "gemma_scope",
    "gemma_scope/file": GOLDEN / "gemma_scope" / "params.npz",
}
EARLY = "dictionary_learning/BatchTopKSAE_early"


def expected_of(path: Path) -> Any:
    return np.load((path if path.is_dir() else path.parent) / "expected.npz")


@pytest.mark.filterwarnings("ignore:.*threshold is -1.0")
@pytest.mark.parametrize("name", FILES)
def test_encodings_and_reconstructions_are_the_peers_own(name: str) -> None:
    sae = sparse_sae.load(FILES[name])
    expected = expected_of(FILES[name])
    z = sae.encode(expected["x"]).toarray()
    assert (expected["z"] != 0).any()
    np.testing.assert_allclose(z, expected["z"], **CLOSE)
    np.testing.assert_allclose(sae.reconstruct(expected["x"]), expected["y"], **CLOSE)


def test_every_case_of_a_peer_is_there() -> None:
    assert len(FILES) >= 18


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("sparsify")])
def test_sparsify_written_again_is_the_same_file(name: str, tmp_path: Path) -> None:
    """make_sparsify.py --check opens these in sparsify itself."""
    from safetensors.numpy import load_file

    sae = sparse_sae.load(FILES[name])
    sae.save(tmp_path / "again", format="sparsify")
    theirs, ours = (load_file(p / "sae.safetensors") for p in (FILES[name], tmp_path / "again"))
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(value, ours[key])
    again = sparse_sae.load(tmp_path / "again")
    assert again.activation == sae.activation
    assert again.apply_b_dec_to_input == sae.apply_b_dec_to_input


@pytest.mark.filterwarnings("ignore:.*threshold is -1.0")
@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("dictionary_learning")])
def test_dictionary_learning_written_again_computes_the_same(name: str, tmp_path: Path) -> None:
    """make_dictionary_learning.py --check opens such files in dictionary_learning itself."""
    sae = sparse_sae.load(FILES[name])
    x = expected_of(FILES[name])["x"]
    sae.save(tmp_path / "again", format="dictionary_learning")
    again = sparse_sae.load(tmp_path / "again")
    np.testing.assert_allclose(again.encode(x).toarray(), sae.encode(x).toarray(), **CLOSE)
    np.testing.assert_allclose(again.reconstruct(x), sae.reconstruct(x), **CLOSE)
    assert again.metadata["model_name"] == "some/model"
    assert again.metadata["layer"] == 3


def test_batch_topk_saved_before_its_threshold_was_estimated_is_warned_about() -> None:
    with pytest.warns(
        UserWarning, match="threshold is -1.0: saved before dictionary_learning had estimated it"
    ):
        sae = sparse_sae.load(FILES[EARLY])
    x = expected_of(FILES[EARLY])["x"]
    assert sae.encode(x).nnz / len(x) > 2 * 4  # k is 4


def test_metadata_from_the_peers_configurations() -> None:
    sparsify = sparse_sae.load(FILES["sparsify/layers.3"])
    assert sparsify.metadata["hook_name"] == "blocks.3.hook_resid_post"
    assert sparsify.metadata["model_name"] == "some/model"
    openai = sparse_sae.load(FILES["openai/resid_post_mlp_v5_32k"])
    assert openai.metadata == {"model_name": "gpt2-small", "hook_name": "blocks.8.hook_resid_post"}
    assert sparse_sae.load(FILES["circuit_tracer"]).metadata == {"layer": 5}


def test_architectures_are_the_ones_that_compute_it() -> None:
    found = {name: sparse_sae.load(FILES[name]).activation for name in FILES if name != EARLY}
    assert found["sparsify/groupmax"] == GroupMax(k=4)
    assert isinstance(found["dictionary_learning/MatryoshkaBatchTopKSAE"], JumpReLU)
    assert isinstance(found["dictionary_learning/AutoEncoderNew"], ReLU)
    assert sparse_sae.load(FILES["openai/resid_post_mlp_v5_32k"]).transform.kind == "layer_norm"
    assert sparse_sae.load(FILES["openai/mlp_post_act"]).transform.is_identity


@pytest.mark.parametrize("num_threads", [1, 3])
def test_groupmax_watch_list_and_threads(num_threads: int) -> None:
    sae = sparse_sae.load(FILES["sparsify/groupmax"])
    x = np.random.default_rng(0).standard_normal((1300, 8)).astype(np.float32)  # several blocks of rows
    codes = sae.encode(x, num_threads=num_threads)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    best = pre.reshape(len(x), 4, 6).max(axis=2)
    np.testing.assert_allclose(codes.sum(axis=1), np.maximum(best, 0).sum(axis=1), rtol=1e-4, atol=1e-4)
    assert np.diff(codes.indptr).max() <= 4
    listed = sae.encode(x, latents=[7, 2], num_threads=num_threads).toarray()
    np.testing.assert_allclose(listed, np.maximum(pre[:, [7, 2]], 0), **CLOSE)


def test_formats_that_cannot_hold_an_sae_say_so(tmp_path: Path) -> None:
    jumprelu = sparse_sae.load(FILES["gemma_scope"])
    with pytest.raises(ValueError, match="format 'sparsify': holds TopK and GroupMax"):
        jumprelu.save(tmp_path / "no", format="sparsify")
    with pytest.raises(ValueError, match="without a skip"):
        sparse_sae.load(FILES["sparsify/skip"]).save(tmp_path / "no", format="dictionary_learning")
    with pytest.raises(
        ValueError, match="format: got 'npz', expected one of saelens, sparsify, dictionary_learning"
    ):
        jumprelu.save(tmp_path / "no", format="npz")
    assert not list(tmp_path.iterdir())
