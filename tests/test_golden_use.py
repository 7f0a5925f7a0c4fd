"""Every SAE file of tests/golden, used for all that SAEs are for: evaluated, explained and steered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparse_sae

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

GOLDEN = Path(__file__).parent / "golden"
FILES = {str(p.parent.relative_to(GOLDEN)): p.parent for p in sorted(GOLDEN.rglob("expected.npz"))}
FILES["circuit_tracer"] = GOLDEN / "circuit_tracer" / "layer_5.safetensors"
FILES |= {name: next(path.glob("*.pt")) for name, path in FILES.items() if name.startswith("openai")}
TRANSCODERS = {
    "circuit_tracer",
    "saelens/transcoder",
    "saelens/skip_transcoder",
    "saelens/jumprelu_transcoder",
    "saelens/jumprelu_skip_transcoder",
    "saelens/ours_transcoder",
    "saelens/ours_skip_transcoder",
    "saelens/ours_jumprelu_skip_transcoder",
    "sparsify/skip",
    "sparsify/layers.3.mlp",
}
HOOK = "blocks.1.hook_resid_post"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*threshold is -1.0"),
    # The model is a random one, and no file is of its second layer.
    pytest.mark.filterwarnings("ignore:hook. .* is used with an SAE of"),
]


@pytest.fixture(scope="module", params=FILES)
def case(request: pytest.FixtureRequest) -> tuple[str, Any, Any]:
    """The name of a file, its SAE, and the rows stored with it."""
    path = FILES[request.param]
    stored = np.load((path if path.is_dir() else path.parent) / "expected.npz")
    return request.param, sparse_sae.load(path), stored


@pytest.fixture(scope="module")
def language_model() -> Any:
    """A random Llama whose residual stream is as wide as the stored SAEs' inputs."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval().requires_grad_(False)


def test_there_are_files_of_every_project() -> None:
    assert len(FILES) >= 35
    assert FILES.keys() >= TRANSCODERS


def test_what_it_is_and_how_good(case: tuple[str, Any, Any]) -> None:
    name, sae, stored = case
    assert sae.kind == ("transcoder" if name in TRANSCODERS else "sae")
    assert sae.is_transcoder == (name in TRANSCODERS) == ("<transcoder" in repr(sae))
    x, y = stored["x"].reshape(-1, sae.d_in), stored["y"].reshape(len(stored["x"]), -1)
    if sae.is_transcoder:
        with pytest.raises(ValueError, match="y: a transcoder is measured against its targets"):
            sparse_sae.evaluate(sae, x)
        assert sparse_sae.evaluate(sae, x, y).fvu < 1e-9
    else:
        quality = sparse_sae.evaluate(sae, x)
        expected = ((y - x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
        assert quality.fvu == pytest.approx(expected, rel=1e-4)
        assert quality.l0 == pytest.approx((stored["z"] != 0).sum() / len(x))


def test_what_it_does_in_a_model(case: tuple[str, Any, Any], language_model: Any) -> None:
    from sparse_sae.lm import explain, steer

    name, sae, _ = case
    prompt = list(range(3, 15))
    ids = torch.tensor([prompt])
    plain = language_model(ids).logits
    if sae.d_in != 8 or sae.d_out != 8:
        with (
            pytest.raises((ValueError, RuntimeError), match="6"),
            steer(language_model, sae, {0: 1.0}, hook=HOOK),
        ):
            language_model(ids)
        return
    with steer(language_model, sae, {3: 50.0}, hook=HOOK):
        assert not torch.allclose(language_model(ids).logits, plain, atol=1e-3)
    if name in TRANSCODERS or not sae.transform.is_identity:
        with pytest.raises(NotImplementedError):
            explain(language_model, sae, prompt, 5, hook=HOOK)
        return
    found = explain(language_model, sae, prompt, 5, top=4, hook=HOOK)
    assert np.isfinite(found.value)
    used = found.effects[0].latent
    with steer(language_model, sae, [used], mode="ablate", hook=HOOK):
        ablated = language_model(ids).logits
    assert not torch.equal(ablated, plain)
    assert torch.equal(language_model(ids).logits, plain)
