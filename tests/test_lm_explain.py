"""Which latent did it: estimates and ablations against the model itself, on a tiny random Llama."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sparse_sae.lm.explaining.attribution import explain
from sparse_sae.lm.model.hooks import read_hooks, resolve
from sparse_sae.lm.steering.interventions import steer

HOOK = "blocks.1.hook_resid_post"
PROMPT = "please can you refund my late parcel"


@pytest.fixture
def ids(tiny_tokenizer):
    return torch.tensor([tiny_tokenizer(PROMPT)["input_ids"]])


def next_logprobs(model, ids):
    return model.model(ids).logits[0].log_softmax(-1)


def test_no_edit_reproduces_the_unedited_model(tiny_lm, tiny_sae, ids):
    seen = []

    def keep(logits):
        seen.append(logits.detach().clone())
        return logits[-1, 5]

    explain(tiny_lm, tiny_sae, PROMPT, keep, top=2)
    plain = tiny_lm.model(ids).logits[0]
    assert len(seen) == 2 + 3  # reading, gradient, and a pass of the unedited row and two ablations
    assert torch.equal(seen[0], plain)
    assert torch.equal(seen[1], plain)
    torch.testing.assert_close(seen[2], plain, atol=1e-5, rtol=1e-5)  # a row of a batch: rounding may differ
    assert not torch.allclose(seen[3], plain, atol=1e-4)


def test_every_kind_of_target_has_the_models_own_value(tiny_lm, tiny_sae, ids):
    logits = tiny_lm.model(ids).logits[0]
    refunds, no = (tiny_lm.tokenizer.convert_tokens_to_ids(w) for w in ("refund", "no"))

    def value(target):
        return explain(tiny_lm, tiny_sae, PROMPT, target, top=0).value

    assert value(refunds) == pytest.approx(float(logits[-1].log_softmax(-1)[refunds]), abs=1e-5)
    assert value(("refund", no)) == pytest.approx(float(logits[-1, refunds] - logits[-1, no]), abs=1e-5)
    assert value(lambda out: out[2].logsumexp(0)) == pytest.approx(float(logits[2].logsumexp(0)), abs=1e-5)
    words = tiny_lm.tokenizer("refund is not available")["input_ids"]
    full = next_logprobs(tiny_lm, torch.tensor([[*ids[0].tolist(), *words]]))
    expected = sum(float(full[ids.shape[1] - 1 + i, word]) for i, word in enumerate(words))
    assert value("refund is not available") == pytest.approx(expected, abs=1e-4)


def test_ablation_is_what_steering_does(tiny_lm, tiny_sae, ids):
    """The reported effect of a latent is the change seen when `steer` ablates it in the same places."""
    found = explain(tiny_lm, tiny_sae, PROMPT, ("refund", "no"), top=5)
    a, b = (tiny_lm.tokenizer.convert_tokens_to_ids(w) for w in ("refund", "no"))
    for effect in found.effects[:5]:
        with steer(tiny_lm, tiny_sae, [effect.latent], "ablate", exact=True, positions=slice(1, None)):
            logits = tiny_lm.model(ids).logits[0, -1]
        assert effect.ablation == pytest.approx(found.value - float(logits[a] - logits[b]), abs=2e-5)
    sizes = [abs(effect.ablation) for effect in found.effects[:5]]
    assert sizes == sorted(sizes, reverse=True)
    assert all(effect.ablation is None for effect in found.effects[5:])


def test_estimate_is_the_derivative_of_scaling_the_latent(tiny_lm, tiny_sae, ids):
    found = explain(tiny_lm, tiny_sae, PROMPT, 7, top=0)
    x = read_hooks(tiny_lm, [HOOK], ids)[HOOK][0].numpy()
    codes = tiny_sae.encode(x).toarray()
    codes[0] = 0  # the first position does not count
    for effect in found.effects[:3]:
        change = torch.from_numpy(codes[:, [effect.latent]] * tiny_sae.rows["W_dec"][effect.latent])
        ends = []
        for step in (-0.01, 0.01):
            with resolve(tiny_lm, HOOK).attach(lambda x, step=step, change=change: x + step * change):
                ends.append(float(next_logprobs(tiny_lm, ids)[-1, 7]))
        assert effect.estimate == pytest.approx((ends[1] - ends[0]) / 0.02, rel=0.05, abs=2e-3)


def test_estimates_with_error_and_bias_are_gradient_times_activation(tiny_lm, tiny_sae, ids):
    tiny_sae.b_dec[:] = np.linspace(-1, 1, 32, dtype=np.float32)
    found = explain(tiny_lm, tiny_sae, PROMPT, 7, top=0)
    grads = []

    def leaf(x):
        grads.append(x.detach().requires_grad_())
        return grads[0]

    with resolve(tiny_lm, HOOK).attach(leaf):
        next_logprobs(tiny_lm, ids)[-1, 7].backward()
    total = float((grads[0].grad * grads[0].detach())[:, 1:].sum())
    parts = sum(effect.estimate for effect in found.effects) + found.error_estimate + found.bias_estimate
    assert parts == pytest.approx(total, rel=1e-3, abs=1e-3)
    assert abs(found.error_estimate) > 1e-3 < abs(found.bias_estimate)


def test_integrated_gradients_are_complete(tiny_lm, tiny_sae, ids):
    """Over all latents they add up to what taking every code away changes; plain gradients do not."""
    x = read_hooks(tiny_lm, [HOOK], ids)[HOOK][0].numpy()
    parts = torch.from_numpy(tiny_sae.encode(x) @ tiny_sae.rows["W_dec"])
    parts[0] = 0  # the first position does not count
    with resolve(tiny_lm, HOOK).attach(lambda x: x - parts):
        without = float(next_logprobs(tiny_lm, ids)[-1, 7])
    totals = {}
    for method, steps in (("gradient", 1), ("integrated", 10), ("integrated", 400)):
        found = explain(tiny_lm, tiny_sae, PROMPT, 7, method=method, steps=steps, top=0)
        totals[method, steps] = sum(effect.estimate for effect in found.effects)
    change = found.value - without
    off = {key: abs(total - change) for key, total in totals.items()}
    assert off["integrated", 400] < 0.02 * abs(change)
    assert off["integrated", 400] <= off["integrated", 10] < off["gradient", 1]


def test_positions_restrict_and_are_named(tiny_lm, tiny_sae):
    everywhere = explain(tiny_lm, tiny_sae, PROMPT, "refund is not", top=3)
    prompt = explain(tiny_lm, tiny_sae, PROMPT, "refund is not", top=3, positions="prompt")
    last = explain(tiny_lm, tiny_sae, PROMPT, "refund is not", top=3, positions=[-1])

    def places(found):
        return {place.position for effect in found.effects for place in effect.places}

    assert places(everywhere) == set(range(1, 9))  # six of the prompt, two of the continuation
    assert places(prompt) == set(range(1, 7))
    assert places(last) == {6}
    assert len(last.effects) == 8  # k of the SAE
    assert everywhere.tokens == [*PROMPT.split(), "refund", "is"]
    for effect in last.effects:
        assert [place.token for place in effect.places] == ["parcel"]
        assert effect.places[0].estimate == pytest.approx(effect.estimate)


def test_massive_activations_do_not_count_unless_named(tiny_lm, tiny_sae):
    def blow_up(x):
        if x.shape[1] < 7:
            return None
        x = x.clone()
        x[:, 3] *= 1000
        return x

    def places(**given):
        found = explain(tiny_lm, tiny_sae, PROMPT, 7, top=3, **given)
        return {place.position for effect in found.effects for place in effect.places}

    with resolve(tiny_lm, HOOK).attach(blow_up):
        assert places() == {1, 2, 4, 5, 6}
        assert places(positions=range(7)) == set(range(7))
    with pytest.raises(ValueError, match="nothing is left"):
        explain(tiny_lm, tiny_sae, "parcel", 7)


def test_a_planted_cause_is_found(tiny_lm, tiny_sae, ids):
    """A latent that alone moves the target, since everything else is cut off, ranks first."""
    x = read_hooks(tiny_lm, [HOOK], ids)[HOOK][0].numpy()
    latent = int(tiny_sae.encode(x[-1:]).indices[3])
    direction = torch.from_numpy(tiny_sae.rows["W_dec"][latent])
    read = {}

    def target(_logits):
        return read["x"][-1] @ direction

    def spy(x):
        read["x"] = x[0]

    with resolve(tiny_lm, "blocks.2.hook_resid_pre").attach(spy):
        found = explain(tiny_lm, tiny_sae, PROMPT, target, top=4, batch_size=1, hook=HOOK)
    assert found.effects[0].latent == latent


def test_output_reads_well_and_is_json(tiny_lm, tiny_sae):
    found = explain(tiny_lm, tiny_sae, PROMPT, "refund is not available", top=4)
    text = str(found)
    assert "log-probability of 'refund is not available' = " in text
    assert HOOK in text
    assert f"{found.effects[0].latent} {found.effects[0].ablation:+.4f}" in " ".join(text.split())
    back = json.loads(json.dumps(found.to_dict()))
    assert back["effects"][0]["places"][0]["token"] in found.tokens
    assert -1 <= back["agreement"] <= 1


def test_prompts_as_ids_and_a_bare_module(tiny_lm, tiny_sae, ids):
    with_words = explain(tiny_lm, tiny_sae, PROMPT, 7, top=2)
    bare = explain(tiny_lm.model, tiny_sae, ids[0].tolist(), 7, top=2)
    assert [e.latent for e in bare.effects] == [e.latent for e in with_words.effects]
    with pytest.raises(ValueError, match="tokenizer"):
        explain(tiny_lm.model, tiny_sae, PROMPT, 7)


@pytest.mark.parametrize(
    ("target", "kwargs", "message"),
    [
        (("late parcel", 3), {}, "2 tokens"),
        ((1, 2, 3), {}, "a pair"),
        ("", {}, "no tokens"),
        (lambda out: out[0], {}, "one finite number"),
        (lambda out: out[0, 0] * float("nan"), {}, "one finite number"),
        (3, {"positions": [40]}, "positions: got"),
        (3, {"positions": "here"}, "positions: got"),
        (3, {"method": "guess"}, "method: got"),
        (3, {"steps": 0}, "steps"),
        (3, {"hook": "blocks.1.mlp.hook_post"}, "64 wide, the SAE 32"),
    ],
)
def test_bad_input(tiny_lm, tiny_sae, target, kwargs, message):
    with pytest.raises(ValueError, match=message):
        explain(tiny_lm, tiny_sae, PROMPT, target, **kwargs)


def test_wrong_type_of_target(tiny_lm, tiny_sae):
    with pytest.raises(TypeError, match="target: got"):
        explain(tiny_lm, tiny_sae, PROMPT, 3.5)
