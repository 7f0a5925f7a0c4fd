"""Delays in tokens: from the token that tells to the one at which a monitor speaks up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sae.architectures import JumpReLU
from sparse_sae.audit.bundle import verify
from sparse_sae.audit.datasets import labelled
from sparse_sae.audit.delay import onset_tokens
from sparse_sae.audit.running import run_audit
from sparse_sae.demo.tickets import LABELS, tickets, wordings
from sparse_sae.sae import SAE

HOOK = "blocks.0.hook_resid_pre"  # the embedding of each token, and nothing else
PLANTED = 3


@pytest.fixture(scope="module")
def sae(tiny_lm: Any) -> SAE:
    """A latent for each of eight words: it is active on that word alone."""
    words = ["money", "angry", "parcel", "late", "price", "back", "order", "can"]
    ids = [tiny_lm.tokenizer(word)["input_ids"][-1] for word in words]
    rows = tiny_lm.model.get_input_embeddings().weight[ids].detach().numpy().astype(np.float32)
    rows = rows / (rows**2).sum(1, keepdims=True)
    params = {"W_enc": rows, "W_dec": rows.copy(), "threshold": np.full(8, 0.9, np.float32)}
    params |= {"b_enc": np.zeros(8, np.float32), "b_dec": np.zeros(rows.shape[1], np.float32)}
    return SAE.from_rows(params, JumpReLU(), metadata={"hook_name": HOOK})


def test_a_planted_delay_is_measured(tiny_lm: Any, sae: SAE, tmp_path: Path) -> None:
    """`angry` is where a text becomes positive; what can be seen, `money`, comes three tokens later. The negatives are
    angry too."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(160):
        text = rng.choice(["the", "parcel", "is", "late", "we", "can", "please"], size=12).tolist()
        at = int(rng.integers(1, 8))
        text[at] = "angry"
        if i % 2:
            text[at + PLANTED] = "money"
        onset = len(" ".join(text[:at])) + 1
        lines.append({"text": " ".join(text), "label": bool(i % 2), "onset": onset})
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, lines)))
    check = {
        "name": "anger",
        "kind": "detection",
        "data": {"jsonl": "cases.jsonl", "chat": False},
        "fprs": [0.1],
        "kinds": ["latent", "raw probe", "length"],
    }
    body = {"format": "sparse_sae.audit.policy", "version": 1, "title": "x", "hook": HOOK, "checks": [check]}
    (tmp_path / "policy.json").write_text(json.dumps(body))
    found = run_audit(tmp_path / "policy.json", tmp_path / "a.zip", model=tiny_lm, sae=sae)
    metrics = {m["name"]: m for m in verify(tmp_path / "a.zip").results["checks"][0]["metrics"]}
    assert metrics["latent: AUROC"]["value"] == 1.0
    assert metrics["latent: delay at 0.1, tokens, median"]["value"] == PLANTED
    assert metrics["latent: delay at 0.1, tokens, 90th percentile"]["value"] == PLANTED
    alarms = metrics["latent: alarm at the onset or after it, at 0.1"]
    positives = sum(sample["label"] for sample in found.samples)
    assert alarms["successes"] == alarms["n"] == positives > 30
    told = [s["latent at 0.1, delay in tokens"] for s in found.samples if s["label"]]
    assert told == [PLANTED] * positives
    assert not any("delay" in key for s in found.samples if not s["label"] for key in s)
    assert "raw probe: alarm at the onset or after it, at 0.1" in metrics
    assert not any(name.startswith("length: delay") for name in metrics)  # it looks at no token


def test_the_onset_of_a_chat_is_counted_with_its_template(tiny_lm: Any) -> None:
    tokenizer = tiny_lm.tokenizer
    text = "the parcel is late"
    plain = onset_tokens([text, text], [text, text], [0, text.index("is")], tokenizer)
    ids = tokenizer(text)["input_ids"]
    extra = len(ids) - 4  # special tokens in front
    assert plain.tolist() == [extra, extra + 2]
    with pytest.raises(ValueError, match="does not stand in its prompt"):
        onset_tokens(["another"], [text], [0], tokenizer)
    with pytest.raises(ValueError, match="expected a character of a text of 18"):
        onset_tokens([text], [text], [18], tokenizer)


def test_tickets_say_where_each_label_begins(tmp_path: Path) -> None:
    sentences = wordings()["sentences"]
    for ticket in tickets(20, seed=1):
        for name in LABELS:
            said = sentences[name]["holds" if ticket.labels[name] else "does not hold"]["train"]
            rest = ticket.text[ticket.onsets[name] :]
            assert any(rest.startswith(s.partition("{")[0]) for s in said), (name, rest)
    made = labelled({"tickets": 12, "label": "angry_tone"})
    assert (made.examples.onsets >= 0).all()
    path = tmp_path / "a.jsonl"
    for onset in (2, -2, "1", True):
        path.write_text(json.dumps({"text": "ab", "label": True, "onset": onset}))
        with pytest.raises(ValueError, match=r"a\.jsonl: line 1"):
            labelled({"jsonl": str(path)})
