"""Puts the numbers of docs/results/replacement.json into docs/circuits.md, in the blocks of these names."""

from __future__ import annotations

from typing import Any

from sparse_sae._io.documents import table

Result = dict[str, Any]
NAMES = {
    "transcoders": "skip transcoders, MLPs",
    "staged": "affine map first, then a transcoder of the rest, MLPs",
    "staged linear": "the affine maps alone, MLPs",
    "plain": "SAEs, residual stream",
    "residual": "ReSAE, residual stream",
    "residual linear": "lowest SAE, affine maps alone above",
}


def contents(result: Result, names: list[str]) -> dict[str, str]:
    """Block -> what the result says, for those of `names` that are this study's."""
    return {name: SECTIONS[name](result) for name in names if name in SECTIONS}


def joint(r: Result) -> str:
    """All places at once, a row a variant."""
    rows = []
    for name, found in r["variants"].items():
        j = found["joint"]
        rows.append(
            [
                NAMES[name],
                len(j["hooks"]),
                f"{_median(_fvu(score, name) for score in found['scores']):.3f}",
                f"{j['loss_dictionary']:.3f}",
                f"{j['loss_with_errors']:.3f}",
                f"{j['loss_mean']:.3f}",
                _share(j["recovered_mean"]),
                f"{j['kl_dictionary']:.3f}",
            ]
        )
    first = next(iter(r["variants"].values()))["joint"]
    head = ["in place", "places", "median FVU", "CE", "with errors", "CE, means", "recovered", "KL"]
    return (
        f"{r['model']}, {r['d_sae']:,} latents, k = {r['k']}, {r['n_tokens']:,} rows of {r['capture_tokens']:,} "
        f"captured tokens each. {first['tokens']:,} predicted tokens of {r['documents']} held-out documents, on which "
        f"the model's cross-entropy (CE) is {first['loss']:.3f}.\n\n" + table(head, rows)
    )


def layers(r: Result) -> str:
    """Each MLP alone."""
    variants = {name: r["variants"][name] for name in ("transcoders", "staged") if name in r["variants"]}
    return _alone(variants, r, "layer")


def sites(r: Result) -> str:
    """Each place of the residual stream alone."""
    variants = {name: r["variants"][name] for name in ("plain", "residual") if name in r["variants"]}
    return _alone(variants, r, "after layer")


def verdict(r: Result) -> str:
    """What the residual recipe changed, in words that the numbers choose."""
    lines = []
    for plain, other, what in (
        ("plain", "residual", "ReSAE on the residual stream"),
        ("transcoders", "staged", "the affine map first, for transcoders"),
    ):
        if plain not in r["variants"] or other not in r["variants"]:
            continue
        a, b = r["variants"][plain], r["variants"][other]
        better = sum(
            y["loss_dictionary"] < x["loss_dictionary"] for x, y in zip(a["each"], b["each"], strict=True)
        )
        gain = b["joint"]["recovered_mean"] - a["joint"]["recovered_mean"]
        word = "helped" if gain > 0.005 else "hurt" if gain < -0.005 else "made no difference"
        lines.append(
            f"- {what[0].upper()}{what[1:]}: all at once it recovers {_share(b['joint']['recovered_mean'])} in place "
            f"of {_share(a['joint']['recovered_mean'])} ({word}); alone, the loss is lower at {better} of "
            f"{len(a['each'])} places."
        )
    return "\n".join(lines)


def _alone(variants: dict[str, Any], r: Result, first: str) -> str:
    head = [first, "CE, mean"]
    for name in variants:
        short = {"transcoders": "skip", "staged": "affine first", "plain": "SAE", "residual": "ReSAE"}[name]
        head += [f"{short}: FVU", "CE", "with errors", "recovered"]
    rows = []
    for number in range(len(next(iter(variants.values()))["each"])):
        cells: list[Any] = []
        for found in variants.values():
            one, score = found["each"][number], found["scores"][number]
            cells = cells or [one["hooks"][0].split(".")[1], f"{one['loss_mean']:.3f}"]
            cells += [
                f"{score['fvu']:.3f}",
                f"{one['loss_dictionary']:.3f}",
                f"{one['loss_with_errors']:.3f}",
                _share(one["recovered_mean"]),
            ]
        rows.append(cells)
    return table(head, rows)


def _fvu(score: dict[str, Any], variant: str) -> float:
    linear = score.get("fvu_affine") if "linear" in variant else None
    return float(score["fvu"] if linear is None else linear)


def _median(values: Any) -> float:
    ordered = sorted(values)
    return float(ordered[len(ordered) // 2])


def _share(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


SECTIONS = {
    "replacement-joint": joint,
    "replacement-verdict": verdict,
    "replacement-layers": layers,
    "replacement-sites": sites,
}
