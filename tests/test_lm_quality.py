"""Loss recovered, KL, direct logits and the random-weights control, on a tiny random Llama."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from sparse_sae.architectures import TopK
from sparse_sae.lm.explaining.logit_lens import direct_logits
from sparse_sae.lm.model.hooks import read_hooks, resolve
from sparse_sae.lm.studies.quality import model_quality, randomise
from sparse_sae.sae import SAE

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def texts(tiny_lm):
    """Token ids that the model itself finds likely, so that replacing its activations hurts."""
    made = []
    for start, length in (("please can you", 9), ("my order", 14), ("sorry no", 6)):
        ids = torch.tensor([tiny_lm.tokenizer(start)["input_ids"]])
        out = tiny_lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_length=length, do_sample=False
        )
        made.append(out[0].tolist())
    return made


def plain_loss(model, texts, edit=None, hook=HOOK):
    """Cross-entropy by unpadded passes, with everything at `hook` replaced by edit(x)."""
    total, tokens, kl = 0.0, 0, 0.0
    for text in texts:
        ids = torch.tensor([text])
        unedited = model.model(ids).logits[0, :-1].log_softmax(-1)
        logp = unedited
        if edit is not None:
            with resolve(model, hook).attach(edit):
                logp = model.model(ids).logits[0, :-1].log_softmax(-1)
        total -= float(logp.gather(1, ids[0, 1:, None]).sum())
        kl += float((unedited.exp() * (unedited - logp)).sum())
        tokens += ids.shape[1] - 1
    return total / tokens, kl / tokens


def rows_of(model, texts):
    blocks = [read_hooks(model, [HOOK], torch.tensor([t]))[HOOK][0] for t in texts]
    return torch.cat(blocks).numpy(), np.concatenate([np.arange(len(b)) == 0 for b in blocks])


def test_against_plain_forward_passes(tiny_lm, tiny_sae, texts):
    every, kept = model_quality(tiny_lm, tiny_sae, texts, batch_size=2).rows
    x, first = rows_of(tiny_lm, texts)
    mean = torch.from_numpy(x[~first].mean(0))

    def through(x):
        return torch.from_numpy(tiny_sae.reconstruct(x.numpy()))

    loss, _ = plain_loss(tiny_lm, texts)
    assert (every.hook, every.positions, kept.positions) == (HOOK, "all", "kept")
    assert every.loss == kept.loss == pytest.approx(loss, rel=1e-5)
    for name, edit in {"sae": through, "zero": torch.zeros_like, "mean": mean.expand_as}.items():
        expected = plain_loss(tiny_lm, texts, edit)
        assert getattr(every, f"loss_{name}") == pytest.approx(expected[0], rel=1e-4)
        assert getattr(every, f"kl_{name}") == pytest.approx(expected[1], rel=1e-3)
    without = plain_loss(tiny_lm, texts, lambda x: torch.cat([x[:, :1], through(x)[:, 1:]], 1))
    assert kept.loss_sae == pytest.approx(without[0], rel=1e-4)
    assert abs(kept.loss_sae - every.loss_sae) > 1e-3
    assert every.recovered_zero == pytest.approx(
        (every.loss_zero - every.loss_sae) / (every.loss_zero - loss), rel=1e-3
    )
    assert (every.tokens, every.read, every.first, every.massive) == (len(x) - 3, len(x), 3, 0)


def test_a_perfect_sae_recovers_everything(tiny_lm, texts):
    """±identity rows with k = d reconstruct any activation."""
    eye = np.concatenate([np.eye(32), -np.eye(32)]).astype(np.float32)
    params = {
        "W_enc": eye,
        "W_dec": eye.copy(),
        "b_enc": np.zeros(64, np.float32),
        "b_dec": np.zeros(32, np.float32),
    }
    perfect = SAE.from_rows(params, TopK(k=32), metadata={"hook_name": HOOK})
    for row in model_quality(tiny_lm, perfect, texts).rows:
        assert row.recovered_zero == pytest.approx(1, abs=1e-4)
        assert row.recovered_mean == pytest.approx(1, abs=1e-4)
        assert row.kl_sae == pytest.approx(0, abs=1e-6)


def test_massive_activations_are_found_counted_and_kept(tiny_lm, tiny_sae, texts):
    def blow_up(x):
        # as a model with massive activations: one token's norm a thousand times the rest
        if x.shape[1] == len(texts[2]):
            x = x.clone()
            x[:, 3] *= 1000
        return x

    seen = []
    with resolve(tiny_lm, HOOK).attach(blow_up):
        every, kept = model_quality(tiny_lm, tiny_sae, texts, batch_size=1).rows
        with resolve(tiny_lm, HOOK).attach(lambda x: seen.append(x.norm(dim=-1).max())):
            model_quality(tiny_lm, tiny_sae, texts, batch_size=1)
    assert (every.massive, every.first) == (1, 3)
    assert every.loss_zero != pytest.approx(kept.loss_zero, abs=1e-3)
    assert max(seen) > 1000


def test_several_hook_points_and_the_table(tiny_lm, tiny_sae, texts):
    elsewhere = SAE.from_rows(
        tiny_sae.params, tiny_sae.activation, metadata={"hook_name": "blocks.0.hook_mlp_out"}
    )
    found = model_quality(tiny_lm, {HOOK: tiny_sae, "blocks.0.hook_mlp_out": elsewhere}, texts)
    assert [row.hook for row in found.rows] == [HOOK, HOOK, "blocks.0.hook_mlp_out", "blocks.0.hook_mlp_out"]
    assert found.rows[0] == model_quality(tiny_lm, [tiny_sae], texts).rows[0]
    text = str(found)
    assert f"{found.rows[2].loss_sae:.4f}" in text
    assert "3 first positions" in text
    back = json.loads(json.dumps(found.to_dict()))
    assert back[3]["recovered_mean"] == pytest.approx(found.rows[3].recovered_mean)


def test_recovery_is_undefined_where_ablation_does_not_hurt(tiny_lm, tiny_sae, texts):
    row = model_quality(tiny_lm, tiny_sae, texts).rows[0]
    better = type(row)(**{**vars(row), "loss_zero": row.loss - 0.1})
    assert math.isnan(better.recovered_zero)


def test_direct_logits_are_what_a_small_push_at_the_end_adds(tiny_lm, tiny_sae):
    """At the last residual stream nothing is between the latent and the logits but the norm, whose scale is
    held.
    """
    with torch.no_grad():
        tiny_lm.model.model.norm.weight.copy_(torch.linspace(0.5, 2, 32))
    try:
        last, ids = "blocks.2.hook_resid_post", torch.tensor([[5, 9, 3]])
        x = read_hooks(tiny_lm, [last], ids)[last][0, -1]
        rms = float(x.pow(2).mean().sqrt())
        lens = direct_logits(tiny_lm, tiny_sae, [7], rms=rms)[0]
        d = torch.from_numpy(tiny_sae.W_dec[7])
        d = d - (d @ x) / (x @ x) * x  # to first order, a push across x leaves the scale as it is
        across = SAE.from_rows({**tiny_sae.params, "W_dec": np.tile(d.numpy(), (64, 1))}, TopK(k=8))
        plain = tiny_lm.model(ids).logits[0, -1]
        with resolve(tiny_lm, last).attach(lambda x: x + 0.01 * d):
            pushed = tiny_lm.model(ids).logits[0, -1]
        np.testing.assert_allclose(
            direct_logits(tiny_lm, across, [7], rms=rms)[0], (pushed - plain).numpy() / 0.01, atol=2e-3
        )
        assert np.abs(lens).max() > 0.1
        assert direct_logits(tiny_lm, tiny_sae).shape == (64, len(tiny_lm.tokenizer))
        np.testing.assert_allclose(direct_logits(tiny_lm, tiny_sae)[7], lens * rms, rtol=1e-3, atol=1e-5)
    finally:
        with torch.no_grad():
            tiny_lm.model.model.norm.weight.fill_(1.0)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "qwen3"])
def test_direct_logits_in_other_families(family, tiny_sae):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = (
        {"n_embd": 32, "n_layer": 2, "n_head": 4}
        if family == "gpt2"
        else {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
        }
    )
    if family in ("gemma2", "qwen3"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    config = AutoConfig.for_model(
        family, vocab_size=50, bos_token_id=0, eos_token_id=1, pad_token_id=2, **sizes
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    lens = direct_logits(model, tiny_sae, [3, 4])
    # the final norm and unembedding of the model, on a residual stream that is the latent alone
    norm = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm"}.get(family, "norm")
    d = torch.from_numpy(tiny_sae.W_dec[[3, 4]])
    with torch.no_grad():
        module = model.base_model.get_submodule(norm)
        alone = model.get_output_embeddings()(module(1e3 * d) - module(torch.zeros(1, 32)))
    cosine = torch.nn.functional.cosine_similarity(torch.from_numpy(lens), alone)
    np.testing.assert_allclose(cosine, 1, atol=1e-4)


def test_random_weights_keep_the_statistics_and_nothing_else(tiny_lm):
    control = randomise(tiny_lm, seed=1)
    assert control.name == "tiny with random weights"
    assert control.tokenizer is tiny_lm.tokenizer
    changed = dict(control.model.named_parameters())
    for name, weight in tiny_lm.model.named_parameters():
        assert torch.equal(weight, changed[name]) == (weight.ndim < 2), name
        if weight.ndim >= 2:
            assert float(changed[name].std()) == pytest.approx(float(weight.std()), rel=0.15)
    again = dict(randomise(tiny_lm, seed=1).model.named_parameters())
    assert all(torch.equal(changed[name], again[name]) for name in changed)
    partly = randomise(tiny_lm.model, seed=1, embeddings=False)
    assert torch.equal(partly.get_input_embeddings().weight, tiny_lm.model.get_input_embeddings().weight)
    assert not torch.equal(partly.lm_head.weight, tiny_lm.model.lm_head.weight)


def test_bad_input(tiny_lm, tiny_sae, texts):
    with pytest.raises(ValueError, match="64 wide"):
        model_quality(tiny_lm, {"blocks.1.mlp.hook_post": tiny_sae}, texts)
    with pytest.raises(ValueError, match="saes is empty"):
        model_quality(tiny_lm, [], texts)
    with pytest.raises(ValueError, match="two tokens or more"):
        model_quality(tiny_lm, tiny_sae, [*texts, [5]])
    with pytest.raises(ValueError, match="name no hook point"):
        model_quality(tiny_lm, SAE.from_rows(tiny_sae.params, TopK(k=8)), texts)
    narrow = {name: value[:, :16] if value.ndim == 2 else value for name, value in tiny_sae.params.items()}
    with pytest.raises(ValueError, match="16 wide"):
        direct_logits(tiny_lm, SAE.from_rows({**narrow, "b_dec": np.zeros(16, np.float32)}, TopK(k=8)))
