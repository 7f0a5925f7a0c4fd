"""Decisions edited at the last token: one reading for all edits, equal to a pass for each; and the check on top."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sparse_sae.audit.bundle import verify
from sparse_sae.audit.datasets import labelled
from sparse_sae.audit.kept import Kept
from sparse_sae.audit.last_token import LastTokenEdits
from sparse_sae.audit.running import run_audit
from sparse_sae.lm.model.hooks import resolve
from sparse_sae.lm.model.loading import LanguageModel
from sparse_sae.lm.studies import deciding
from sparse_sae.lm.studies.deciding import Edits, decide, decision_gradients, log_odds
from sparse_sae.lm.studies.reuse import layers_below
from sparse_sae.lm.studies.scores import choice_logprobs

HOOK = "blocks.1.hook_resid_post"
PROMPTS = [
    "the parcel is late and the",
    "the parcel is angry",
    "the parcel is late please we can the money",
    "the parcel is a",
]
CHOICES = ["yes", "no", "money"]


def among(logp: Any) -> Any:
    return logp - np.logaddexp.reduce(logp, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "prompts", [PROMPTS, [p.removeprefix("the parcel is ") for p in PROMPTS]], ids=["shared", "apart"]
)
def test_edits_of_copies_equal_a_pass_for_each(tiny_lm: Any, prompts: list[str]) -> None:
    """With and without a prefix that all prompts share, on prompts of several lengths."""
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32))
    found = decide(tiny_lm, prompts, CHOICES, HOOK, Edits(5, lambda x: x[:, None] + vectors), batch_size=3)
    np.testing.assert_allclose(found.plain, among(choice_logprobs(tiny_lm, prompts, CHOICES)), atol=1e-5)
    for e, vector in enumerate(vectors):

        def edit(x: torch.Tensor, vector: torch.Tensor = vector) -> torch.Tensor:
            return torch.cat([x[:, :-1], x[:, -1:] + vector], 1)

        with resolve(tiny_lm, HOOK).attach(edit):
            one = among(choice_logprobs(tiny_lm, prompts, CHOICES))
        np.testing.assert_allclose(found.edited[:, e], one, atol=1e-5)
        assert np.abs(one - found.plain).max() > 1e-3
    alone = decide(tiny_lm, prompts, CHOICES, HOOK)
    assert alone.edited.shape == (4, 0, 3)
    np.testing.assert_allclose(alone.rows, found.rows, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen2"])
def test_copies_enter_at_the_hook_point_and_change_nothing(
    tiny_tokenizer: Any, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers below see the prompt alone, in every way of calling a layer; the answers are those of all layers."""
    size = {
        "vocab_size": len(tiny_tokenizer),
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": None,
    }
    wide = {
        **size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    config = {
        "gpt2": lambda: transformers.GPT2Config(**size, n_embd=32, n_layer=3, n_head=4, n_positions=64),
        "gpt_neox": lambda: transformers.GPTNeoXConfig(**wide),
        "qwen2": lambda: transformers.Qwen2Config(**wide, num_key_value_heads=2),
    }[family]()
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    lm = LanguageModel(model, tiny_tokenizer, family)
    vectors = torch.from_numpy(np.random.default_rng(0).standard_normal((7, 32)).astype(np.float32))
    edits = Edits(7, lambda x: x[:, None] + vectors)
    blocks = layers_below(lm, resolve(lm, "blocks.2.hook_resid_post"))
    found, widths = [], []
    for lower in (layers_below, lambda _model, _point: []):
        monkeypatch.setattr(deciding, "layers_below", lower)
        seen: list[int] = []
        with ExitStack() as stack:
            for block in blocks:

                def note(_block: Any, _args: Any, out: Any, seen: list[int] = seen) -> None:
                    seen.append((out[0] if isinstance(out, tuple) else out).shape[1])

                stack.callback(block.register_forward_hook(note).remove)
            found.append(decide(lm, PROMPTS, CHOICES, HOOK, edits))
        widths.append(seen[-3:])  # the last batch; before it, a prefix is read
    below, _, above = widths[0]
    assert widths == [[below, below, below + 7], [above, above, above]]
    assert np.ptp(found[0].edited, axis=1).max() > 1e-2
    for name in ("plain", "edited", "rows"):
        np.testing.assert_allclose(getattr(found[0], name), getattr(found[1], name), atol=1e-4)


def test_a_batch_that_was_kept_is_not_run_again(tiny_lm: Any, tmp_path: Path) -> None:
    """Batches are found by what they read, so that more prompts go on from fewer; other keys see nothing."""
    more = [*PROMPTS, *(f"the parcel is {word} and" for word in ("late", "angry", "back", "a"))]
    kept = Kept(tmp_path / "kept", "a" * 64)
    short = decide(tiny_lm, PROMPTS, CHOICES, HOOK, batch_size=3, block=4, memory=kept)
    assert len(kept) == 2
    name = next(iter(kept))
    scores, rows = kept[name]
    kept[name] = scores - 1, rows
    marked = decide(tiny_lm, more, CHOICES, HOOK, batch_size=3, block=4, memory=kept)
    assert len(kept) == 4
    shift = marked.plain[:4] - short.plain
    assert sorted(set(shift.ravel().round(3).tolist())) == [-1, 0]
    apart = decide(tiny_lm, more, CHOICES, HOOK, batch_size=3, block=4, memory=Kept(kept.directory, "b" * 64))
    np.testing.assert_array_equal(apart.plain[4:], marked.plain[4:])
    np.testing.assert_array_equal(apart.plain[:4], short.plain)
    del kept[name]
    assert name not in kept and len(kept) == 3
    with pytest.raises(KeyError):
        kept[name]


def test_gradients_are_those_of_the_log_odds(tiny_lm: Any) -> None:
    rows, gradients = decision_gradients(tiny_lm, PROMPTS, CHOICES, HOOK)
    step = np.random.default_rng(1).standard_normal(32).astype(np.float32)
    size = 1e-2

    def moved(sign: float) -> Any:
        edits = Edits(1, lambda x: x[:, None] + sign * size * torch.from_numpy(step))
        found = decide(tiny_lm, PROMPTS, CHOICES, HOOK, edits)
        np.testing.assert_allclose(found.rows, rows, rtol=1e-4, atol=1e-4)
        return log_odds(np.asarray(found.edited[:, 0], np.float64))

    np.testing.assert_allclose((moved(1) - moved(-1)) / (2 * size), gradients @ step, rtol=0.02, atol=2e-3)


def test_choices_are_of_one_token_each(tiny_lm: Any) -> None:
    for choices in (["yes"], ["yes", "yes"], ["yes", "no money"]):
        with pytest.raises(ValueError, match="one token each"):
            decide(tiny_lm, PROMPTS, choices, HOOK)


def test_every_edit_has_controls_of_its_norm(tiny_sae: Any) -> None:
    rows = np.random.default_rng(0).standard_normal((40, 32)).astype(np.float32)
    active = np.unique(tiny_sae.encode(rows).indices)[:2].tolist()
    edits = LastTokenEdits.of(tiny_sae, active, rows, 0.1, 5, 0)
    changes = (edits.edits.apply(torch.from_numpy(rows)) - torch.from_numpy(rows)[:, None]).numpy()
    assert changes.shape[1] == edits.edits.count == 4 + 5 + 10
    norms = np.linalg.norm(changes, axis=2)
    codes = tiny_sae.encode(rows)[:, active].toarray()
    for i, latent in enumerate(active):
        for kind in ("silenced", "added"):
            at, controls = edits.index(kind, latent)
            np.testing.assert_allclose(norms[:, controls], norms[:, [at] * 5], rtol=1e-4, atol=1e-5)
            assert (at, latent, kind) in edits.of_latents()
        at, _ = edits.index("silenced", latent)
        expected = -codes[:, i, None] * tiny_sae.rows["W_dec"][latent]
        np.testing.assert_allclose(changes[:, at], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(edits.controls, axis=1), 1, rtol=1e-5)


def test_examples_stand_before_each_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "label": true}\n{"text": "two", "label": false}\n')
    spec = {"jsonl": "a.jsonl", "system": "Judge.", "examples": [["three", "yes"]]}
    chat = labelled(spec, tmp_path).prompts[1]
    assert [turn["role"] for turn in chat] == ["system", "user", "assistant", "user"] and chat[3][
        "content"
    ] == "two"
    flat = labelled({**spec, "chat": False, "before": "T: ", "after": "\nA: "}, tmp_path).prompts[0]
    assert flat == "Judge.\n\nT: three\nA: yes\n\nT: one\nA: "
    with pytest.raises(ValueError, match="is one of the texts"):
        labelled({**spec, "examples": [["two", "yes"]]}, tmp_path)
    held_out = labelled({"tickets": 12, "label": "refund_asked", "split": "held_out"})
    assert set(held_out.examples.sources) == {"held_out"} and len(held_out.examples) == 12
    with pytest.raises(ValueError, match="expected one of train, held_out"):
        labelled({"tickets": 6, "label": "refund_asked", "split": "test"})


def test_the_check_counts_blocks_and_finds_what_it_planted(
    tiny_lm: Any, tiny_sae: Any, tmp_path: Path
) -> None:
    words = ["the", "parcel", "is", "late", "price", "back", "we", "can", "please", "angry"]
    rng = np.random.default_rng(0)

    def write(name: str, n: int, least: int) -> None:
        texts = [" ".join(rng.choice(words, size=rng.integers(least, least + 5))) for _ in range(n)]
        lines = [json.dumps({"text": text, "label": "angry" in text}) for text in texts]
        (tmp_path / name).write_text("\n".join(lines))

    write("development.jsonl", 30, 4)
    write("sealed.jsonl", 45, 9)
    check = {
        "name": "money",
        "kind": "decision",
        "data": {"jsonl": "sealed.jsonl", "chat": False},
        "development": {"jsonl": "development.jsonl", "chat": False},
        "outcomes": {"approve": "yes", "refuse": "no", "pay": "money"},
        "controls": 4,
        "block": 20,
        "batch_size": 8,
    }
    body = {
        "format": "sparse_sae.audit.policy",
        "version": 1,
        "title": "decisions",
        "hook": HOOK,
        "seed": 3,
        "checks": [check],
    }
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(body))
    found = run_audit(policy, tmp_path / "a.zip", model=tiny_lm, sae=tiny_sae)
    (result,) = found.results["checks"]
    metrics = {m["name"]: m for m in result["metrics"]}
    assert [s["cases"] for s in found.samples] == [20, 20, 5] and result["reads"] == 1
    assert sum(metrics[f"{name}: rate"]["successes"] for name in check["outcomes"]) == 45  # type: ignore[attr-defined]
    assert metrics["approve: rate"]["n"] == 45
    for name in check["outcomes"]:  # type: ignore[attr-defined]
        (change,) = [
            m for k, m in metrics.items() if k.startswith(name) and k.endswith("added, change of log-odds")
        ]
        assert change["low"] <= change["value"] <= change["high"] and change["value"] != 0
    again = run_audit(policy, tmp_path / "b.zip", model=tiny_lm, sae=tiny_sae)
    assert (
        again.samples == found.samples
        and verify(tmp_path / "b.zip").results["checks"] == found.results["checks"]
    )
    _stopped_and_gone_on_with(policy, tmp_path / "d.zip", tiny_lm, tiny_sae, found.samples)
    (tmp_path / "sealed.jsonl").write_text((tmp_path / "development.jsonl").read_text())
    with pytest.raises(ValueError, match="are in development too"):
        run_audit(policy, tmp_path / "c.zip", model=tiny_lm, sae=tiny_sae)


def _stopped_and_gone_on_with(policy: Path, out: Path, lm: Any, sae: Any, samples: Any) -> None:
    """A run that is stopped leaves its batches and no bundle; the next one runs the rest, to the same bits."""
    run, passes = deciding._pass, []

    def stopping(after: int) -> Any:
        def one(*args: Any) -> Any:
            if args[4] is not None and args[4].count > 1:  # a batch of sealed prompts
                if len(passes) == after:
                    raise KeyboardInterrupt
                passes.append(args[2].index)
            return run(*args)

        return one

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deciding, "_pass", stopping(3))
        with pytest.raises(KeyboardInterrupt):
            run_audit(policy, out, model=lm, sae=sae)
    partial = out.with_name(out.name + ".partial")
    assert len(list(partial.iterdir())) == len(passes) == 3 and not out.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deciding, "_pass", stopping(-1))
        found = run_audit(policy, out, model=lm, sae=sae)
    assert (
        len(passes) == 7 and found.samples == samples and not partial.exists()
    )  # 45 prompts in blocks of 20
    assert found.results["checks"][0]["reads"] == 2
