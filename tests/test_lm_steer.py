"""Steering a tiny random Llama: what each mode does to the activation, where, and that nothing is left
behind.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch

from sparse_sae import L1, SAE
from sparse_sae.lm import dose_response, explain, model_quality
from sparse_sae.lm.model.hooks import read_hooks
from sparse_sae.lm.steering.interventions import steer, steer_direction

HOOK = "blocks.1.hook_resid_post"
IDS = torch.tensor([[5, 9, 3, 12, 7, 2], [8, 4, 4, 20, 6, 11]])


def activations(model: Any, ids: torch.Tensor = IDS) -> np.ndarray:
    return read_hooks(model, [HOOK], ids)[HOOK].numpy()


def hooks_left(module: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_each_mode_is_its_equation(tiny_lm, tiny_sae):
    x = activations(tiny_lm)
    d = tiny_sae.rows["W_dec"][[3, 40]]
    a = tiny_sae.encode(x.reshape(-1, 32)).toarray()[:, [3, 40]].reshape(2, 6, 2)
    v = np.array([1.5, -0.5])
    assert a.max() > 0
    # the two coordinates of x on d, by least squares
    c = np.linalg.lstsq(d.T, x.reshape(-1, 32).T, rcond=None)[0].T.reshape(2, 6, 2)
    expected = {
        "add": v + 0 * a,
        "clamp": v - a,
        "scale": (v - 1) * a,
        "ablate": -v * a,
        "orthogonal": -v * c,
    }
    for mode, coefficients in expected.items():
        with steer(tiny_lm, tiny_sae, {3: 1.5, 40: -0.5}, mode):
            np.testing.assert_allclose(activations(tiny_lm), x + coefficients @ d, atol=2e-5, err_msg=mode)


def test_clamping_keeps_what_the_sae_does_not_reconstruct(tiny_lm, tiny_sae):
    x = activations(tiny_lm).reshape(-1, 32)
    codes = tiny_sae.encode(x)
    error = x - tiny_sae.decode(codes)
    latent = int(codes.indices[0])
    with steer(tiny_lm, tiny_sae, {latent: 2.0}, "clamp", exact=True):
        steered = activations(tiny_lm).reshape(-1, 32)
    dense = codes.toarray()
    dense[:, latent] = 2.0
    np.testing.assert_allclose(steered - (dense @ tiny_sae.rows["W_dec"] + tiny_sae.b_dec), error, atol=2e-5)
    assert np.abs(error).max() > 0.1


def test_orthogonal_leaves_nothing_of_the_span(tiny_lm, tiny_sae):
    with steer(tiny_lm, tiny_sae, [3, 40, 7], "orthogonal"):
        x = activations(tiny_lm)
    assert np.abs(x @ tiny_sae.rows["W_dec"][[3, 40, 7]].T).max() < 1e-5 < np.abs(activations(tiny_lm)).max()


def test_ablation_is_the_one_that_explain_measures(tiny_lm, tiny_sae):
    """For a TopK SAE too, whose latents compete: the default, with nothing said about it."""
    prompt = [5, 9, 3, 12, 7, 2]
    found = explain(tiny_lm, tiny_sae, prompt, 9, top=12, positions=range(6))
    for effect in found.effects[:12]:
        with steer(tiny_lm, tiny_sae, [effect.latent], "ablate"), torch.inference_mode():
            steered = tiny_lm.model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)[9]
        assert effect.ablation == pytest.approx(found.value - float(steered), abs=2e-5)


def test_latents_that_do_not_compete_are_encoded_alone_to_the_same_bits(tiny_lm, tiny_sae, monkeypatch):
    relu = SAE.from_rows(tiny_sae.params, L1(), metadata=tiny_sae.metadata)
    with steer(tiny_lm, relu, {3: 4.0}, "clamp", exact=True):
        exact = activations(tiny_lm)
    with steer(tiny_lm, relu, {3: 4.0}, "clamp", exact=False):
        np.testing.assert_array_equal(activations(tiny_lm), exact)


def test_exact_sees_the_competition_of_a_topk_sae(tiny_lm, tiny_sae):
    x = activations(tiny_lm).reshape(-1, 32)
    alone = tiny_sae.encode(x, latents=list(range(64))).toarray()
    full = tiny_sae.encode(x).toarray()
    latent = int(((alone > 0) & (full == 0)).sum(0).argmax())  # positive, but often beaten
    with steer(tiny_lm, tiny_sae, [latent], "ablate", exact=True):
        by_full = activations(tiny_lm).reshape(-1, 32)
    np.testing.assert_allclose(by_full, x - full[:, [latent]] * tiny_sae.rows["W_dec"][latent], atol=2e-5)
    with steer(tiny_lm, tiny_sae, [latent], "ablate", exact=False):
        by_itself = activations(tiny_lm).reshape(-1, 32)
    np.testing.assert_allclose(by_itself, x - alone[:, [latent]] * tiny_sae.rows["W_dec"][latent], atol=2e-5)


@pytest.mark.parametrize(
    ("mode", "value"), [("add", 0.0), ("scale", 1.0), ("ablate", 0.0), ("orthogonal", 0.0)]
)
def test_zero_strength_is_bit_identical(tiny_lm, tiny_sae, mode, value):
    plain = tiny_lm.model(IDS).logits
    with steer(tiny_lm, tiny_sae, {3: value, 9: [value, value]}, mode) as steering:
        assert torch.equal(tiny_lm.model(IDS).logits, plain)
    assert steering.edited == 0
    active = int(tiny_sae.encode(activations(tiny_lm)[1]).indices[0])
    with steer(tiny_lm, tiny_sae, {active: [value, 7.0]}, mode):  # the other row of the batch is steered
        mixed = tiny_lm.model(IDS).logits
    assert torch.equal(mixed[0], plain[0])
    assert not torch.equal(mixed[1], plain[1])


def test_add_encodes_nothing_and_others_only_the_named(tiny_lm, tiny_sae, monkeypatch):
    asked = []
    encode = type(tiny_sae).encode
    monkeypatch.setattr(
        type(tiny_sae),
        "encode",
        lambda self, x, latents=None: asked.append(latents) or encode(self, x, latents=latents),
    )
    for mode in ("add", "orthogonal", "clamp"):
        with steer(tiny_lm, tiny_sae, {3: 1.0, 40: 2.0}, mode, exact=False):
            tiny_lm.model(IDS)
        assert asked == ([[3, 40]] if mode == "clamp" else [])


def test_always_undone_and_weights_untouched(tiny_lm, tiny_sae):
    before = {name: p.clone() for name, p in tiny_lm.model.named_parameters()}
    plain = tiny_lm.model(IDS).logits
    count = hooks_left(tiny_lm.model)

    def broken_off() -> None:
        with steer(tiny_lm, tiny_sae, {3: 5.0}, positions=[0]):
            assert not torch.equal(tiny_lm.model(IDS).logits, plain)
            raise KeyError

    with pytest.raises(KeyError):
        broken_off()
    with pytest.raises(ValueError, match="values for 3 rows"), steer(tiny_lm, tiny_sae, {3: [1.0, 2.0, 3.0]}):
        tiny_lm.model(IDS)
    assert hooks_left(tiny_lm.model) == count
    assert torch.equal(tiny_lm.model(IDS).logits, plain)
    assert all(torch.equal(p, before[name]) for name, p in tiny_lm.model.named_parameters())


def test_may_be_opened_again_but_not_twice_at_once(tiny_lm, tiny_sae):
    steering = steer(tiny_lm, tiny_sae, {3: 5.0})
    for _ in range(2):
        with steering:
            tiny_lm.model(IDS)
        assert steering.edited == 12
    with steering, pytest.raises(RuntimeError, match="already in force"), steering:
        pass


def test_values_per_row_equal_one_prompt_at_a_time(tiny_lm, tiny_sae):
    with steer(tiny_lm, tiny_sae, {3: [4.0, -9.0], 8: 1.0}):
        both = tiny_lm.model(IDS).logits
    for row, value in enumerate([4.0, -9.0]):
        with steer(tiny_lm, tiny_sae, {3: value, 8: 1.0}):
            torch.testing.assert_close(
                tiny_lm.model(IDS[row : row + 1]).logits[0], both[row], atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize(
    "how", [{}, {"num_beams": 3}, {"do_sample": True, "top_p": 0.9, "num_return_sequences": 2}]
)
def test_generate_with_a_strength_per_prompt(tiny_lm, tiny_sae, how):
    def generate(ids: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        kwargs = {"do_sample": False, **how}
        return tiny_lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, **kwargs)

    plain = generate(IDS)
    with steer(tiny_lm, tiny_sae, {3: 0.0}):
        assert torch.equal(generate(IDS), plain)
    with steer(tiny_lm, tiny_sae, {3: [0.0, 60.0]}):
        steered = generate(IDS)
    each = len(plain) // 2
    assert not torch.equal(steered[each:], plain[each:])
    if "do_sample" in how:  # rows share one random stream, so only the unsteered rows can be compared
        assert torch.equal(steered[:each], plain[:each])
        return
    assert torch.equal(steered[:each], plain[:each])
    with steer(tiny_lm, tiny_sae, {3: 60.0}):
        assert torch.equal(generate(IDS[1:]), steered[each:])


@pytest.mark.parametrize("beams", [1, 2])
def test_positions_in_generation(tiny_lm, tiny_sae, beams):
    def edited(positions: Any, **given: Any) -> int:
        with steer(tiny_lm, tiny_sae, {3: 60.0}, positions=positions, **given) as steering:
            tiny_lm.model.generate(
                IDS,
                attention_mask=torch.ones_like(IDS),
                max_new_tokens=5,
                min_new_tokens=5,
                num_beams=beams,
                do_sample=False,
                use_cache="prompt_length" not in given,
            )
        return steering.edited // beams

    # a pass reads the prompt (6 tokens), then one each token but the last that is generated; two rows
    in_prompt = edited("prompt")
    assert in_prompt in (12, 12 // beams)  # beam search may read the prompt before it makes the beams
    assert edited("generated") == 2 * 4
    assert edited("all") == in_prompt + 8
    assert edited([0, -1]) == in_prompt // 3
    assert edited(slice(4, 8)) == in_prompt // 3 + 4
    # without a cache each pass reads everything again
    assert edited("generated", prompt_length=6) == 2 * (1 + 2 + 3 + 4)


def test_prompt_and_generated_together_are_all(tiny_lm, tiny_sae):
    def logits(*positions: Any) -> torch.Tensor:
        with ExitStack() as stack:
            for where in positions:
                stack.enter_context(steer(tiny_lm, tiny_sae, {3: 9.0}, positions=where, prompt_length=4))
            return tiny_lm.model(IDS).logits

    assert torch.equal(logits("prompt", "generated"), logits("all"))
    assert not torch.equal(logits("prompt"), logits("all"))
    assert torch.equal(logits("generated")[:, :4], tiny_lm.model(IDS).logits[:, :4])
    assert torch.equal(logits([-1]), logits(slice(3, 4)))


def test_unknown_prompt_length_is_an_error(tiny_lm, tiny_sae):
    for positions in ("generated", [-1]):
        with (
            steer(tiny_lm, tiny_sae, {3: 9.0}, positions=positions),
            pytest.raises(ValueError, match="give prompt_length="),
        ):
            tiny_lm.model(IDS, use_cache=False)


def test_several_hooks_at_once(tiny_lm, tiny_sae):
    v = np.zeros(32, np.float32)
    v[4] = 2.0
    x = activations(tiny_lm)
    with steer_direction(tiny_lm, HOOK, v, 3.0), steer(tiny_lm, tiny_sae, {3: 1.0}):
        np.testing.assert_allclose(activations(tiny_lm), x + 3 * v + tiny_sae.rows["W_dec"][3], atol=1e-5)
    with steer_direction(tiny_lm, "blocks.0.hook_mlp_out", v, 3.0):
        early = activations(tiny_lm)
        with steer(tiny_lm, tiny_sae, {3: 1.0}):
            np.testing.assert_allclose(activations(tiny_lm), early + tiny_sae.rows["W_dec"][3], atol=1e-5)
    assert not np.allclose(early, x)


def test_gradients_flow_through(tiny_lm, tiny_sae):
    embeds = tiny_lm.model.get_input_embeddings()(IDS).detach().requires_grad_()
    with steer(tiny_lm, tiny_sae, {3: 2.0}):
        tiny_lm.model(inputs_embeds=embeds).logits.sum().backward()
    assert embeds.grad.abs().max() > 0


def test_half_precision_model(tiny_lm, tiny_sae):
    import copy

    half = copy.deepcopy(tiny_lm.model).to(torch.bfloat16)
    plain = half(IDS).logits
    with steer(half, tiny_sae, {3: 20.0}, "clamp"):
        steered = half(IDS).logits
    assert steered.dtype == torch.bfloat16
    assert not torch.equal(steered, plain)


@pytest.mark.parametrize(
    ("latents", "kwargs", "message"),
    [
        ({64: 1.0}, {}, "from 0 to 63"),
        ({}, {}, "latents is empty"),
        ([3], {}, "expected a mapping"),
        ([3, 3], {"mode": "ablate"}, "distinct"),
        ({True: 1.0}, {}, "got .True.*, expected distinct whole numbers from 0 to 63"),
        ({1.0: 1.0}, {}, "whole numbers"),
        ({3: float("nan")}, {}, "finite"),
        ({3: [1.0, 2.0], 4: [1.0, 2.0, 3.0]}, {}, "got values of lengths"),
        ({3: 1.0}, {"mode": "push"}, "mode: got"),
        ({3: 1.0}, {"positions": "first"}, "positions: got"),
        ({3: 1.0}, {"hook": "blocks.9.hook_resid_post"}, "layers 0 to 2"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(tiny_lm, tiny_sae, latents, kwargs, message):
    with pytest.raises(ValueError, match=message):
        steer(tiny_lm, tiny_sae, latents, **kwargs)


def test_only_adding_is_defined_where_codes_do_not_reconstruct_the_hook(tiny_lm, tiny_sae):
    to_mlp = {**tiny_sae.metadata, "hook_name_out": "blocks.1.hook_mlp_out"}
    tiny_sae = SAE.from_rows(
        tiny_sae.params, tiny_sae.activation, apply_b_dec_to_input=False, metadata=to_mlp
    )
    with pytest.raises(NotImplementedError, match="transcoder"):
        steer(tiny_lm, tiny_sae, {3: 1.0}, "clamp")
    with steer(tiny_lm, tiny_sae, {3: 1.0}, hook="blocks.1.hook_mlp_out"):
        tiny_lm.model(IDS)


def test_wrong_width_says_so(tiny_lm, tiny_sae):
    with pytest.raises(ValueError, match=r"hook_post of this model is 64 wide, the SAE 32: another hook"):
        steer(tiny_lm, tiny_sae, {3: 1.0}, hook="blocks.1.mlp.hook_post")
    elsewhere = steer_direction(tiny_lm, "model.layers.1.mlp.up_proj", np.ones(32), 1.0)
    with elsewhere, pytest.raises(ValueError, match="32 wide: another hook point"):
        tiny_lm.model(IDS)
    with pytest.raises(ValueError, match="finite vector"):
        steer_direction(tiny_lm, HOOK, np.ones((2, 32)), 1.0)


def every_caller(lm: Any, sae: Any, **given: Any) -> list[Any]:
    """The functions that put an SAE into a model."""
    hook = given.get("hook")
    return [
        lambda: steer(lm, sae, {3: 1.0}, **given),
        lambda: steer(lm, sae, [3], "ablate", **given),
        lambda: explain(lm, sae, [5, 9, 3], 7, top=1, **given),
        lambda: model_quality(lm, sae if hook is None else {hook: sae}, [[5, 9, 3, 4]]),
        lambda: dose_response(
            lm, sae, 3, [1.0], [[5, 9], [4, 4]], outcome, n_directions=1, n_latents=0, **given
        ),
    ]


def outcome(_lm: Any, prompts: Any) -> dict[str, Any]:
    return {"one": np.arange(len(prompts))}


def test_an_sae_of_another_model_is_warned_about_with_both_names(tiny_lm, tiny_sae):
    tiny_sae.metadata["model_name"] = "gpt2-xl"
    for call in every_caller(tiny_lm, tiny_sae):
        with pytest.warns(UserWarning, match=r"'tiny' is used with an SAE of 'gpt2-xl'"):
            call()
    tiny_sae.metadata["model_name"] = "someone/Tiny"  # a hub's name of the same
    for call in every_caller(tiny_lm, tiny_sae):
        call()


def test_an_sae_of_another_hook_point_is_warned_about_with_both_names(tiny_lm, tiny_sae):
    for call in every_caller(tiny_lm, tiny_sae, hook="blocks.0.hook_resid_post"):
        with pytest.warns(UserWarning, match=r"'blocks.0.hook_resid_post' .* of 'blocks.1.hook_resid_post'"):
            call()
    for call in every_caller(tiny_lm, tiny_sae, hook="blocks.2.hook_resid_pre"):  # the same place
        call()


def test_an_sae_without_hook_point_needs_one(tiny_lm, tiny_sae):
    del tiny_sae.metadata["hook_name"]
    for call in every_caller(tiny_lm, tiny_sae):
        with pytest.raises(ValueError, match="metadata name no hook point"):
            call()


def test_a_transcoder_steers_where_it_writes(tiny_lm, tiny_sae):
    tiny_sae.metadata["hook_name_out"] = "blocks.1.hook_mlp_out"
    assert steer(tiny_lm, tiny_sae, {3: 1.0}).point.name == "blocks.1.hook_mlp_out"
