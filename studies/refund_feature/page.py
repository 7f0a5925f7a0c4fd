"""Puts the numbers of docs/results/refund_feature.json into docs/refunds.md, in the blocks of these names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sparse_sae._io.documents import table

Result = dict[str, Any]
AIM, TOP = 0.9, 0.8
TARGETS = {"label": "means", "topic": "speaks of"}


def contents(result: Result, names: list[str]) -> dict[str, str]:
    """Block -> what the result says, for those of `names` that are this study's."""
    return {name: SECTIONS[name](result) for name in names if name in SECTIONS}


def command(r: Result) -> str:
    """The command line, and what was read."""
    a, t = r["arguments"], r["tokens"]
    given = {
        "layers": a["layers"],
        "widths": a["widths"],
        "seeds": [a["seeds"]],
        "directions": [a["directions"]],
        "passes": [a["passes"]],
    }
    options = " ".join(f"--{name} {' '.join(map(str, values))}" for name, values in given.items())
    done, planned = len(r["rows"]), planned_rows(a)
    return (
        f"```\npython studies/refund_feature/run.py {options}\n```\n\n"
        f"{a['tickets']:,} development and {a['tickets']:,} held-out tickets; {done} of {planned} SAEs of the grid "
        f"are there, each with k = {r['k']}, trained {a['passes']} times over {t['training']:,} tokens ({a['read']:,} "
        f"other tickets in the words of development, and English prose). {a['neutral']} pieces of prose are held out."
        + missing(r)
    )


def missing(r: Result) -> str:
    """What of the grid is not there yet, in words."""
    done = {(row["layer"], row["width"], row["architecture"]) for row in r["rows"]}
    absent = [
        f"layer {layer} with {width:,} {name}"
        for layer, width, name in settings_of(r["arguments"])
        if (layer, width, name) not in done
    ]
    absent += [] if "random_weights" in r else ["the model with random weights"]
    return f"\n\nNot run yet: {'; '.join(absent)}." if absent else ""


def settings_of(a: Result) -> list[tuple[int, int, str]]:
    """(layer, width, architecture) of the whole grid: every architecture in every layer, and in every width at the
    first layer. The first setting is the one that most tables are of: TopK, which is always there.
    """
    layers, (width, *wider) = a["layers"], a["widths"]
    names = ["TopK", *(name for name in a["architectures"] if name != "TopK")]
    places = [(layer, width) for layer in layers] + [(layers[0], w) for w in wider]
    return [(layer, w, name) for name in names for layer, w in places]


def planned_rows(a: Result) -> int:
    """SAEs of the whole grid."""
    return int(a["seeds"] * len(settings_of(a)))


def first(r: Result) -> dict[str, Any]:
    """The rows of the setting that the table of kinds is about."""
    a = r["arguments"]
    return {"layer": a["layers"][0], "width": a["widths"][0], "architecture": "TopK"}


def settings(r: Result) -> Iterator[tuple[dict[str, Any], list[Result]]]:
    """Each (layer, width, architecture) with its rows, one a seed."""
    seen = []
    for row in r["rows"]:
        key = {name: row[name] for name in ("layer", "width", "architecture")}
        if key not in seen:
            seen.append(key)
    for key in sorted(
        seen, key=lambda k: (k["architecture"] != "TopK", k["width"], k["layer"], k["architecture"])
    ):
        yield key, [row for row in r["rows"] if all(row[k] == v for k, v in key.items())]


def mean(values: list[float]) -> float:
    """Over seeds."""
    return float(np.mean(values))


def span(e: Result) -> str:
    """A value and its interval."""
    return f"{e['value']:.2f} [{e['low']:.2f}, {e['high']:.2f}]"


def spread(values: list[float]) -> str:
    """The mean over seeds, and their range."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{mean(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def kinds(r: Result) -> str:
    """Every kind of detector at the first setting, held-out AUROC with interval, for labels and for topics."""
    key = first(r)
    rows = [row for row in r["rows"] if all(row[k] == v for k, v in key.items())]
    own, base = rows[0], r["layers"][str(key["layer"])]
    random = r.get("random_weights")
    parts = []
    for target, verb in TARGETS.items():
        body = []
        for label in base[target]:
            of = base[target][label] | {
                k: own[target][label][k] for k in ("latent", "2 latents", "5 latents")
            }
            cells = [span(of[k]["auroc"]) for k in KINDS if k in of]
            chance = span(random[target][label]["latent"]["auroc"]) if random else "not run"
            body.append([label, *cells, chance])
        head = [f"what the ticket {verb}", *KINDS, "latent, random weights"]
        parts.append(table(head, body))
    return (
        f"Layer {key['layer']}, {key['width']:,} latents, TopK, seed {own['seed']}. "
        "AUROC on held-out tickets [95 % over sentences].\n\n" + "\n\n".join(parts)
    )


KINDS = ["neuron", "PCA direction", "random direction", "latent", "2 latents", "5 latents", "dense probe"]


def precision(r: Result) -> str:
    """Average precision, the difference to the neuron with its interval, and the words of development."""
    key = first(r)
    rows = [row for row in r["rows"] if all(row[k] == v for k, v in key.items())]
    body = []
    for target in TARGETS:
        for label in rows[0][target]:
            of = [row[target][label] for row in rows]
            one = of[0]
            body.append(
                [
                    f"{label} ({target})",
                    span(one["latent"]["average_precision"]),
                    span(one["neuron"]["average_precision"]),
                    span(one["latent"]["auroc_difference"]),
                    spread([o["latent"]["auroc"]["value"] for o in of]),
                    spread([o["latent"]["auroc_seen_words"] for o in of]),
                    spread([o["latent"]["bound"] for o in of]),
                ]
            )
    head = [
        "label or topic",
        "average precision, latent",
        "neuron",
        "AUROC, latent − neuron",
        f"AUROC over {len(rows)} seeds",
        "in words of development",
        "best latent in hindsight",
    ]
    return table(head, body)


def exclusively(r: Result) -> str:
    """Where the chosen latent fires."""
    key = first(r)
    row = next(row for row in r["rows"] if all(row[k] == v for k, v in key.items()))
    body = []
    for target in TARGETS:
        for label, of in row[target].items():
            one, seen = of["latent"]["specificity"]["held-out"], of["latent"]["specificity"]["read"]
            body.append(
                [
                    f"{label} ({target})",
                    str(of["latent"]["units"][0]),
                    share(one["recall"]),
                    share(one["precision"]),
                    share(one["top_share"]),
                    share(one["without"]),
                    share(max(one["others"].values())),
                    share(one["neutral"]),
                    f"{share(seen['precision'])}, {share(seen['top_share'])}",
                ]
            )
    head = [
        "label or topic",
        "latent",
        "fires, of those with it",
        "precision",
        "with it, of the top 100",
        "fires, of those without",
        "at most, of those with another label and not this",
        "fires, English",
        "precision and top 100 in words of development",
    ]
    return table(head, body)


def share(value: float | None) -> str:
    """A percentage."""
    return "undefined" if value is None else f"{value:.0%}"


def aims(row: Result, target: str, label: str) -> tuple[bool, bool, bool]:
    """Whether the AUROC is reached, the interval of latent − neuron is above 0, and the top contexts carry it."""
    of = row[target][label]["latent"]
    return (
        of["auroc"]["value"] >= AIM,
        of["auroc_difference"]["low"] > 0,
        of["specificity"]["held-out"]["top_share"] >= TOP,
    )


def in_known_words(of: Result) -> bool:
    """Whether AUROC and top contexts are reached on fresh tickets in the words that the latent was chosen by."""
    return bool(of["auroc_seen_words"] >= AIM and of["specificity"]["read"]["top_share"] >= TOP)


def grid(r: Result) -> str:
    """Every setting: quality, and the mean held-out AUROC of the best latent for each label and topic."""
    body = []
    for key, rows in settings(r):
        labels = list(rows[0]["label"])
        cells = [
            f"{mean([row['label'][name]['latent']['auroc']['value'] for row in rows]):.2f}, "
            f"{mean([row['topic'][name]['latent']['auroc']['value'] for row in rows]):.2f}"
            for name in labels
        ]
        met = [
            sum(all(aims(row, target, name)) for row in rows for name in labels) / len(rows)
            for target in TARGETS
        ]
        body.append(
            [
                f"{key['layer']}, {key['width']:,}, {key['architecture']}",
                str(len(rows)),
                f"{mean([row['fvu'] for row in rows]):.3f}",
                f"{mean([row['dead_fraction'] for row in rows]):.0%}",
                *cells,
                ", ".join(f"{value:.1f}" for value in met),
            ]
        )
    head = [
        "layer, latents, architecture",
        "seeds",
        "FVU",
        "never fire",
        *r["rows"][0]["label"],
        "aim met, of 5",
    ]
    return table(head, body) + (
        "\n\nEach cell: AUROC of the best latent on held-out tickets for the label, for the topic, means over seeds. "
        f"The aim: AUROC of at least {AIM}, the interval of its difference to the best neuron above 0, and at least "
        f"{TOP:.0%} of the top 100 texts with the label (or topic)."
    )


def budget(r: Result) -> str:
    """The first setting by the amount of data and of training."""
    own = next(row for row in r["rows"] if all(row[k] == v for k, v in first(r).items()))
    usual = {"passes": r["arguments"]["passes"], "rows": r["tokens"]["training"]} | own
    body = []
    for row in sorted([usual, *r.get("budgets", [])], key=lambda row: (row["rows"], row["passes"])):
        pairs = [
            ", ".join(f"{row[target][name]['latent']['auroc']['value']:.2f}" for target in TARGETS)
            for name in row["label"]
        ]
        met = [sum(all(aims(row, target, name)) for name in row["label"]) for target in TARGETS]
        body.append(
            [f"{row['rows']:,}", str(row["passes"]), f"{row['fvu']:.3f}", *pairs, ", ".join(map(str, met))]
        )
    head = ["tokens", "passes", "FVU", *own["label"], "aim met, of 5"]
    return table(head, body)


def verdict(r: Result) -> str:
    """Where the aim holds and by what it fails, over all rows."""
    lines = []
    for target, verb in TARGETS.items():
        for label in r["rows"][0][target]:
            met = np.array([aims(row, target, label) for row in r["rows"]])
            whole = [row for row, m in zip(r["rows"], met, strict=True) if m.all()]
            known = sum(in_known_words(row[target][label]["latent"]) for row in r["rows"])
            seen = mean([row[target][label]["latent"]["auroc_seen_words"] for row in r["rows"]])
            here = mean([row[target][label]["latent"]["auroc"]["value"] for row in r["rows"]])
            bound = max(row[target][label]["latent"]["bound"] for row in r["rows"])
            where = sorted({f"{row['layer']}/{row['width']:,}/{row['architecture']}" for row in whole})
            lines.append(
                [
                    f"{verb} {label}",
                    f"{met.all(1).sum()} of {len(met)}",
                    *(str(int(m)) for m in met.sum(0)),
                    str(known),
                    f"{seen:.2f} → {here:.2f}",
                    f"{bound:.2f}",
                    ", ".join(where[:3]) + (f" and {len(where) - 3} more" if len(where) > 3 else "")
                    or "nowhere",
                ]
            )
    head = [
        "the ticket",
        "SAEs that meet the aim",
        f"AUROC ≥ {AIM}",
        "above the neuron",
        f"top 100 ≥ {TOP:.0%}",
        "both in the words of development",
        "AUROC, words of development → unseen words (means)",
        "best of all in hindsight",
        "where",
    ]
    return table(head, lines)


def met(r: Result) -> str:
    """Every latent that meets the aim, and where else it fires."""
    found = [
        (key, row, f"{TARGETS[target]} {label}", row[target][label]["latent"])
        for key, rows in settings(r)
        for row in sorted(rows, key=lambda row: row["seed"])
        for target in TARGETS
        for label in row[target]
        if all(aims(row, target, label))
    ]
    body = []
    for key, row, ticket, of in found:
        one = of["specificity"]["held-out"]
        body.append(
            [
                f"{key['layer']}, {key['width']:,}, {key['architecture']}",
                str(row["seed"]),
                str(of["units"][0]),
                ticket,
                span(of["auroc"]),
                span(of["auroc_difference"]),
                *(share(one[name]) for name in ("recall", "precision", "top_share", "without", "neutral")),
                f"{of['auroc_seen_words']:.2f}",
            ]
        )
    head = [
        "layer, latents, architecture",
        "seed",
        "latent",
        "the ticket",
        "AUROC",
        "latent − neuron",
        "fires, of those with it",
        "precision",
        "with it, of the top 100",
        "fires, of those without",
        "fires, English",
        "AUROC in words of development",
    ]
    cells = sum(len(row[target]) for row in r["rows"] for target in TARGETS)
    return table(head, body) + f"\n\n{len(body)} of {cells} choices of a latent meet the aim."


SECTIONS = {
    "feature-command": command,
    "feature-kinds": kinds,
    "feature-precision": precision,
    "feature-exclusively": exclusively,
    "feature-grid": grid,
    "feature-budget": budget,
    "feature-verdict": verdict,
    "feature-met": met,
}
