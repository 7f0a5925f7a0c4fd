"""why: on a model whose answer is made by known directions, the latents that carry them are named, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparse_sae import L1, SAE
from sparse_sae.lm import LanguageModel, capture, label_latents, why
from sparse_sae.lm.explaining.reasons import Reason

HOOK = "blocks.0.hook_resid_post"
D = 16
# what the token "late" writes: latent -> strength; only 3 and 5 are read by "refused"
WRITTEN = {3: 4.0, 5: 2.0, 8: 3.0, 9: 3.0, 10: 2.0, 11: 1.0}
READ = {3: 1.0, 5: 1.0}


@pytest.fixture(scope="module")
def planted(tiny_tokenizer: Any) -> LanguageModel:
    """A Llama whose layers add nothing: logits are a linear readout of the normalised embedding of the last token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=D,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        eos_token_id=None,
        pad_token_id=1,
    )
    module = LlamaForCausalLM(config).eval().requires_grad_(False)
    for layer in module.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    vocabulary = tiny_tokenizer.get_vocab()
    module.model.embed_tokens.weight.normal_().mul_(1.5)  # as large as "late", which is no massive activation
    module.lm_head.weight.zero_()
    late = module.model.embed_tokens.weight[vocabulary["late"]]
    late.zero_()
    for direction, strength in WRITTEN.items():
        late[direction] = strength
    for direction, strength in READ.items():
        module.lm_head.weight[vocabulary["refused"], direction] = strength
    return LanguageModel(module, tiny_tokenizer, "planted")


def dictionary(directions: list[int]) -> SAE:
    """An SAE whose latent j is the unit vector directions[j]."""
    rows = np.eye(D, dtype=np.float32)[directions]
    params = {"W_enc": rows, "W_dec": rows.copy(), "b_enc": np.zeros(len(rows), np.float32)}
    params["b_dec"] = np.zeros(D, np.float32)
    return SAE.from_rows(params, L1(), metadata={"model_name": "planted", "hook_name": HOOK})


def logit(**changed: float) -> float:
    """The logit of "refused" after "late" with directions changed, by hand."""
    x = np.zeros(D)
    for direction, strength in WRITTEN.items():
        x[direction] = changed.get(f"d{direction}", strength)
    x /= np.sqrt((x**2).mean() + 1e-6)
    return float(sum(x[direction] * strength for direction, strength in READ.items()))


def drop(**changed: float) -> float:
    """What the log-probability of "refused" loses: all other logits are 0."""
    others = 34
    before, after = (v - np.log(others + np.exp(v)) for v in (logit(), logit(**changed)))
    return float(before - after)


def answer(planted: LanguageModel, sae: SAE, **options: Any) -> Reason:
    return why(planted, sae, "my parcel is late", "refused", **options)


def test_the_planted_latents_are_named_with_the_effects_computed_by_hand(planted: LanguageModel) -> None:
    assert len(planted.tokenizer) == 35
    found = answer(planted, dictionary(list(range(D))))
    assert [label.latent for label in found.latents] == [3, 5]
    assert found.value == pytest.approx(logit() - np.log(34 + np.exp(logit())), abs=1e-4)
    assert found.effects == pytest.approx([drop(d3=0), drop(d5=0)], abs=1e-4)
    assert found.together == pytest.approx(drop(d3=0, d5=0), abs=1e-4)
    assert found.confirmed
    assert found.p == pytest.approx(1 / 41)
    assert found.outside == pytest.approx(0, abs=1e-5)  # the dictionary has every direction
    assert found.share_outside < 1e-4
    assert "without latent 3 (fires on ‘late’, ‘parcel’; promotes ‘refused’) it falls by" in found.line()
    assert "confirmed (40 controls" in found.line()
    assert "NOT" not in found.line()
    assert found.latents[0].promotes == ("refused",)


def test_what_the_dictionary_lacks_is_measured(planted: LanguageModel) -> None:
    """Without direction 3 latent 5 is named, and the larger part is said to lie outside."""
    directions = [5, 8, 9, 10, 11]
    found = answer(planted, dictionary(directions))
    assert [label.latent for label in found.latents] == [0]
    assert found.effects[0] == pytest.approx(drop(d5=0), abs=1e-4)
    assert found.outside == pytest.approx(drop(d3=0), abs=1e-4)
    everything = drop(**{f"d{d}": 0.0 for d in directions})
    assert found.all_latents == pytest.approx(everything, abs=1e-4)
    assert found.share_outside == pytest.approx(
        abs(found.outside) / (abs(found.outside) + abs(everything)), abs=1e-4
    )


def test_a_dictionary_of_bystanders_finds_nobody(planted: LanguageModel) -> None:
    """Ablating what is only in the way of the norm makes the answer likelier, so no latent speaks for it."""
    found = answer(planted, dictionary([8, 9, 10, 11]))
    assert found.latents == ()
    assert not found.confirmed
    assert found.together == 0
    assert "no latent at blocks.0.hook_resid_post speaks for it (4 ablated one by one)" in found.line()


def test_an_effect_that_controls_have_too_is_not_confirmed() -> None:
    def reason(together: float, controls: tuple[float, ...]) -> Reason:
        label = label_of(7)
        return Reason("t", -1.0, HOOK, (label,), (0.5,), together, controls, (), 1.0, 0.5, 9)

    from sparse_sae.lm import LatentLabel

    def label_of(latent: int) -> LatentLabel:
        return LatentLabel(latent, "", (), (), ())

    assert reason(0.5, (0.1, 0.2, 0.3, 0.0, -0.1)).confirmed
    assert not reason(0.5, (0.1, 0.2, 0.6, 0.0, -0.1)).confirmed
    assert reason(0.5, (0.1, 0.2, 0.6, 0.0, -0.1)).p == pytest.approx(2 / 6)
    assert (
        "NOT confirmed (5 controls -0.100 … +0.600, p = 0.33)"
        in reason(0.5, (0.1, 0.2, 0.6, 0.0, -0.1)).line()
    )
    assert not reason(0.5, (0.1,)).confirmed  # too few to tell
    assert not reason(-0.5, (-1.0,) * 9).confirmed
    assert reason(0.5, ()).share_outside == pytest.approx(1 / 3)


def test_labels_come_from_a_store_and_from_the_caller(planted: LanguageModel, tmp_path: Path) -> None:
    texts = ["my parcel is late", "the order is late", "my money", "please the price"] * 3
    store = capture(planted, texts, HOOK, tmp_path, pack=False, compute_dtype="float32")
    found = answer(planted, dictionary(list(range(D))), store=store, names={3: "delay"}, top=1)
    assert [label.latent for label in found.latents] == [3]
    assert found.latents[0].fires_on[0] == "late"
    assert found.latents[0].contexts[0] == "my parcel is[[late]]"
    assert "latent 3 (“delay”; fires on ‘late’" in found.line()
    assert json.loads(json.dumps(found.to_dict()))["latents"][0]["name"] == "delay"
    (alone,) = label_latents(planted, dictionary([3]), [0])
    assert (alone.fires_on, alone.contexts) == ((), ())


def test_the_same_seed_gives_the_same_controls(tiny_lm: Any, tiny_sae: SAE) -> None:
    one, same, other = (
        why(tiny_lm, tiny_sae, "please can you refund my late parcel", "refund is not", seed=s, controls=6)
        for s in (0, 0, 1)
    )
    assert one == same
    assert one.random_directions != other.random_directions
    assert len(one.random_latents) == len(one.random_directions) == 6


def test_misuse_is_explained(tiny_lm: Any, tiny_sae: SAE) -> None:
    for name in ("top", "candidates", "controls"):
        with pytest.raises(ValueError, match=f"{name}: got 0, expected at least 1"):
            why(tiny_lm, tiny_sae, "my parcel", "no", **{name: 0})
