"""The card of an SAE: its numbers are those of evaluate, model_quality and probes; its command reads files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sae.cli import main
from sparse_sae.probing import auroc

pytest.importorskip("torch")

from sparse_sae.lm import Labelled, benchmark, model_quality, read_hooks

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def words(tiny_tokenizer: Any) -> list[str]:
    return sorted(tiny_tokenizer.get_vocab().keys() - {"<unk>", "<pad>"})


@pytest.fixture(scope="module")
def texts(words: list[str], tiny_tokenizer: Any) -> list[list[int]]:
    lines = [" ".join(words[(i * 7 + j * j) % len(words)] for j in range(12)) for i in range(12)]
    return [tiny_tokenizer(line)["input_ids"] for line in lines]


@pytest.fixture(scope="module")
def task(words: list[str]) -> Labelled:
    """Texts that hold one word or another three times, among drawn ones."""
    rng = np.random.default_rng(0)
    labels = [i % 2 == 0 for i in range(60)]
    made = [" ".join([*rng.choice(words, 2), *[words[3] if label else words[8]] * 3]) for label in labels]
    return Labelled("which word", made, labels, [i >= 40 for i in range(60)])


def test_numbers_are_those_of_their_functions(
    tiny_lm: Any, tiny_sae: Any, texts: list[list[int]], task: Labelled
) -> None:
    import torch

    card = benchmark(tiny_lm, tiny_sae, texts, [task], ks=(1, 3), batch_size=5)
    assert card.quality == model_quality(tiny_lm, tiny_sae, texts, batch_size=5).rows[1]
    assert card.metrics.n_rows == sum(len(text) - 1 for text in texts)
    assert card.metrics.l0 == 8
    assert [(p.units, p.k) for p in card.probed] == [
        ("latents", 1),
        ("neurons", 1),
        ("latents", 3),
        ("neurons", 3),
        ("neurons", None),
    ]
    x = [
        read_hooks(tiny_lm, [HOOK], torch.tensor([tiny_lm.tokenizer(text)["input_ids"]]))[HOOK][0, 1:]
        for text in task.texts
    ]
    means = np.stack([np.asarray(tiny_sae.encode(rows.numpy()).mean(axis=0)).ravel() for rows in x])
    single = card.probed[0]
    area = auroc(means[40:, single.columns[0]], np.asarray(task.labels[40:]))
    assert max(area, 1 - area) == pytest.approx(max(single.auroc, 1 - single.auroc), abs=1e-6)
    assert card.probed[-1].auroc > 0.9  # the word is in the activations
    assert single.chance == 0.5


def test_the_page_and_json(tiny_lm: Any, tiny_sae: Any, texts: list[list[int]], task: Labelled) -> None:
    card = benchmark(tiny_lm, tiny_sae, texts, [task], ks=(1,))
    for shown in ("L0 8.0", "tokens trained on: not known", "1 latents", "all neurons", "recovered"):
        assert shown in str(card)
    found = json.loads(json.dumps(card.to_dict()))
    assert found["fvu"] == card.metrics.fvu
    assert len(found["probing"]) == 3
    with pytest.raises(ValueError, match="expected those of a probe"):
        card.mean("latents", 7)
    assert "probing" not in str(benchmark(tiny_lm, tiny_sae, texts))


@pytest.mark.parametrize(
    ("labels", "held_out", "message"),
    [
        ([True] * 4, [False, False, True, True], "texts that choose: got '2 with the label and 0 without'"),
        ([True, False, True, True], [False, False, True, True], "held-out texts: got '2 with"),
        ([True, False], [False, False, True, True], "labels: got '2 values', expected 4"),
    ],
)
def test_tasks_that_cannot_measure_are_refused(labels: Any, held_out: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Labelled("task", ["a b", "c d", "e f", "g h"], labels, held_out)


def test_command(
    tiny_lm: Any,
    tiny_tokenizer: Any,
    tiny_sae: Any,
    task: Labelled,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_lm.model.save_pretrained("tiny-llama")
    tiny_tokenizer.save_pretrained("tiny-llama")
    tiny_sae.metadata["model_name"] = "tiny-llama"
    tiny_sae.save("sae")
    Path("texts.txt").write_text("\n".join(task.texts))
    rows = zip(task.texts, task.labels, task.held_out, strict=True)
    lines = [json.dumps({"task": "t", "text": t, "label": y, "held_out": h}) for t, y, h in rows]
    Path("tasks.jsonl").write_text("\n".join(lines))
    command = ["benchmark", "sae", "--model", "tiny-llama", "--texts", "texts.txt", "--tasks", "tasks.jsonl"]
    assert main([*command, "--tokens", "100", "--context", "16", "--json", "card.json"]) == 0
    assert "all neurons" in capsys.readouterr().out
    found = json.loads(Path("card.json").read_text())
    assert {p["task"] for p in found["probing"]} == {"t"}
    assert found["quality"]["read"] <= 100
    for broken, message in (
        ('{"task": "t", "text": "a"}', "line 1: expected an object with task, text, label, held_out"),
        (
            '{"task": "t", "text": "a", "label": 1, "held_out": true}',
            "line 1: expected text, and true or false",
        ),
        ("\n", "no line in it"),
    ):
        Path("tasks.jsonl").write_text(broken)
        assert main(command) == 1
        assert message in capsys.readouterr().err


def test_tickets_are_the_tasks_by_default(
    tiny_lm: Any, tiny_tokenizer: Any, tiny_sae: Any, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_lm.model.save_pretrained("tiny-llama")
    tiny_tokenizer.save_pretrained("tiny-llama")
    tiny_sae.metadata["model_name"] = "tiny-llama"
    tiny_sae.save("sae")
    command = [
        "benchmark",
        "sae",
        "--model",
        "tiny-llama",
        "--tokens",
        "300",
        "--tickets",
        "20",
        "--context",
        "64",
    ]
    assert main(command) == 0
    assert "probing, 5 tasks" in capsys.readouterr().out
