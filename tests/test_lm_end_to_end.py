"""Capture, train, evaluate, explain, steer: the whole way on the real model, with a small budget."""

from __future__ import annotations

import numpy as np
import pytest

import sparse_sae
from sparse_sae.lm import english_documents, load_model
from sparse_sae.lm.explaining.attribution import explain
from sparse_sae.lm.harvest.recording import capture
from sparse_sae.lm.steering.interventions import steer
from sparse_sae.lm.studies.quality import model_quality

HOOK = "blocks.15.hook_resid_post"
CHAT = [
    {"role": "user", "content": "My parcel is three weeks late and I want my money back. Can I get a refund?"}
]


@pytest.mark.slow
def test_the_whole_way_on_the_real_model(tmp_path):
    lm = load_model()
    store = capture(lm, english_documents(), HOOK, tmp_path / "activations", max_tokens=12_000)
    rows, held_out = store.split(0.2)
    metadata = {"model_name": lm.name, "hook_name": HOOK}
    trained = sparse_sae.train(
        rows,
        sparse_sae.TopK(k=32),
        d_sae=1152,
        n_tokens=6 * len(rows),
        metadata=metadata,
        out=tmp_path / "run",
    )
    sae = sparse_sae.load(tmp_path / "run" / "sae")
    np.testing.assert_array_equal(sae.W_dec, trained.sae.W_dec)
    assert sparse_sae.evaluate(sae, held_out).fvu < 0.5

    texts = [text for _, text in zip(range(4), english_documents(), strict=False)]
    every, kept = model_quality(lm, sae, texts, max_tokens=96).rows
    assert kept.loss < kept.loss_sae < kept.loss_mean
    assert 0.3 < kept.recovered_mean < 1
    # massive activations and first positions were left out of training, so replacing them is what costs most
    assert every.loss_sae > kept.loss_sae

    found = explain(lm, sae, CHAT, "Unfortunately, refunds are not available.", top=8)
    assert found.agreement is not None
    assert found.agreement > 0.5
    strongest = found.effects[0]
    assert abs(strongest.ablation or 0) > 0.05

    inputs = lm.tokenizer.apply_chat_template(
        CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )

    def answer(strength: float) -> str:
        with steer(lm, sae, {strongest.latent: strength}):
            ids = lm.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        text: str = lm.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])
        return text

    plain = lm.model.generate(**inputs, max_new_tokens=12, do_sample=False)
    assert answer(0.0) == lm.tokenizer.decode(plain[0, inputs["input_ids"].shape[1] :])
    assert answer(150.0) != answer(0.0)
