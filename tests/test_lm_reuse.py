"""Skipping the layers below a hook point changes the time a pass takes, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparse_sae.lm.model.hooks import resolve
from sparse_sae.lm.steering.interventions import steer
from sparse_sae.lm.studies.reuse import reuse_below
from sparse_sae.lm.studies.scores import choice_logprobs, score_texts

HOOK = "blocks.1.hook_resid_post"
PROMPTS = ["please can you refund my late parcel", "my order is late", "no money back", "angry order price"]


def measure(model, sae):
    out = []
    for value in (0.0, 30.0, -30.0):
        with steer(model, sae, {3: value}):
            out.append(torch.from_numpy(choice_logprobs(model, PROMPTS, ["yes", "no"], batch_size=2)))
            out.append(torch.tensor(score_texts(model, PROMPTS, {}, batch_size=2)["unedited"].loss))
    return out


def test_results_are_bit_identical(tiny_lm, tiny_sae):
    expected = measure(tiny_lm, tiny_sae)
    with reuse_below(tiny_lm, HOOK) as counts:
        got = measure(tiny_lm, tiny_sae)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert not torch.equal(got[0], got[2])
    assert counts == {"full": 4, "skipped": 8}


def test_with_a_shared_prefix_too(tiny_lm, tiny_sae):
    """The activations of one prefix are never taken for those of another, though the rest is the same."""

    def measured():
        found = []
        for start in ("sorry we are late", "please no money back", "sorry we are late"):
            for value in (0.0, 30.0):
                with steer(tiny_lm, tiny_sae, {3: value}):
                    prompts = [f"{start} {prompt}" for prompt in PROMPTS]
                    found.append(
                        choice_logprobs(tiny_lm, prompts, ["yes", "no"], batch_size=2, share_prefix=True)
                    )
        return found

    expected = measured()
    with reuse_below(tiny_lm, HOOK) as counts:
        got = measured()
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(expected[0] - expected[2]).min() > 1e-4
    # six prefixes are read in full, and two batches after each of the two different ones
    assert counts == {"full": 6 + 4, "skipped": 8}


def test_lower_layers_are_not_run_and_all_is_undone(tiny_lm):
    ids = torch.tensor([[4, 5, 6]])
    runs = []
    with torch.no_grad(), resolve(tiny_lm, "blocks.0.mlp.hook_post").attach(lambda x: runs.append(1)):
        with reuse_below(tiny_lm, HOOK):
            for _ in range(3):
                tiny_lm.model(ids, use_cache=False)
            assert len(runs) == 1
            tiny_lm.model(torch.tensor([[4, 5, 7]]), use_cache=False)
            assert len(runs) == 2
        tiny_lm.model(ids, use_cache=False)
    assert len(runs) == 3
    assert not any("forward" in vars(block) for block in tiny_lm.model.model.layers)


def test_memory_is_bounded_and_other_passes_run_in_full(tiny_lm, tiny_sae):
    with reuse_below(tiny_lm, HOOK, max_bytes=0) as counts:
        measure(tiny_lm, tiny_sae)
    assert counts == {"full": 12, "skipped": 0}
    ids = torch.tensor([[4, 5, 6]])
    with reuse_below(tiny_lm, HOOK) as counts:
        for _ in range(2):
            tiny_lm.model(ids, use_cache=False)  # gradients are on
            tiny_lm.model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False
            )
    assert counts["skipped"] == 0


def test_it_is_undone_when_something_fails(tiny_lm):
    ids = torch.tensor([[4, 5, 6]])

    def fails(_x):
        raise KeyError

    with torch.no_grad():
        expected = tiny_lm.model(ids, use_cache=False).logits
        with pytest.raises(KeyError), reuse_below(tiny_lm, HOOK), resolve(tiny_lm, HOOK).attach(fails):
            tiny_lm.model(ids, use_cache=False)
        assert torch.equal(tiny_lm.model(ids, use_cache=False).logits, expected)
    assert not any("forward" in vars(block) for block in tiny_lm.model.model.layers)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2", "qwen3"])
def test_other_families(family):
    torch.manual_seed(0)
    sizes = (
        {"n_embd": 32, "n_layer": 3, "n_head": 4}
        if family == "gpt2"
        else {
            "hidden_size": 32,
            "num_hidden_layers": 3,
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
    ids = torch.randint(3, 50, (2, 7))
    hook = "blocks.2.hook_resid_pre"

    def steered():
        with resolve(model, hook).attach(lambda x: x + 1):
            return model(ids, use_cache=False).logits

    with torch.no_grad():
        plain, expected = model(ids, use_cache=False).logits, steered()
        with reuse_below(model, hook) as counts:
            assert torch.equal(model(ids, use_cache=False).logits, plain)
            assert torch.equal(steered(), expected)
            assert torch.equal(model(ids, use_cache=False).logits, plain)
    assert counts == {"full": 1, "skipped": 2}
    assert not torch.equal(plain, expected)


@pytest.mark.parametrize(
    "hook", ["blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_mid"]
)
def test_hooks_that_cannot_be_gone_on_from(tiny_lm, hook):
    with (
        pytest.raises(ValueError, match="only a residual stream with layers below"),
        reuse_below(tiny_lm, hook),
    ):
        pass
