"""Puts the numbers of docs/results/refund_steering*.json into docs/refunds.md, in the blocks of these names."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from sparse_sae._io.documents import table
from sparse_sae.lm.studies.significance import bootstrap_mean
from sparse_sae.probing import auroc

Result = dict[str, Any]
COST = 0.05  # nats a token on neutral text that a dose may cost
BEYOND = 0.95  # of the controls
DRAWS = 1000


def contents(results: dict[str, Result], names: list[str]) -> dict[str, str]:
    """Block -> what a result says, for those of `names` that are this study's: a result's name, and a section's."""
    found = {}
    for name in names:
        of, _, section = name.partition("-")
        if of in results and section in SECTIONS:
            there = all(is_there(results[of], part) for part in NEEDS.get(section, ()))
            found[name] = SECTIONS[section](results[of]) if there else "*This part has not been run.*"
    return found


def is_there(result: Result, part: str) -> bool:
    """Whether a part of the study is done (the controls may be there in part)."""
    return part in result and (part not in ("controls", "inside") or "changes" in result[part])


def judge(r: Result) -> str:
    """The command, the judge, and how well it judges."""
    a, j = r["arguments"], r["judge"]
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in a.items())
    if "detector" in a:  # not the study that the default result file is of
        options += " --json docs/results/refund_steering_found.json"
    shown = j["preface"].strip().replace("\n\n", " / ").replace("\n", " ")
    return (
        f"```\npython studies/refund_steering/run.py {options}\n```\n\n"
        f"Model {r['model']}, hook point `{r['hook']}`, {r['sae']['architecture']} SAE of {r['sae']['d_sae']:,} "
        f"latents. The judge reads “{shown}”, then “{j['before']}” and the two sentences of a ticket about refund "
        f"and delivery, then “{j['after'].strip()}”, and says{j['yes']} or{j['no']}. On {a['development']} development "
        f"tickets, on which its threshold was set, its AUROC is {j['auroc']:.2f}; on {j['held_out']} unsteered "
        f"held-out tickets {j['auroc_held_out']:.2f}, and {j['accuracy_held_out']:.0%} of its judgements are right."
    )


def gradient(r: Result) -> str:
    """First-order effects per unit of norm, of the arms among all living latents and random directions."""
    p = r["prepared"]
    latents, random = np.abs(p["effects"]), np.abs(p["random_effects"])
    body = []
    for name in p["arms"]:
        effect = p["arm_effects"][name]
        body.append(
            [
                name,
                f"{effect:+.4f}",
                f"{effect * p['typical']:+.2f}",
                f"{(latents < abs(effect)).mean():.0%}",
                f"{(random < abs(effect)).mean():.1%}",
            ]
        )
    head = [
        "direction",
        "effect on the margin per unit of norm",
        "times a typical activation",
        f"larger than, of {len(latents):,} living latents",
        f"of {len(random):,} random directions",
    ]
    return table(head, body) + (
        f"\n\nMedian size of the effect: {np.median(latents):.4f} for living latents, {np.median(random):.4f} for "
        f"random directions. A typical activation of the detector is {p['typical']:.1f} long, of the median living "
        f"latent {p['typical_of_living'][1]:.1f}; the residual stream's median norm is {p['residual_norm']:.0f}. The "
        f"detector's AUROC on development tickets is {p['detector_auroc_development']:.2f}."
    )


def percentiles(r: Result, name: str, kind: str, part: str = "controls") -> tuple[float, float, float]:
    """Share of the controls of a kind that an arm's change exceeds in size, and its interval over sentences."""
    c = r[part]
    names = [n for n in c["predicted"] if n.startswith(kind) and n.split()[1] not in name]
    table_ = np.array([c["changes"][n] for n in [name, *names]])
    _, place = np.unique(c["groups"], return_inverse=True)
    n_groups = int(place.max()) + 1
    rng = np.random.default_rng(0)
    weights = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), DRAWS)[:, place]
    means = np.abs(weights @ table_.T / weights.sum(1, keepdims=True))
    drawn = (means[:, 1:] < means[:, :1]).mean(1)
    whole = np.abs(table_.mean(1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float((whole[1:] < whole[0]).mean()), float(low), float(high)


def pushed(r: Result, part: str) -> tuple[str, dict[str, np.ndarray]]:
    """The table of real pushes of one typical activation, and the mean changes under the controls of each kind."""
    c = r[part]
    kinds = {
        kind: np.array([np.mean(c["changes"][n]) for n in c["predicted"] if n.startswith(kind)])
        for kind in ("latent", "direction")
    }
    body = []
    for name in r["prepared"]["arms"]:
        low, high = bootstrap_mean(c["changes"][name], groups=c["groups"])
        spans = [percentiles(r, name, kind, part) for kind in kinds]
        body.append(
            [
                name,
                f"{np.mean(c['changes'][name]):+.3f} [{low:+.3f}, {high:+.3f}]",
                *(f"{value:.0%} [{low:.0%}, {high:.0%}]" for value, low, high in spans),
            ]
        )
    head = [
        "direction",
        "change of the margin [95 %]",
        f"larger than, of {len(kinds['latent'])} latents",
        f"of {len(kinds['direction'])} random directions",
    ]
    return table(head, body), kinds


def controls(r: Result) -> str:
    """Real pushes of one typical activation."""
    c = r["controls"]
    made, kinds = pushed(r, "controls")
    real = np.array([np.mean(c["changes"][n]) for n in c["predicted"]])
    predicted = np.array(list(c["predicted"].values()))
    return made + (
        f"\n\n{c['tickets']} held-out tickets; every push has the norm {r['prepared']['typical']:.1f}. Mean size of "
        f"the change: {np.abs(kinds['latent']).mean():.3f} for latents, "
        f"{np.abs(kinds['direction']).mean():.3f} for random directions. The gradient's prediction on "
        f"development tickets correlates with it at {np.corrcoef(real, predicted)[0, 1]:.2f}."
    )


def inside(r: Result) -> str:
    """The same pushes where no answer is written."""
    made, kinds = pushed(r, "inside")
    return made + (
        f"\n\nThe same {r['inside']['tickets']} tickets and pushes. Mean size of the change: "
        f"{np.abs(kinds['latent']).mean():.3f} for latents, {np.abs(kinds['direction']).mean():.3f} for random "
        "directions."
    )


def doses(r: Result) -> str:
    """Margin, share of yes and cost of every arm at every dose, held-out tickets."""
    h, costs = r["held_out"], r.get("side_effects", {}).get("kl", {})
    plain = np.array(h["margins"]["unsteered"])
    body = []
    for name in r["prepared"]["arms"]:
        for dose in r["doses"]:
            cells = []
            for sign in (1, -1):
                values = np.array(h["margins"][f"{name} × {sign * dose:g}"])
                low, high = bootstrap_mean(values - plain, groups=h["groups"])
                cells.append(f"{(values - plain).mean():+.2f} [{low:+.2f}, {high:+.2f}]")
                cells.append(f"{(values > 0).mean():.0%}")
            kl = costs.get(f"{name} × {dose:g}")
            body.append([name, f"{dose:g}", *cells, "not run" if kl is None else f"{kl:.4f}"])
    head = [
        "direction",
        "typical activations",
        "margin, added [95 %]",
        "yes",
        "margin, subtracted [95 %]",
        "yes",
        "KL, neutral text",
    ]
    return table(head, body) + (
        f"\n\n{h['tickets']:,} held-out tickets, {np.mean(h['asked']):.0%} of which ask for a refund; unsteered, the "
        f"judge says yes to {(plain > 0).mean():.0%}. Doses are in typical activations of the detector for every "
        "direction."
    )


def final(r: Result) -> str:
    """One dose on many tickets, and the judge there."""
    h = r["final"]
    plain, asked = np.array(h["margins"]["unsteered"]), np.array(h["asked"], bool)
    right = ((plain > 0) == asked).mean()
    body = []
    for name in dict.fromkeys(key.rsplit(" × ", 1)[0] for key in h["margins"] if " × " in key):
        cells = []
        for sign in (1, -1):
            values = np.array(h["margins"][f"{name} × {sign}"])
            low, high = bootstrap_mean(values - plain, groups=h["groups"])
            cells += [
                f"{(values - plain).mean():+.3f} [{low:+.3f}, {high:+.3f}]",
                f"{(values > 0).mean():.1%}",
                f"{(np.sign(values - plain) == np.sign((values - plain).mean())).mean():.1%}",
            ]
        body.append([name, *cells])
    head = [
        "direction",
        "margin, added [95 %]",
        "yes",
        "moves so, of the tickets",
        "margin, subtracted [95 %]",
        "yes",
        "moves so, of the tickets",
    ]
    return table(head, body) + (
        f"\n\n{h['tickets']:,} held-out tickets, {asked.mean():.0%} of which ask for a refund. Unsteered, the judge "
        f"says yes to {(plain > 0).mean():.1%}, its AUROC is {auroc(plain, asked):.3f}, and {right:.0%} of its "
        "judgements are right."
    )


def monotone(r: Result) -> str:
    """Whether more is more, ticket by ticket."""
    h, body = r["held_out"], []
    for name in r["prepared"]["arms"]:
        steps = sorted([-d for d in r["doses"]] + r["doses"])
        values = np.array([h["margins"][f"{name} × {dose:g}"] for dose in steps])
        means = values.mean(1)
        sign = 1 if means[-1] >= means[0] else -1
        each = (sign * np.diff(values, axis=0) > 0).all(0).mean()
        body.append(
            [
                name,
                "up" if sign > 0 else "down",
                f"{spearmanr(steps, means).statistic:+.2f}",
                "yes" if (sign * np.diff(means) > 0).all() else "no",
                f"{each:.0%}",
            ]
        )
    head = [
        "direction",
        "adding it moves the margin",
        "Spearman, mean margin",
        "monotone in the mean",
        "in every ticket of",
    ]
    return table(head, body)


def side(r: Result) -> str:
    """What a nat of damage buys: the arms beside the controls at one typical activation."""
    c, s = r["controls"], r["side_effects"]

    def bought(name: str, key: str) -> float:
        return float(abs(np.mean(c["changes"][name])) / np.sqrt(s["kl"][key]))

    some = {
        kind: [n for n in s["kl"] if n.startswith(kind) and n in c["changes"]]
        for kind in ("latent", "direction")
    }
    others = {kind: np.array([bought(n, n) for n in names]) for kind, names in some.items()}
    body = [
        [
            name,
            f"{s['kl'][f'{name} × 1']:.4f}",
            f"{bought(name, f'{name} × 1'):.2f}",
            *(f"{(values < bought(name, f'{name} × 1')).mean():.0%}" for values in others.values()),
        ]
        for name in r["prepared"]["arms"]
    ]
    head = [
        "direction",
        "KL at one typical activation",
        "change of the margin / √KL",
        *(f"more than, of {len(v)} {kind}s" for kind, v in others.items()),
    ]
    return table(head, body) + (
        f"\n\nKL on {s['tokens']} predicted tokens of English prose, nats a token. A small push costs its square and "
        "moves the margin by itself, so change / √KL compares side effects at equal effect. Medians: "
        + ", ".join(f"{np.median(v):.2f} for {kind}s" for kind, v in others.items())
        + "."
    )


def verdict(r: Result) -> str:
    """The aim, arm by arm: beyond 95 % of the controls, interval included, at a dose that costs little."""
    lines = []
    for name in r["prepared"]["arms"]:
        cost = r["side_effects"]["kl"][f"{name} × 1"]
        spans = [percentiles(r, name, kind) for kind in ("latent", "direction")]
        reached = all(value >= BEYOND for value, _, _ in spans)
        sure = all(low >= BEYOND for _, low, _ in spans)
        lines.append(
            f"- {name}: {'beyond' if reached else 'not beyond'} {BEYOND:.0%} of the controls"
            f"{' (interval included)' if sure else ' (interval not included)' if reached else ''}, "
            f"at a cost of {cost:.4f} nats, which is {'below' if cost < COST else 'above'} {COST}."
        )
    return "\n".join(lines)


NEEDS = {
    "controls": ["controls"],
    "inside": ["inside"],
    "doses": ["held_out"],
    "monotone": ["held_out"],
    "final": ["final"],
    "side": ["controls", "side_effects"],
    "verdict": ["controls", "side_effects"],
}
SECTIONS = {
    "judge": judge,
    "gradient": gradient,
    "controls": controls,
    "inside": inside,
    "doses": doses,
    "monotone": monotone,
    "final": final,
    "side": side,
    "verdict": verdict,
}
