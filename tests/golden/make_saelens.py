"""Writes saelens/: directories written by SAELens, with SAELens' own encodings; and one of ours, encoded by SAELens.

Run it with sae-lens, torch and this package installed; the tests do without sae-lens and torch. SAELens writes some
settings in the order of Python's hashes, hence the fixed seed.

    PYTHONHASHSEED=0 python tests/golden/make_saelens.py
"""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import sae_lens
import torch
from safetensors.torch import load_file, save_file

import sparse_sae

HERE = Path(__file__).parent / "saelens"
D_IN, D_SAE, D_OUT, K = 8, 24, 6, 4
METADATA = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post", "context_size": 128}


def inputs(width: int = D_IN) -> torch.Tensor:
    """Rows with a mean and different lengths, so that centring and normalising matter."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((12, width)) * rng.uniform(0.5, 3, (12, 1)) + rng.standard_normal(width)
    return torch.tensor(x.astype(np.float32))


def randomise(sae: torch.nn.Module) -> None:
    """Parameters in which every one of them matters: no zeros, no unit norms."""
    rng = np.random.default_rng(0)
    for name, value in sae.named_parameters():
        spread = {"threshold": 0.5, "r_mag": 0.3}.get(name, 1.0 if value.ndim == 1 else 0.6)
        draw = spread * rng.standard_normal(tuple(value.shape))
        value.data = torch.tensor(np.abs(draw) if name == "threshold" else draw, dtype=value.dtype)


def store(folder: Path, sae: torch.nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        z, y = sae.encode(x), sae(x)
    np.savez(folder / "expected.npz", x=x.numpy(), z=z.numpy(), y=y.numpy())


def case(name: str, architecture: str, x: torch.Tensor | None = None, **config: object) -> None:
    """One inference SAE, saved by SAELens."""
    settings = {"d_in": D_IN, "d_sae": D_SAE, "metadata": METADATA, "architecture": architecture, **config}
    sae_class, config_class = sae_lens.registry.get_sae_class(architecture)
    sae = sae_class(config_class.from_dict(settings))
    randomise(sae)
    folder = HERE / name
    sae.save_model(folder)
    store(folder, sae, inputs() if x is None else x)


def trained(name: str, architecture: str, **config: object) -> None:
    """A training SAE after some steps, saved for inference and loaded again, both by SAELens."""
    sae_class, config_class = sae_lens.registry.get_sae_training_class(architecture)
    sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, k=K, **config))
    sae.cfg.metadata = sae_lens.saes.sae.SAEMetadata(**METADATA)
    randomise(sae)
    for _ in range(400):
        sae.update_topk_threshold(sae.encode_with_hidden_pre(inputs())[0])
    folder = HERE / name
    sae.save_inference_model(folder)
    store(folder, sae_lens.SAE.load_from_disk(folder), inputs())
    sae.save_model(HERE / f"{name}_checkpoint")
    shutil.copy(folder / "expected.npz", HERE / f"{name}_checkpoint")


def old(name: str, tensors: Path, config: dict[str, object]) -> None:
    """A directory as SAELens 3 to 5 wrote it, encoded by SAELens 6."""
    folder = HERE / name
    folder.mkdir()
    common = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "device": "cpu",
        "model_name": "gpt2-small",
        "hook_point": "blocks.3.hook_resid_pre",
        "hook_point_layer": 3,
        "prepend_bos": True,
        "context_size": 128,
        "dataset_path": "some/dataset",
        "expansion_factor": 3,
    }
    (folder / "cfg.json").write_text(json.dumps({**common, **config}))
    save_file({**load_file(tensors), "scaling_factor": torch.ones(D_SAE)}, folder / "sae_weights.safetensors")
    store(folder, sae_lens.SAE.load_from_disk(folder), inputs())


def ours() -> None:
    """A directory that this package wrote, encoded by SAELens."""
    rng = np.random.default_rng(2)
    shapes = {"W_enc": (D_SAE, D_IN), "W_dec": (D_SAE, D_IN), "b_enc": (D_SAE,), "b_dec": (D_IN,)}
    params = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    positive = np.abs(rng.standard_normal(D_SAE)).astype(np.float32)
    gated = {n: (0.3 * rng.standard_normal(D_SAE)).astype(np.float32) for n in ("r_mag", "b_mag")}
    skip = {"W_skip": rng.standard_normal((D_IN, D_IN)).astype(np.float32)}
    threshold = {"threshold": positive}
    wide = {"W_dec": rng.standard_normal((D_SAE, D_OUT)).astype(np.float32), "b_dec": params["b_dec"][:D_OUT]}
    layer_norm = sparse_sae.Transform("layer_norm")
    token_norm = sparse_sae.Transform("token_norm")
    a = sparse_sae.architectures
    cases = {
        "topk": ({}, a.TopK(k=K), {}),
        "topk_uncentred": ({}, a.TopK(k=K), {"apply_b_dec_to_input": False}),
        "topk_layer_norm": ({}, a.TopK(k=K), {"transform": layer_norm}),
        "abstopk_token_norm": ({}, a.AbsTopK(k=K), {"transform": token_norm}),
        "jumprelu": (threshold, a.JumpReLU(), {}),
        "l1": ({}, a.L1(), {}),
        "gated": (gated, a.Gated(), {}),
        "transcoder": (wide, a.L1(), {"apply_b_dec_to_input": False}),
        "skip_transcoder": (skip, a.L1(), {"apply_b_dec_to_input": False}),
        "jumprelu_skip_transcoder": ({**threshold, **skip}, a.JumpReLU(), {"apply_b_dec_to_input": False}),
    }
    for name, (more, architecture, how) in cases.items():
        sae = sparse_sae.SAE.from_rows({**params, **more}, architecture, metadata=METADATA, **how)
        folder = HERE / f"ours_{name}"
        sae.save(folder)
        theirs = sae_lens.SAE.load_from_disk(folder)
        assert theirs.cfg.metadata.hook_name == METADATA["hook_name"], theirs.cfg
        store(folder, theirs, inputs())


def main() -> int:
    warnings.simplefilter("ignore")
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    case("standard", "standard")
    case("standard_uncentred", "standard", apply_b_dec_to_input=False)
    case("standard_token_norm", "standard", normalize_activations="constant_norm_rescale")
    case("jumprelu", "jumprelu")
    case("jumprelu_layer_norm", "jumprelu", normalize_activations="layer_norm")
    case("gated", "gated")
    case("topk", "topk", k=K)
    case("topk_rescaled", "topk", k=K, rescale_acts_by_decoder_norm=True)
    case("abstopk", "abstopk", k=K)
    case("transcoder", "transcoder", apply_b_dec_to_input=False, d_out=D_OUT)
    case("skip_transcoder", "skip_transcoder", apply_b_dec_to_input=False, d_out=D_OUT)
    case("jumprelu_transcoder", "jumprelu_transcoder", apply_b_dec_to_input=False, d_out=D_OUT)
    case("jumprelu_skip_transcoder", "jumprelu_skip_transcoder", apply_b_dec_to_input=False, d_out=D_OUT)
    hook_z = {**METADATA, "hook_name": "blocks.1.attn.hook_z"}
    case("hook_z", "standard", inputs().reshape(12, 2, 4), reshape_activations="hook_z", metadata=hook_z)
    trained("batchtopk", "batchtopk", rescale_acts_by_decoder_norm=False)
    trained("batchtopk_rescaled", "batchtopk", rescale_acts_by_decoder_norm=True)
    trained("matryoshka", "matryoshka_batchtopk", matryoshka_widths=[8, 24])
    old("old_standard", HERE / "standard" / "sae_weights.safetensors", {})
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": False}
    old("old_topk", HERE / "topk" / "sae_weights.safetensors", topk)
    jumprelu = {"architecture": "jumprelu", "activation_fn": "relu", "normalize_activations": "none"}
    old("old_jumprelu", HERE / "jumprelu" / "sae_weights.safetensors", jumprelu)
    ours()
    print(f"sae-lens {sae_lens.__version__}, torch {torch.__version__}: {len(list(HERE.iterdir()))} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
