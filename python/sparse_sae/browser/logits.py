"""Direct effects on the logits: what each latent promotes and suppresses, and the distribution over the vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparse_sae.browser.neighbours import largest

SHOWN = 10
BINS = 50
_BLOCK = 128


def effects(model: Any, sae: Any, begin: int, end: int) -> list[dict[str, Any]]:
    """For latents begin … end - 1: {"promoted": [[token, effect], …], "suppressed": …, "heights", "low", "high"}.

    Effects are those of `sparse_sae.lm.direct_logits` for one unit of the latent, at a root mean square of 1.
    """
    from sparse_sae.lm import direct_logits

    found = []
    for start in range(begin, end, _BLOCK):
        values = direct_logits(model, sae, range(start, min(start + _BLOCK, end)))
        up, down = largest(values, SHOWN), largest(-values, SHOWN)
        for row, tokens, others in zip(values, up, down, strict=True):
            heights, edges = np.histogram(row, BINS)
            found.append(
                {
                    "promoted": [[int(t), round(float(row[t]), 4)] for t in tokens],
                    "suppressed": [[int(t), round(float(row[t]), 4)] for t in others],
                    "heights": heights.tolist(),
                    "low": float(edges[0]),
                    "high": float(edges[-1]),
                }
            )
    return found
