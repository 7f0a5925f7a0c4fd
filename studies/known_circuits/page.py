"""Puts the numbers of docs/results/known_circuits.json into docs/circuits.md, in the blocks of these names."""

from __future__ import annotations

from typing import Any

from sparse_sae._io.documents import table

Result = dict[str, Any]


def contents(result: Result, names: list[str]) -> dict[str, str]:
    """Block -> what the result says, for those of `names` that are this study's."""
    return {name: SECTIONS[name](result) for name in names if name in SECTIONS}


def known(r: Result) -> str:
    """What is known beside what is found, one row each."""
    i, t, h = r["induction"], r["trained"], r["heads"]
    programs = [
        [
            f"a program wired into a GPT-2: {name}",
            f"{p['edges']} edges on {p['prompts']} prompts",
            f"least edge F1 {p['f1_least']:.2f}, ablated edges in the frozen model r ≥ {p['frozen_least']:.3f}",
        ]
        for name, p in r["programs"].items()
    ]
    random = h["without_random"]
    return table(
        ["model", "known", "found"],
        [
            [
                "induction wired into a Llama",
                "edges, two heads, the feature that draws the second",
                f"least edge F1 {i['f1_least']:.2f} on {i['prompts']} prompts, heads {_heads(i['previous'])} and "
                f"{_heads(i['induction'])}, the drawing pair in {i['pair_found']} of {i['prompts']}",
            ],
            *programs,
            [
                f"2 layers trained to repeat, accuracy {t['accuracy']:.2f}",
                "a feature of the letter before, made by a head that looks one place back",
                f"the strongest feature is that in {t['right']} of {t['pairs']} pairs; CPR {t['cpr']['features']:.2f} "
                f"(neurons {t['cpr']['neurons']:.2f}, random directions {t['cpr']['random']:.2f})",
            ],
            [
                "the same",
                "the induction head is drawn by the letter before",
                f"in {t['qk']['from_letter']} of {t['qk']['prompts']} prompts, through a head that looks back in "
                f"{t['qk']['through_back']}",
            ],
            [
                h["model"],
                "induction heads are what repeats",
                f"{len(h['heads'])} heads by prefix matching (best {max(h['prefix_matching']):.2f}, chance "
                f"{h['chance']:.2f}); loss of a repetition {h['loss']:.2f}, without the best {h['taken_out']} "
                f"{h['without']:.2f}, without others {min(random):.2f} to {max(random):.2f}",
            ],
        ],
    )


def _heads(heads: list[list[int]]) -> str:
    return ", ".join(".".join(map(str, head)) for head in heads)


def pairs(result: Result) -> str:
    """What the model does, and the SAEs."""
    r = result["agreement"]
    train, held_out = r["pairs"]["train"], r["pairs"]["held_out"]
    fvu = list(r["fvu"].values())
    layers = ", ".join(hook.split(".")[1] for hook in r["hooks"])
    return (
        f"{r['model']} does both prompts of {train['right']} of {train['asked']} pairs to find the circuit on, and of "
        f"{held_out['right']} of {held_out['asked']} with other nouns to confirm it on "
        f"({held_out['prompts_right']:.0%} of the prompts); on those the right verb leads by "
        f"{train['margin']:.2f} and {held_out['margin']:.2f} logits. "
        f"SAEs of the residual stream after layers {layers}, {r['d_sae']:,} latents, k = 32, {r['tokens']:,} rows of "
        f"{r['capture_tokens']:,} captured tokens each; held-out FVU {min(fvu):.2f} to {max(fvu):.2f}."
    )


def circuits(result: Result) -> str:
    """Circuits by size, on the nouns they were found on and on others."""
    r = result["agreement"]
    kinds = r["kinds"]
    rows = []
    for key, text in (("train", "same nouns"), ("held_out", "other nouns")):
        for number, size in enumerate(kinds["features"][key]["nodes"]):
            cells = [
                f"{k[key]['faithfulness'][number]:.2f} / {k[key]['completeness'][number]:.2f}"
                for k in kinds.values()
            ]
            rows.append([size, text, *cells])
    c = r["chance"]
    random = c["faithfulness"]
    return (
        table(["nodes", "pairs", *({"random": "random directions"}.get(k, k) for k in kinds)], rows)
        + f"\n\n{len(random)} random circuits with as many features at the same places as the circuit of {c['nodes']} "
        f"nodes has ({kinds['features']['errors']} of these are errors, and kept) reach {min(random):.2f} to "
        f"{max(random):.2f} on the other nouns, p = {c['p']:.3f}."
    )


def shown(result: Result) -> str:
    """The strongest nodes and edges."""
    s = result["agreement"]["shown"]
    nodes = [[_short(name), f"{effect:+.2f}"] for name, effect in s["nodes"]]
    edges = [[f"{_short(below)} → {_short(above)}", f"{value:+.2f}"] for value, below, above in s["edges"]]
    places = ", ".join(
        f"{n} {' + '.join(map(str, counts))}"
        for n, counts in zip(
            ("subject", "preposition", "“the”", "attractor"), s["by_position"].values(), strict=True
        )
    )
    return (
        f"Of {s['pairs']} pairs, by place and layer: {places}.\n\n"
        + table(["node", "effect"], nodes)
        + "\n\n"
        + table(["edge", "effect through it"], edges)
    )


def _short(name: str) -> str:
    """blocks.9.hook_resid_post/17 at 1 -> L9/17 at 1."""
    return "L" + name.removeprefix("blocks.").replace(".hook_resid_post", "")


SECTIONS = {
    "known": known,
    "agreement": pairs,
    "agreement-circuits": circuits,
    "agreement-nodes": shown,
}
