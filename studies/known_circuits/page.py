"""Puts the numbers of docs/results/known_circuits.json into docs/circuits.md, in the blocks of these names."""

from __future__ import annotations

from typing import Any

from sparse_sae._io.documents import table

Result = dict[str, Any]


def contents(result: Result, names: list[str]) -> dict[str, str]:
    """Block -> what the result says, for those of `names` that are this study's and were run."""
    return {
        block: write(result[part])
        for block, (part, write) in SECTIONS.items()
        if block in names and part in result
    }


def pairs(r: Result) -> str:
    """What the model does, and the SAEs."""
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


def circuits(r: Result) -> str:
    """Circuits by size, on the nouns they were found on and on others."""
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


def shown(r: Result) -> str:
    """The strongest nodes and edges."""
    s = r["shown"]
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
    "agreement": ("agreement", pairs),
    "agreement-circuits": ("agreement", circuits),
    "agreement-nodes": ("agreement", shown),
}
