"""Puts the numbers of docs/results/residual_recipe.json into docs/circuits.md, in the block `recipe`."""

from __future__ import annotations

from typing import Any

from sparse_sae._io.documents import table

Result = dict[str, Any]


def contents(result: Result, names: list[str]) -> dict[str, str]:
    """Block -> what the result says."""
    return {"recipe": recipe(result)} if "recipe" in names else {}


def recipe(r: Result) -> str:
    """Cross-entropy with each and with all in place, by recipe."""
    plain, residual = r["loss"]["plain"], r["loss"]["residual"]
    rows = [
        [f"layer {hook.split('.')[1]} alone", *(f"{loss[hook]:.2f}" for loss in (plain, residual)),
         f"{r['fvu']['plain'][hook]:.2f}", f"{r['fvu']['residual'][hook]:.2f}"]
        for hook in r["hooks"]
    ]  # fmt: skip
    rows.append(["all at once", f"{plain['joint']:.2f}", f"{residual['joint']:.2f}", "", ""])
    rows.append(["the affine maps alone, all at once", "", f"{residual['maps']:.2f}", "", ""])
    head = [
        "in place",
        "CE, SAEs of the stream",
        "CE, maps and SAEs of the rest",
        "FVU",
        "FVU, maps and SAEs",
    ]
    loss = r["loss"]["model"]
    return (
        table(head, rows)
        + f"\n\nThe model's own cross-entropy is {loss:.2f} ({r['model']}, {r['eval_tokens']:,} held-out tokens). "
        f"TopK, k = {r['k']}, {r['d_sae']:,} latents, {r['trained']:,} rows drawn from {r['rows']:,}, one seed. FVU is "
        "of the stream in both columns."
    )
