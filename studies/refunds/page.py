"""Puts the numbers of docs/results/refunds.json into docs/refunds.md, in the blocks of these names."""

from __future__ import annotations

from typing import Any

from sparse_sae._io.documents import table

Result = dict[str, Any]


def contents(result: Result, names: list[str]) -> dict[str, str]:
    """Block -> what the result says, for those of `names` that are this study's."""
    return {name: SECTIONS[name](result) for name in names if name in SECTIONS}


def setup(r: Result) -> str:
    """Model, SAE, prompt, and how the unsteered model decides."""
    s, own = r["sae"], r["own_decisions"]
    excluded = ", ".join(f"{count} {kind}" for kind, count in s["excluded"].items())
    rates = ", ".join(f"{name} {rate:.0%}" for name, rate in own["rates"].items())
    return (
        f"Model {r['model']}, hook point `{r['hook']}`. SAE: {s['architecture']}, {s['d_sae']:,} latents, "
        f"trained on {s['tokens']:,} tokens (left out: {excluded}); held-out FVU {s['fvu']:.3f}, "
        f"L0 {s['l0']:.1f}; {s['dead_fraction']:.1%} of the latents never fire on held-out text.\n\n"
        f"System prompt: “{r['system']}” Decisions of the unsteered model on {own['tickets']} held-out tickets, "
        f"each answer's mean log-probability on training tickets subtracted: {rates}. A refund is due in "
        f"{own['due']:.0%} of them (late, and asked for). The AUROC with which the probability of approval tells "
        f"these from the others is {own['auroc_approve_when_due']:.2f}; chance is 0.5."
    )


def command(r: Result) -> str:
    """The command line of this result."""
    options = [
        f"--{k.replace('_', '-')}" + ("" if v is True else f" {v}")
        for k, v in r["arguments"].items()
        if v is not None and v is not False
    ]
    steering = r["steering_cpu_seconds"]
    return (
        f"```\npython studies/refunds/run.py {' '.join(options)}\n```\n\n"
        f"Steering on {r['tickets']:,} held-out tickets, side effects included, took {steering / 60:.0f} CPU minutes; "
        f"at that rate 10,000 tickets would take {steering / r['tickets'] * 10_000 / 3600:.0f} CPU hours."
    )


def quality(r: Result) -> str:
    """Loss recovered, with and without the excluded positions."""
    rows = [
        [
            row["positions"],
            *(f"{row[key]:.3f}" for key in ("loss", "loss_sae", "loss_mean", "loss_zero")),
            *(_share(row[key]) for key in ("recovered_mean", "recovered_zero")),
            f"{row['kl_sae']:.3f}",
        ]
        for row in r["on_model"]
    ]
    head = [
        "replaced",
        "CE",
        "CE, SAE",
        "CE, mean",
        "CE, zero",
        "recovered (mean)",
        "recovered (zero)",
        "KL, SAE",
    ]
    first = r["on_model"][0]
    return table(head, rows) + (
        f"\n\n{first['tokens']:,} predicted tokens of held-out English text. The row “kept” leaves "
        f"{first['first']} first positions and {first['massive']} massive activations as the model made them."
    )


def _share(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def labels(r: Result) -> str:
    """The best neuron, latent and random direction for each label; the random-weights control if it was run."""
    kinds = ["neuron", "latent", "random direction"]

    def rows(detected: Result) -> list[list[str]]:
        return [
            [
                name,
                *(
                    f"{found[k]['auroc']:.3f} ({'+-'[found[k]['sign'] < 0]}{found[k]['index']})"
                    for k in kinds
                ),
            ]
            for name, found in detected.items()
        ]

    head = ["AUROC on held-out tickets (sign, which)", *kinds]
    text = table(head, rows(r["labels"]))
    text += (
        f"\n\n{r['train_tickets']} tickets to choose on, {r['scored_for_auroc']} held-out ones to score on."
    )
    control = r["random_weights"]
    if control is not None:
        text += f"\n\nThe same recipe on the model with random weights (held-out FVU {control['sae']['fvu']:.3f}):\n\n"
        text += table(head, rows(control["labels"]))
    return text


def refusal(r: Result) -> str:
    """The latents behind one sentence."""
    found = r["refusal"]
    rows = [
        [
            str(e["latent"]),
            f"{e['ablation']:+.3f}",
            f"{e['estimate']:+.3f}",
            ", ".join(
                f"`{p['token'].strip() or repr(p['token'])[1:-1]}` at {p['position']}: {p['activation']:.0f}"
                for p in e["places"]
            ),
        ]
        for e in found["effects"][:8]
    ]
    agreement = found["agreement"]
    correlate = "" if agreement is None else f" Estimate and ablation correlate at {agreement:.2f}."
    return (
        f"{found['target']} = {found['value']:.2f}\n\n"
        + table(["latent", "ablation", "estimate", "strongest at (token, position, activation)"], rows)
        + f"\n\nFirst-order effect of what the SAE does not reconstruct: {found['error_estimate']:+.2f}.{correlate}"
    )


def drivers(r: Result) -> str:
    """The latents behind No against Yes, over several tickets."""
    n = r["explained_tickets"]
    rows = [[str(d["latent"]), f"{d['effect']:+.4f}", f"{d['prompts']} of {n}"] for d in r["drivers"]]
    return table(["latent", "mean effect on logit(No) - logit(Yes)", "among the ten ablated in"], rows)


def changes(r: Result) -> str:
    """What steering changed."""
    rows = []
    for c in r["changes"]:
        low, high = c["change_interval"]
        controls = f"{min(c['controls']):+.2f} … {max(c['controls']):+.2f}" if c["controls"] else "none"
        rows.append(
            [
                f"{r['latents'][c['latent']]} ({c['latent']})",
                f"{c['strength']:+.0f}",
                c["outcome"],
                f"{c['before']:.2f} → {c['after']:.2f}",
                f"{c['change']:+.2f} [{low:+.2f}, {high:+.2f}]",
                f"{c['p_holm']:.2g}",
                f"{c['p_bh']:.2g}",
                controls,
                f"{c['p_against_controls']:.2f}",
            ]
        )
    head = [
        "latent",
        "strength",
        "outcome",
        "rate",
        "change [95 %]",
        "p (Holm)",
        "p (BH)",
        "controls",
        "p vs. controls",
    ]
    n = len(r["changes"][0]["controls"])
    return table(head, rows) + (
        f"\n\n{r['changes'][0]['n']} held-out tickets, paired; strengths are multiples of the unit decoder row, and "
        f"the median norm of the residual stream is {r['median_norm']:.0f}. {n} controls of equal norm, half of them "
        f"random directions and half random latents, so p against them cannot be below {1 / (n + 1):.2f}."
    )


def side_effects(r: Result) -> str:
    """What steering does to neutral text."""
    rows = {}
    for c in r["changes"]:
        own, others = f"{c['kl']:.3f}", f"{min(c['kl_controls']):.3f} … {max(c['kl_controls']):.3f}"
        name = f"{r['latents'][c['latent']]} ({c['latent']})"
        rows[c["latent"], c["strength"]] = [
            name,
            f"{c['strength']:+.0f}",
            f"{c['perplexity']:.1f}",
            own,
            others,
        ]
    head = ["latent", "strength", "perplexity", "KL, nats a token", "KL of the controls"]
    plain = r["changes"][0]["perplexity_unsteered"]
    return f"Unsteered perplexity: {plain:.1f}.\n\n" + table(head, list(rows.values()))


def verdict(r: Result) -> str:
    """What of the table counts as a finding, by a rule fixed beforehand."""
    least = 1 / (1 + len(r["changes"][0]["controls"]))
    sure = [c for c in r["changes"] if c["p_holm"] < 0.05]
    beyond = [c for c in sure if c["p_against_controls"] <= least + 1e-9]
    named = [
        f"latent {r['latents'][c['latent']]} at {c['strength']:+.0f}, {c['outcome']} {c['change']:+.2f}"
        for c in beyond
    ]
    return (
        f"Of {len(r['changes'])} tests, {len(sure)} have an adjusted p (Holm) below 0.05. In {len(beyond)} of these "
        f"the change is also larger than under every control of equal norm: {'; '.join(named) or 'none'}."
    )


def figure(_: Result) -> str:
    """The plot that the study wrote."""
    return "![Outcome against strength: latent blue, random directions grey, random latents olive](figures/refunds.png)"


SECTIONS = {
    "figure": figure,
    "command": command,
    "setup": setup,
    "quality": quality,
    "labels": labels,
    "refusal": refusal,
    "drivers": drivers,
    "changes": changes,
    "side-effects": side_effects,
    "verdict": verdict,
}
