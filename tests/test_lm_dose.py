"""Experiments and dose–response: the statistics against scipy and simulation, the whole on a tiny random
Llama.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats

from sparse_sae.lm.model.hooks import resolve
from sparse_sae.lm.steering.interventions import steer
from sparse_sae.lm.studies.dose import dose_response
from sparse_sae.lm.studies.experiments import decisions, experiment
from sparse_sae.lm.studies.scores import choice_logprobs, score_texts
from sparse_sae.lm.studies.significance import (
    benjamini_hochberg,
    bootstrap_mean,
    holm,
    mcnemar,
    sign_flip,
    wilson,
)

PROMPTS = [
    "please can you refund my late parcel",
    "my order is late three weeks ago",
    "the price is not available for my order please",
    "angry order",
    "can we refund the parcel to you",
    "no money back for my late shipping",
    "is the delay in shipping approved",
    "sorry my parcel is late and we are angry",
]


def sequence_logprob(model, prompt, text):
    """By a plain forward pass over one unpadded sequence."""
    first, then = (model.tokenizer(t)["input_ids"] for t in (prompt, text))
    logp = model.model(torch.tensor([first + then])).logits[0].log_softmax(-1)
    return sum(float(logp[len(first) - 1 + i, token]) for i, token in enumerate(then))


def test_choice_logprobs_equal_one_sequence_at_a_time(tiny_lm):
    choices = ["refund", "no refund available", "yes sorry"]
    got = choice_logprobs(tiny_lm, PROMPTS, choices, batch_size=3)
    expected = [[sequence_logprob(tiny_lm, p, c) for c in choices] for p in PROMPTS]
    np.testing.assert_allclose(got, expected, atol=1e-4)
    ids = [tiny_lm.tokenizer(c)["input_ids"] for c in choices]
    np.testing.assert_array_equal(choice_logprobs(tiny_lm, PROMPTS, ids, batch_size=3), got)


def test_choice_logprobs_under_steering(tiny_lm, tiny_sae):
    with steer(tiny_lm, tiny_sae, {3: 20.0}):
        got = choice_logprobs(tiny_lm, PROMPTS[:3], ["no refund available"])
        expected = [[sequence_logprob(tiny_lm, p, "no refund available")] for p in PROMPTS[:3]]
    np.testing.assert_allclose(got, expected, atol=1e-4)
    assert np.abs(got - choice_logprobs(tiny_lm, PROMPTS[:3], ["no refund available"])).min() > 0.01
    with steer(tiny_lm, tiny_sae, {3: 20.0}, positions="prompt"):
        prompt_only = choice_logprobs(tiny_lm, PROMPTS[:3], ["no refund available"])
    assert np.abs(prompt_only - got).min() > 1e-4  # the choice's own tokens count as generated


@pytest.mark.parametrize("choices", [["refund", "no"], ["refund", "no refund available"]])
def test_a_shared_prefix_is_read_once_and_changes_nothing(tiny_lm, tiny_sae, choices):
    prompts = [f"sorry we are late please {prompt}" for prompt in PROMPTS]
    read = []

    def count(x):
        read.append(x.shape[0] * x.shape[1])

    for value in (0.0, 20.0):
        with steer(tiny_lm, tiny_sae, {3: value}):
            expected = choice_logprobs(tiny_lm, prompts, choices, batch_size=3)
            with resolve(tiny_lm, "blocks.0.hook_resid_pre").attach(count):
                got = choice_logprobs(tiny_lm, prompts, choices, batch_size=3, share_prefix=True)
        np.testing.assert_allclose(got, expected, atol=1e-5)
    if len(choices[1].split()) == 1:
        assert sum(read[: len(read) // 2]) < sum(len(p.split()) for p in prompts)
    # nothing in common, one prompt, and a prompt that is the beginning of the others
    for some in (PROMPTS[:2], prompts[:1], [prompts[0], prompts[0] + " late"]):
        plain, shared = (choice_logprobs(tiny_lm, some, choices, share_prefix=s) for s in (False, True))
        np.testing.assert_allclose(shared, plain, atol=1e-5)


def test_text_scores_are_cross_entropy_and_kl(tiny_lm, tiny_sae):
    scores = score_texts(
        tiny_lm, PROMPTS, {"push": lambda: steer(tiny_lm, tiny_sae, {3: 20.0})}, batch_size=3
    )
    loss, kl, tokens = 0.0, 0.0, 0
    for prompt in PROMPTS:
        ids = torch.tensor([tiny_lm.tokenizer(prompt)["input_ids"]])
        plain = tiny_lm.model(ids).logits[0, :-1].log_softmax(-1)
        with steer(tiny_lm, tiny_sae, {3: 20.0}):
            pushed = tiny_lm.model(ids).logits[0, :-1].log_softmax(-1)
        loss -= float(pushed.gather(1, ids[0, 1:, None]).sum())
        kl += float((plain.exp() * (plain - pushed)).sum())
        tokens += ids.shape[1] - 1
    assert scores["push"].loss == pytest.approx(loss / tokens, rel=1e-4)
    assert scores["push"].kl == pytest.approx(kl / tokens, rel=1e-3)
    assert scores["push"].kl > 0.01
    assert scores["unedited"].kl == 0
    assert scores["unedited"].perplexity == pytest.approx(np.exp(scores["unedited"].loss))
    assert int(scores["push"].tokens.sum()) == tokens


def test_wilson_and_mcnemar_equal_scipy():
    for k, n in [(0, 10), (7, 30), (199, 200)]:
        expected = stats.binomtest(k, n).proportion_ci(0.9, method="wilson")
        np.testing.assert_allclose(wilson(k, n, 0.9), (expected.low, expected.high), atol=1e-12)
    before, after = [0] * 9 + [1] * 3 + [1] * 20, [1] * 9 + [0] * 3 + [1] * 20
    assert mcnemar(before, after) == pytest.approx(stats.binomtest(9, 12).pvalue)
    assert mcnemar([1, 0], [1, 0]) == 1.0


def test_adjustments():
    p = np.random.default_rng(0).random(20) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p))
    order = np.argsort(p)
    by_hand, worst = np.empty(20), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, (20 - rank) * p[i])
        by_hand[i] = min(worst, 1.0)
    np.testing.assert_allclose(holm(p), by_hand)
    assert (holm(p) >= benjamini_hochberg(p)).all()


def test_bootstrap_covers_and_groups_widen_it():
    rng = np.random.default_rng(3)
    inside = 0
    for i in range(100):
        low, high = bootstrap_mean(rng.exponential(size=60), resamples=400, seed=i)
        inside += bool(low < 1.0 < high)
    assert 85 <= inside <= 100
    # ten copies of the same twenty values hold no more than twenty values do
    values = rng.standard_normal(20)
    copies, groups = np.repeat(values, 10), np.repeat(np.arange(20), 10)

    def width(*args, **kwargs):
        low, high = bootstrap_mean(*args, **kwargs)
        return high - low

    assert width(copies, groups=groups) == pytest.approx(width(values), rel=0.01)
    assert width(copies) < 0.5 * width(values)


def test_sign_flip_is_calibrated_and_sees_groups():
    rng = np.random.default_rng(4)
    p = sign_flip(rng.standard_normal((40, 300)), draws=499)
    assert 0.02 < (p < 0.05).mean() < 0.09
    shifted = rng.standard_normal((40, 50)) + 1.0
    assert (sign_flip(shifted, draws=499) < 0.05).mean() > 0.95
    copies, groups = np.repeat(rng.standard_normal((8, 200)), 10, axis=0), np.repeat(np.arange(8), 10)
    assert (sign_flip(copies, draws=499) < 0.05).mean() > 0.3  # what ignoring the groups would claim
    assert (sign_flip(copies, groups=groups, draws=499) < 0.05).mean() < 0.1


OUTCOME = decisions({"approve": ["yes", "approved"], "refuse": ["no", "sorry"], "wait": "in"})


def test_decisions_add_up_and_the_prior_shifts_them(tiny_lm):
    values = OUTCOME(tiny_lm, PROMPTS)
    names = ["approve", "refuse", "wait"]
    np.testing.assert_array_equal(sum(values[n] for n in names), 1.0)
    np.testing.assert_allclose(sum(np.exp(values[f"log p({n})"]) for n in names), 1.0)
    yes, approved, wait = choice_logprobs(tiny_lm, PROMPTS, ["yes", "approved", "in"]).T
    gap = values["log p(approve)"] - values["log p(wait)"]
    np.testing.assert_allclose(gap, np.logaddexp(yes, approved) - wait, atol=1e-9)
    never = decisions({"approve": "yes", "refuse": "no"}, prior={"approve": 1e3})(tiny_lm, PROMPTS)
    assert not never["approve"].any()
    with pytest.raises(ValueError, match="at least two"):
        decisions({"approve": "yes"})
    with pytest.raises(ValueError, match="no such decision"):
        decisions({"approve": "yes", "refuse": "no"}, prior={"maybe": 1.0})


def test_experiment_reports_what_was_measured(tiny_lm, tiny_sae):
    edits = {
        "up": lambda: steer(tiny_lm, tiny_sae, {3: 40.0}),
        "none": lambda: steer(tiny_lm, tiny_sae, {3: 0.0}),
    }
    seen = []
    found = experiment(tiny_lm, PROMPTS, OUTCOME, edits, progress=seen.append)
    assert seen == [f"prompts 1 to 8 of 8: {name}" for name in ("unedited", "up", "none")]
    for given in ({"chunk": 3}, {"reuse": "blocks.1.hook_resid_post"}):
        again = experiment(tiny_lm, PROMPTS, OUTCOME, edits, **given)
        for name, measured in again.values.items():
            for key, values in measured.items():
                np.testing.assert_allclose(values, found.values[name][key], atol=1e-5)
    by = {(c.edit, c.outcome): c for c in found.changes}
    assert len(by) == 2 * 6
    plain = OUTCOME(tiny_lm, PROMPTS)
    with steer(tiny_lm, tiny_sae, {3: 40.0}):
        pushed = OUTCOME(tiny_lm, PROMPTS)
    for key in plain:
        change = by["up", key]
        assert change.before == pytest.approx(plain[key].mean())
        assert change.change == pytest.approx((pushed[key] - plain[key]).mean())
        assert change.change_interval[0] <= change.change + 1e-12
        assert change.change_interval[1] >= change.change - 1e-12
        assert by["none", key].change == 0
        assert by["none", key].p == 1
    assert by["up", "approve"].p == mcnemar(plain["approve"], pushed["approve"])
    low, high = wilson(pushed["approve"].sum(), len(PROMPTS))
    assert by["up", "approve"].after_interval == (pytest.approx(low), pytest.approx(high))
    drift = pushed["log p(approve)"] - plain["log p(approve)"]
    assert by["up", "log p(approve)"].p == pytest.approx(float(sign_flip(drift)))
    np.testing.assert_allclose([c.p_holm for c in found.changes], holm([c.p for c in found.changes]))
    assert json.loads(json.dumps(found.to_dict()))[0]["edit"] == "up"
    assert "up    approve" in str(found)
    one = experiment(tiny_lm, PROMPTS, OUTCOME, edits, outcomes=["refuse"])
    assert [c.outcome for c in one.changes] == ["refuse", "refuse"]


def test_experiment_groups(tiny_lm, tiny_sae):
    edits = {"up": lambda: steer(tiny_lm, tiny_sae, {3: 40.0})}
    alone = experiment(tiny_lm, PROMPTS * 4, OUTCOME, edits, outcomes=["log p(approve)"]).changes[0]
    groups = np.tile(np.arange(len(PROMPTS)), 4)
    grouped = experiment(
        tiny_lm, PROMPTS * 4, OUTCOME, edits, outcomes=["log p(approve)"], groups=groups
    ).changes[0]
    assert grouped.change == pytest.approx(alone.change)
    assert np.diff(grouped.change_interval) > 1.5 * np.diff(alone.change_interval)
    assert grouped.p >= alone.p


def test_dose_response(tiny_lm, tiny_sae):
    found = dose_response(
        tiny_lm,
        tiny_sae,
        3,
        [20, -20, 5],
        PROMPTS,
        OUTCOME,
        n_directions=3,
        n_latents=2,
        pool=[5, 6, 7],
        neutral=PROMPTS[:3],
        seed=1,
    )
    assert found.strengths == [-20.0, 5.0, 20.0]
    assert found.outcomes == list(OUTCOME(tiny_lm, PROMPTS[:2]))
    assert [arm.kind for arm in found.arms] == ["latent"] + ["random direction"] * 3 + ["random latent"] * 2
    assert {arm.name for arm in found.arms[4:]} < {"latent 5", "latent 6", "latent 7"}
    direct = experiment(
        tiny_lm,
        PROMPTS,
        OUTCOME,
        {str(s): lambda s=s: steer(tiny_lm, tiny_sae, {3: s}) for s in found.strengths},
        seed=1,
    )
    for change in direct.changes:
        ours = found.arms[0].changes[float(change.edit)][change.outcome]
        assert ours.change == pytest.approx(change.change, abs=1e-6)
        # a permuted mean may tie with the observed one but for rounding, hence the tolerance
        assert ours.p == pytest.approx(change.p, rel=0.05)
        assert ours.p_holm == pytest.approx(
            change.p_holm, rel=0.05
        )  # over the latent's tests, not the controls'
    scores = score_texts(tiny_lm, PROMPTS[:3], {"a": lambda: steer(tiny_lm, tiny_sae, {3: 20.0})})
    assert found.perplexity == pytest.approx(scores["unedited"].perplexity)
    assert found.arms[0].kl[20.0] == pytest.approx(scores["a"].kl, rel=1e-3)
    assert found.arms[0].perplexity[20.0] == pytest.approx(scores["a"].perplexity, rel=1e-3)
    controls = found.control_changes("log p(approve)", 20.0)
    assert controls.shape == (5,)
    assert found.control_changes("log p(approve)", 20.0, "random latent").shape == (2,)
    own = abs(found.arms[0].changes[20.0]["log p(approve)"].change)
    expected = (1 + sum(abs(c) >= own for c in controls)) / 6
    assert found.p_against_controls("log p(approve)", 20.0) == pytest.approx(expected)
    back = json.loads(json.dumps(found.to_dict()))
    assert [r["strength"] for r in back["arms"][0]["responses"]] == found.strengths
    assert back["arms"][1]["responses"][0]["kl"] > 0
    assert "controls: range of change" in str(found)
    assert "KL" in str(found)


def test_controls_have_the_latents_norm_and_are_drawn_by_seed(tiny_lm, tiny_sae):
    from sparse_sae.lm.studies.dose import _directions

    tiny_sae.rows["W_dec"][:] *= np.linspace(0.5, 2, 64, dtype=np.float32)[:, None]
    drawn = _directions(tiny_sae, [3, 9], 4, 4, None, 0)
    norm = np.linalg.norm(tiny_sae.rows["W_dec"][[3, 9]].sum(0))
    assert [float(np.linalg.norm(v)) for _, _, v in drawn] == pytest.approx([norm] * 9, rel=1e-5)
    assert len({v.tobytes() for _, _, v in drawn}) == 9
    again = _directions(tiny_sae, [3, 9], 4, 4, None, 0)
    assert all((a[2] == b[2]).all() for a, b in zip(drawn, again, strict=True))
    other = _directions(tiny_sae, [3, 9], 4, 4, None, 1)
    assert (drawn[1][2] != other[1][2]).any()
    assert not {"latent 3", "latent 9"} & {name for name, _, _ in drawn}


def test_dose_response_plot(tiny_lm, tiny_sae, tmp_path):
    found = dose_response(
        tiny_lm,
        tiny_sae,
        3,
        [-20, 20],
        PROMPTS,
        OUTCOME,
        outcomes=["approve", "refuse"],
        n_directions=1,
        n_latents=1,
        neutral=PROMPTS[:2],
    )
    figure = found.plot()
    assert [axis.get_ylabel().split()[0] for axis in figure.axes] == ["approve", "refuse", "KL"]
    own = figure.axes[0].lines[-1]
    changes = [found.arms[0].changes[s]["approve"] for s in (-20.0, 20.0)]
    assert list(own.get_xdata()) == [-20.0, 0.0, 20.0]
    assert list(own.get_ydata()) == pytest.approx([changes[0].after, changes[0].before, changes[1].after])
    figure.savefig(tmp_path / "dose.png")
    assert len(found.plot(["refuse"]).axes) == 2


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strengths": []}, "strengths: got"),
        ({"strengths": [0.0, 1.0]}, "strengths: got"),
        ({"n_latents": 100}, "n_latents"),
        ({"prompts": PROMPTS[:1]}, "at least two"),
        ({"groups": [1, 2]}, "one label a prompt"),
        ({"outcomes": ["joy"]}, "were not measured"),
        ({"outcome": lambda _m, _p: {"a": [1.0]}}, "8 finite values"),
    ],
)
def test_bad_input(tiny_lm, tiny_sae, kwargs, message):
    given = {"strengths": [1.0], "prompts": PROMPTS, "outcome": OUTCOME, **kwargs}
    with pytest.raises(ValueError, match=message):
        dose_response(tiny_lm, tiny_sae, 3, **given)


def test_bad_texts(tiny_lm):
    with pytest.raises(ValueError, match="two tokens or more"):
        score_texts(tiny_lm, ["parcel"], {})
    with pytest.raises(ValueError, match="taken"):
        score_texts(tiny_lm, PROMPTS, {"unedited": None})
    with pytest.raises(ValueError, match="choices is empty"):
        choice_logprobs(tiny_lm, PROMPTS, [])
    with pytest.raises(ValueError, match="prompt is empty"):
        choice_logprobs(tiny_lm, [""], ["yes"])
