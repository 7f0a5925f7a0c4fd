"""Puts docs/results/card.json into the block `card` of docs/language-models.md."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparse_sae._io.documents import table


def contents(card: dict[str, Any]) -> dict[str, str]:
    """Block -> what the card says."""
    q = card["quality"]
    trained = "not known" if card["tokens_trained"] is None else f"{card['tokens_trained']:,}"
    core = table(
        ["", "measured"],
        [
            ["SAE", f"`{card['sae']}` at `{card['hook']}`, trained on {trained} tokens"],
            ["L0 · dead · dense", f"{card['l0']:.1f} · {card['dead_fraction']:.1%} · {card['dense']:.1%}"],
            [
                f"FVU · cosine · shrinkage, {card['n_rows']:,} activations",
                f"{card['fvu']:.3f} · {card['cosine']:.3f} · {card['shrinkage']:.3f}",
            ],
            [
                f"cross-entropy · with the SAE, {q['tokens']:,} predicted tokens",
                f"{q['loss']:.3f} · {q['loss_sae']:.3f} nats",
            ],
            [
                "recovered of zero ablation · of mean ablation · KL",
                f"{q['recovered_zero']:.3f} · {q['recovered_mean']:.3f} · {q['kl_sae']:.3f} nats",
            ],
        ],
    )
    return {"card": f"{core}\n\n{probing(card['probing'])}"}


def probing(probed: list[dict[str, Any]]) -> str:
    """Means over tasks, and the tasks one by one for a single latent."""
    tasks = list(dict.fromkeys(p["task"] for p in probed))
    probes = dict.fromkeys((p["units"], p["k"]) for p in probed)
    of = {(p["units"], p["k"], p["task"]): p for p in probed}
    lines = []
    for units, k in probes:
        found = [of[units, k, task] for task in tasks]
        means = [f"{np.mean([p[score] for p in found]):.3f}" for score in ("auroc", "accuracy")]
        lines.append([f"{'all' if k is None else k} {units}", *means, *(f"{p['auroc']:.2f}" for p in found)])
    chance = np.mean([p["chance"] for p in probed])
    head = ["probe of", "AUROC", f"accuracy (chance {chance:.2f})", *(f"AUROC: {task}" for task in tasks)]
    return table(head, lines)
