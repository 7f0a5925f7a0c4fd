"""The reconstruction in the forward pass: what goes on, where, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparse_sae import SAE
from sparse_sae.lm import model_quality, read_hooks, reconstruct, steer

HOOK, LATER = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
IDS = torch.tensor([[5, 9, 3, 12, 7, 2], [8, 4, 4, 20, 6, 11]])


def at(lm, hook):
    return read_hooks(lm, [hook], IDS)[hook].numpy()


def test_the_pass_goes_on_with_the_reconstruction(tiny_lm, tiny_sae):
    x = at(tiny_lm, HOOK)
    plain = tiny_lm.model(IDS).logits
    expected = tiny_sae.reconstruct(x.reshape(-1, 32)).reshape(x.shape)
    with reconstruct(tiny_lm, tiny_sae):
        np.testing.assert_array_equal(at(tiny_lm, HOOK), expected)
        assert not torch.equal(tiny_lm.model(IDS).logits, plain)
    with reconstruct(tiny_lm, {HOOK: tiny_sae}, first=False):
        kept = at(tiny_lm, HOOK)
    np.testing.assert_array_equal(kept[:, 0], x[:, 0])
    np.testing.assert_array_equal(kept[:, 1:], expected[:, 1:])
    assert torch.equal(tiny_lm.model(IDS).logits, plain)


def test_the_loss_through_it_is_that_of_model_quality(tiny_lm, tiny_sae):
    measured = model_quality(tiny_lm, tiny_sae, IDS.tolist()).rows[0]
    with reconstruct(tiny_lm, tiny_sae), torch.inference_mode():
        loss = tiny_lm.model(IDS, labels=IDS).loss
    assert measured.loss_sae == pytest.approx(float(loss), rel=1e-5)


def test_several_are_all_in_force_and_generation_works(tiny_lm, tiny_sae):
    other = SAE.from_rows(tiny_sae.params, tiny_sae.activation, metadata={"hook_name": LATER})
    with reconstruct(tiny_lm, tiny_sae):
        between = at(tiny_lm, LATER)
    with reconstruct(tiny_lm, [tiny_sae, other]):
        np.testing.assert_array_equal(
            at(tiny_lm, LATER), other.reconstruct(between.reshape(-1, 32)).reshape(between.shape)
        )
        tiny_lm.model.generate(IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=3, do_sample=False)
    with reconstruct(tiny_lm, tiny_sae), steer(tiny_lm, other, {3: 2.0}):
        np.testing.assert_allclose(at(tiny_lm, LATER), between + 2 * other.W_dec[3], atol=1e-5)


def test_what_it_cannot_do_is_refused(tiny_lm, tiny_sae):
    embeds = tiny_lm.model.get_input_embeddings()(IDS).detach().requires_grad_()
    with reconstruct(tiny_lm, tiny_sae), pytest.raises(RuntimeError, match="carries no gradient"):
        tiny_lm.model(inputs_embeds=embeds)
    for saes, message in (
        ([], "saes is empty"),
        ({"blocks.1.mlp.hook_post": tiny_sae}, "64 wide, the SAE 32"),
        ({"blocks.7.hook_resid_post": tiny_sae}, "layers 0 to 2"),
    ):
        with pytest.raises(ValueError, match=message), reconstruct(tiny_lm, saes):
            pass
    tiny_sae.metadata["hook_name_out"] = "blocks.1.hook_mlp_out"
    with pytest.raises(ValueError, match="transcoder"), reconstruct(tiny_lm, tiny_sae):
        pass
