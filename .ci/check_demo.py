"""Does the demo's JSON have the keys that are promised, with values that make sense? `check_demo.py FILE`."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

LABELS = {"refund_asked", "angry_tone", "high_value_order", "shipping_delay", "price_complaint"}
MEASURES = ("index", "auroc", "average_precision")


def main(path: str) -> None:
    """Raise an AssertionError that says what is wrong."""
    result = json.loads(Path(path).read_text())
    for key in ("fvu", "l0", "dead_fraction", "tokens", "excluded_tokens", "labels", "steering"):
        assert key in result, f"{path}: no {key!r} among {sorted(result)}"
    for key in ("fvu", "l0", "dead_fraction"):
        assert math.isfinite(result[key]) and result[key] >= 0, f"{key}: {result[key]}"
    assert result["fvu"] < 1, f"fvu {result['fvu']}: worse than predicting the mean"
    assert result["tokens"] > 0 and result["excluded_tokens"] > 0, "first positions are always left out"
    assert set(result["labels"]) == LABELS, f"labels: {sorted(result['labels'])}"
    for name, kinds in result["labels"].items():
        for kind in ("neuron", "latent"):
            for measure in MEASURES:
                assert measure in kinds[kind], f"labels.{name}.{kind}: no {measure!r}"
            assert 0 <= kinds[kind]["auroc"] <= 1 and 0 <= kinds[kind]["average_precision"] <= 1
    assert result["steering"], "no steering example"
    reason = result["why"]
    assert reason["line"].startswith("log-probability of 'Unfortunately"), reason["line"]
    assert reason["confirmed"] in (True, False) and 0 <= reason["share_outside"] <= 1
    print(
        f"{path}: FVU {result['fvu']:.3f}, L0 {result['l0']:.1f}, {result['tokens']} tokens, all keys there"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
