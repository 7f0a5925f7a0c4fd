"""Files in documented layouts, against a plain transcription of what the project computes from them."""

from __future__ import annotations

import json
import mmap
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from safetensors.numpy import save_file

import sparse_sae

D_IN, D_SAE, D_OUT = 8, 24, 6
CLOSE: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}


def draw(*shape: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = draw(12, D_IN, seed=100)


def jumprelu(pre: Any, threshold: Any) -> Any:
    return np.maximum(pre, 0) * (pre > threshold)


def check(path: Path, z: Any, y: Any, x: Any = X) -> Any:
    sae = sparse_sae.load(path)
    assert (z != 0).any()
    assert (z == 0).any()
    np.testing.assert_allclose(sae.encode(x).toarray(), z, **CLOSE)
    np.testing.assert_allclose(sae.reconstruct(x), y, **CLOSE)
    return sae


def gemma_arrays() -> dict[str, Any]:
    return {
        "W_enc": draw(D_IN, D_SAE, seed=0),
        "W_dec": draw(D_SAE, D_IN, seed=1),
        "b_enc": draw(D_SAE, seed=2),
        "b_dec": draw(D_IN, seed=3),
        "threshold": np.abs(draw(D_SAE, seed=4)),
    }


@pytest.mark.parametrize("lower", [False, True])
def test_gemma_scope(tmp_path: Path, lower: bool) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-att" / "layer_20" / "width_16k" / "average_l0_71"
    folder.mkdir(parents=True)
    a = gemma_arrays()
    np.savez(folder / "params.npz", **{k.replace("W_", "w_" if lower else "W_"): v for k, v in a.items()})
    z = jumprelu(X @ a["W_enc"] + a["b_enc"], a["threshold"])
    sae = check(folder, z, z @ a["W_dec"] + a["b_dec"])
    assert sae.metadata == {"model_name": "gemma-2-2b", "hook_name": "blocks.20.attn.hook_z"}


def test_gemma_scope_embedding_is_for_unscaled_embeddings(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    folder.mkdir(parents=True)
    a = gemma_arrays()
    np.savez(folder / "params.npz", **a)
    z = jumprelu(X @ a["W_enc"] / np.sqrt(D_IN) + a["b_enc"], a["threshold"])
    assert check(folder, z, z @ a["W_dec"] * np.sqrt(D_IN) + a["b_dec"]).metadata["hook_name"] == "hook_embed"


@pytest.mark.parametrize("skip", [False, True])
def test_gemma_scope_2(tmp_path: Path, skip: bool) -> None:
    a = gemma_arrays()
    a["W_dec"], a["b_dec"] = draw(D_SAE, D_OUT, seed=5), draw(D_OUT, seed=6)
    tensors = {k.replace("W_", "w_"): v for k, v in a.items()}
    if skip:
        tensors["affine_skip_connection"] = draw(D_IN, D_OUT, seed=7)
    save_file(tensors, tmp_path / "params.safetensors")
    config = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-1b-pt",
        "affine_connection": skip,
        "hf_hook_point_in": "model.layers.7.pre_feedforward_layernorm.output",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    z = jumprelu(X @ a["W_enc"] + a["b_enc"], a["threshold"])
    y = z @ a["W_dec"] + a["b_dec"] + (X @ tensors["affine_skip_connection"] if skip else 0)
    assert check(tmp_path, z, y).metadata["hf_hook_name"] == config["hf_hook_point_in"]


def test_gemma_scope_2_cross_layer_is_named_as_not_read(tmp_path: Path) -> None:
    a = {k.replace("W_", "w_"): v for k, v in gemma_arrays().items()}
    save_file({**a, "w_dec": draw(D_SAE, 3, D_IN, seed=1)}, tmp_path / "params.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "jump_relu"}')
    with pytest.raises(NotImplementedError, match="cross-layer"):
        sparse_sae.load(tmp_path)


def llama_tensors() -> dict[str, Any]:
    return {
        "encoder.weight": draw(D_SAE, D_IN, seed=0),
        "encoder.bias": draw(D_SAE, seed=1),
        "decoder.weight": draw(D_IN, D_SAE, seed=2),
        "decoder.bias": draw(D_IN, seed=3),
    }


def test_llama_scope(tmp_path: Path) -> None:
    """x · √d/norm goes in, what comes out is divided by it; codes are then put in units of x, decoders made unit.

    The threshold is held against those codes: OpenMOSS estimated it from a model loaded in this way.
    """
    t, norm, threshold = llama_tensors(), 21.5, 0.8
    config = {
        "act_fn": "jumprelu",
        "jump_relu_threshold": threshold,
        "d_model": D_IN,
        "d_sae": D_SAE,
        "use_glu_encoder": False,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": {"in": norm, "out": norm},
        "sparsity_include_decoder_norm": True,
        "apply_decoder_bias_to_pre_encoder": False,
        "hook_point_in": "blocks.5.hook_resid_post",
        "hook_point_out": "blocks.5.hook_resid_post",
    }
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "hyperparams.json").write_text(json.dumps(config))
    save_file(t, tmp_path / "checkpoints" / "final.safetensors")
    scale = np.sqrt(D_IN) / norm
    norms = np.linalg.norm(t["decoder.weight"], axis=0)
    x = 10 * X
    pre = ((x * scale) @ t["encoder.weight"].T + t["encoder.bias"]) / scale * norms
    z = jumprelu(pre, threshold)
    y = ((z * scale / norms) @ t["decoder.weight"].T + t["decoder.bias"]) / scale
    sae = check(tmp_path, z, y, x)
    assert sae.metadata == {"hook_name": "blocks.5.hook_resid_post"}
    np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("include_norm", [False, True])
def test_llama_scope_distill(tmp_path: Path, include_norm: bool) -> None:
    """The later layout: thresholds, in units of the scaled input, are trained and stored as logarithms."""
    t, norm, hook = llama_tensors(), 21.5, "blocks.5.hook_resid_post"
    log_threshold = 0.5 * draw(D_SAE, seed=4)
    extra = {
        "log_jumprelu_threshold": log_threshold,
        f"dataset_average_activation_norm.{hook}": np.float32(norm),
    }
    save_file({**t, **{k: np.asarray(v) for k, v in extra.items()}}, tmp_path / "sae_weights.safetensors")
    config = {
        "act_fn": "jumprelu",
        "d_model": D_IN,
        "expansion_factor": 3,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": include_norm,
        "hook_point_in": hook,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    scale = np.sqrt(D_IN) / norm
    norms = np.linalg.norm(t["decoder.weight"], axis=0) if include_norm else np.float32(1)
    x = 10 * X
    pre = (x * scale) @ t["encoder.weight"].T + t["encoder.bias"]
    active = pre * norms > np.exp(log_threshold)
    codes = np.where(active, np.maximum(pre, 0), 0)
    y = (codes @ t["decoder.weight"].T + t["decoder.bias"]) / scale
    check(tmp_path, codes * norms / scale, y, x)


@pytest.mark.parametrize("threshold", [None, "activation_function.threshold", "threshold"])
@pytest.mark.parametrize("turned", [False, True])
def test_circuit_tracer_layer(tmp_path: Path, threshold: str | None, turned: bool) -> None:
    a = gemma_arrays()
    w_dec, b_dec = draw(D_SAE, D_OUT, seed=5), draw(D_OUT, seed=6)
    tensors = {
        "W_enc": a["W_enc"].T,
        "W_dec": w_dec.T if turned else w_dec,
        "b_enc": a["b_enc"],
        "b_dec": b_dec,
    }
    if threshold:
        tensors[threshold] = a["threshold"]
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, tmp_path / "layer_11.safetensors")
    z = jumprelu(X @ a["W_enc"] + a["b_enc"], a["threshold"] if threshold else 0)
    assert check(tmp_path / "layer_11.safetensors", z, z @ w_dec + b_dec).metadata == {"layer": 11}
    with pytest.raises(ValueError, match="one SAE a layer; give the file of one"):
        sparse_sae.load(tmp_path)


def test_circuit_tracer_cross_layer_parts_add_up_to_the_model(tmp_path: Path) -> None:
    """y_l = b_dec_l + Σ_{i ≤ l} z_i W_dec_i[:, l - i]."""
    layers = 3
    x = draw(layers, 12, D_IN, seed=9)
    expected = np.zeros((layers, 12, D_IN), np.float32)
    got = np.zeros_like(expected)
    for i in range(layers):
        w_enc, w_dec = draw(D_SAE, D_IN, seed=10 + i), draw(D_SAE, layers - i, D_IN, seed=20 + i)
        b_enc, b_dec, threshold = (
            draw(D_SAE, seed=30 + i),
            draw(D_IN, seed=40 + i),
            np.abs(draw(D_SAE, seed=50 + i)),
        )
        encoder = {f"W_enc_{i}": w_enc, f"b_enc_{i}": b_enc, f"b_dec_{i}": b_dec, f"threshold_{i}": threshold}
        save_file(encoder, tmp_path / f"W_enc_{i}.safetensors")
        save_file({f"W_dec_{i}": w_dec}, tmp_path / f"W_dec_{i}.safetensors")
        z = jumprelu(x[i] @ w_enc.T + b_enc, threshold)
        expected[i] += b_dec
        for target in range(i, layers):
            expected[target] += z @ w_dec[:, target - i]
        sae = sparse_sae.load(tmp_path / f"W_{'enc' if i else 'dec'}_{i}.safetensors")
        np.testing.assert_allclose(sae.encode(x[i]).toarray(), z, **CLOSE)
        assert sae.metadata == {"layer": i, "output_layers": list(range(i, layers))}
        got[i:] += sae.reconstruct(x[i]).reshape(12, layers - i, D_IN).transpose(1, 0, 2)
    np.testing.assert_allclose(got, expected, **CLOSE)


@pytest.mark.parametrize("signed", [False, True])
def test_sparsify_before_activation_was_a_setting(tmp_path: Path, signed: bool) -> None:
    folder = tmp_path / "layers_3"
    folder.mkdir()
    t = {
        "encoder.weight": draw(D_SAE, D_IN, seed=0),
        "encoder.bias": draw(D_SAE, seed=1),
        "W_dec": draw(D_SAE, D_IN, seed=2),
        "b_dec": draw(D_IN, seed=3),
    }
    save_file(t, folder / "sae.safetensors")
    config = {
        "expansion_factor": 3,
        "normalize_decoder": True,
        "num_latents": 0,
        "k": 4,
        "signed": signed,
        "d_in": D_IN,
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    pre = (X - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]
    rank = np.abs(pre) if signed else pre
    kept = rank >= np.sort(rank, axis=1)[:, [-4]]
    z = np.where(kept, pre if signed else np.maximum(pre, 0), 0)
    check(folder, z, z @ t["W_dec"] + t["b_dec"])


def is_mapped(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, (mmap.mmap, memoryview)) and (
        isinstance(array, mmap.mmap) or isinstance(array.obj, mmap.mmap)
    )


def test_weights_are_mapped_where_a_latent_is_a_row(tmp_path: Path) -> None:
    a = gemma_arrays()
    tensors = {
        **a,
        "W_enc": np.ascontiguousarray(a["W_enc"].T),
        "activation_function.threshold": a.pop("threshold"),
    }
    tensors.pop("threshold")
    save_file(tensors, tmp_path / "layer_0.safetensors")
    sae = sparse_sae.load(tmp_path / "layer_0.safetensors")
    assert is_mapped(sae.rows["W_enc"])
    assert is_mapped(sae.rows["W_dec"])
    sae.save(tmp_path / "own")
    own = sparse_sae.load(tmp_path / "own")
    assert not is_mapped(own.rows["W_enc"])  # stored a latent a column
    assert is_mapped(own.rows["W_dec"])
    before = (tmp_path / "own" / "sae_weights.safetensors").read_bytes()
    own.rows["W_dec"][:] = 0  # a private page
    assert (tmp_path / "own" / "sae_weights.safetensors").read_bytes() == before


def test_an_sae_outlives_the_directory_it_was_read_from(tmp_path: Path) -> None:
    a = gemma_arrays()
    np.savez(tmp_path / "params.npz", **a)
    sae = sparse_sae.load(tmp_path)
    sae.save(tmp_path / "own")
    own = sparse_sae.load(tmp_path / "own")
    own.save(tmp_path / "own")  # over the files that are mapped
    np.testing.assert_array_equal(own.W_dec, a["W_dec"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes(tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import save_file as save_torch

    a = gemma_arrays()
    names = {"W_enc": a["W_enc"].T.copy(), "W_dec": a["W_dec"], "b_enc": a["b_enc"], "b_dec": a["b_dec"]}
    tensors = {k: torch.from_numpy(v).to(getattr(torch, dtype)) for k, v in names.items()}
    save_torch(tensors, tmp_path / "layer_0.safetensors")
    sae = sparse_sae.load(tmp_path / "layer_0.safetensors")
    assert sae.dtype == (np.float64 if dtype == "float64" else np.float32)
    for name, value in tensors.items():
        np.testing.assert_array_equal(sae.params[name], value.to(torch.float64).numpy())


def test_torch_is_not_needed_for_safetensors_and_npz() -> None:
    golden = Path(__file__).parent / "golden"
    paths = [golden / "saelens" / "topk", golden / "sparsify" / "skip", golden / "gemma_scope"]
    program = (
        "import sys, sparse_sae\n"
        f"for path in {[str(p) for p in paths]!r}: print(sparse_sae.load(path).d_sae)\n"
        "print('torch' in sys.modules, 'safetensors.torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["24", "24", "24", "False", "False"]


def test_the_names_that_editors_see_are_those_of_the_modules() -> None:
    from sparse_sae import formats

    assert set(get_args(formats.Format)) == set(formats.FORMATS)
    assert {name for name, module in formats.FORMATS.items() if hasattr(module, "write")} == set(
        formats.WRITERS
    )
