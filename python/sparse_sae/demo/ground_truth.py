"""`sparse-sae demo --synthetic`: the whole job where the truth is known, without a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparse_sae import TopK, evaluate, train
from sparse_sae._io.atomic import write_json
from sparse_sae.match import match
from sparse_sae.synthetic.lesson import lesson


def run_synthetic(*, features: int = 64, k: int = 3, json_path: Path | None = None) -> dict[str, Any]:
    """The demo without a language model: the lesson's data set, whose 32 true features are known."""
    data = lesson()
    print(f"The lesson's data: {len(data.x):,} samples of 8 dimensions, 32 true features, 2 to 4 active")
    result = train(data.x, TopK(k=k), d_sae=features, n_tokens=2_000_000, batch_size=1024, lr=4e-3)
    metrics = evaluate(result.sae, data.x)
    found = match(result.sae, data.features)
    print(f"TopK SAE, {features} latents, k = {k}\n{metrics}")
    print("One-to-one matches with the truth, beside dictionaries of random directions")
    print(found)
    summary = {
        "fvu": metrics.fvu,
        "l0": metrics.l0,
        "dead_fraction": metrics.dead_fraction,
        "match": found.summary(),
    }
    if json_path:
        write_json(json_path, summary)
    return summary
