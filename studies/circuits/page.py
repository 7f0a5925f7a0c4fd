"""Puts the numbers of docs/results/circuits.json into docs/circuits.md, in the blocks of these names."""

from __future__ import annotations

from typing import Any

from sparse_sae._io.documents import table

Result = dict[str, Any]


def contents(result: Result, names: list[str]) -> dict[str, str]:
    """Block -> what the result says, for those of `names` that are this study's."""
    return {name: SECTIONS[name](result) for name in names if name in SECTIONS}


def dictionaries(r: Result) -> str:
    """The set, and what the model still says through it."""
    fvu = list(r["fvu"].values())
    joint = r["quality"][-1]
    mean = joint["recovered_mean"]
    return (
        f"{r['layers']} skip transcoders of {r['model']}, {r['d_sae']:,} latents each, k = 32, trained on "
        f"{r['tokens']:,} rows of {r['capture_tokens']:,} captured tokens. Held-out FVU {min(fvu):.2f} to "
        f"{max(fvu):.2f}, median {sorted(fvu)[len(fvu) // 2]:.2f}.\n\n"
        f"Cross-entropy on {joint['tokens']:,} held-out tokens: the model {joint['loss']:.2f}, all "
        f"{len(joint['hooks'])} transcoders at once {joint['loss_dictionary']:.2f}, with their errors added back "
        f"{joint['loss_with_errors']:.2f}, MLPs at their mean {joint['loss_mean']:.2f}, at zero "
        f"{joint['loss_zero']:.2f}. Loss recovered against the mean: "
        f"{'not defined' if mean is None else f'{mean:.2f}'}."
    )


def graphs(r: Result) -> str:
    """The two graphs and their confirmation."""
    both = [r[name] for name in ("refused", "approved")]
    rows = [
        ["word that was changed", *(g["word"] for g in both)],
        ["logit of No minus that of Yes", *(f"{g['value']:+.2f}" for g in both)],
        ["nodes, edges", *(f"{g['nodes']:,}, {g['edges']:,}" for g in both)],
        ["nodes kept, features among them", *(f"{g['kept_nodes']}, {g['kept_features']}" for g in both)],
    ]
    for key, text in (
        ("replacement", "replacement"),
        ("completeness", "completeness"),
        ("frozen", "edges in the frozen model, r"),
        ("attention", "edges under live attention, r"),
        ("nodes_r", "nodes in the model, r"),
        ("nodes_sign", "nodes in the model, same sign"),
        ("faithfulness", "faithfulness of the circuit, errors kept"),
        ("random", "of random circuits of its size"),
        ("p_random", "p"),
    ):
        rows.append([text, *(f"{g[key]:.3f}" for g in both)])
    return table(["", "refused", "approved"], rows)


def difference(r: Result) -> str:
    """Features whose influence differs most."""
    rows = [
        [
            f"L{d['feature'][0]}/{d['feature'][1]}",
            f"{d['refused']:.4f}",
            f"{d['approved']:.4f}",
            _cell(d["label"]),
        ]
        for d in r["difference"]
    ]
    s = r["shared"]
    return (
        f"The pruned graphs share {s['both']} latents, of {s['refused']} (refused) and {s['approved']} (approved).\n\n"
        + table(["feature", "influence, refused", "influence, approved", "fires on → promotes"], rows)
    )


def ablation(r: Result) -> str:
    """What taking the found features out does."""
    a = r["ablation"]
    rows = []
    for group in ("refused", "approved"):
        found, random = a["found"], a["random"]
        changes = random["change"][group]
        rows.append(
            [
                f"{group} ({a['prompts'][group]})",
                f"{a['before'][group]:+.2f}",
                f"{a['refused_share'][group]:.0%}",
                f"{found['change'][group][0]:+.3f}",
                f"{min(changes):+.3f} to {max(changes):+.3f}",
                f"{found['flipped'][group][0]:.0%}",
                f"{sum(random['flipped'][group]) / len(changes):.0%}",
            ]
        )
    head = [
        "prompts",
        "No − Yes",
        "refused",
        "change without the ten found",
        "without ten random ones (5 draws)",
        "decisions changed",
        "with random ones",
    ]
    return table(head, rows)


def near(r: Result) -> str:
    """The neighbours of the first feature by TWERA."""
    return f"```\n{r['neighbours']['text']}\n```"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


SECTIONS = {
    "dictionaries": dictionaries,
    "graphs": graphs,
    "difference": difference,
    "ablation": ablation,
    "near": near,
}
