"""One sentence: does this machine run as it should? And what became slower since another measurement."""

from __future__ import annotations

from typing import Any

from sparse_sae import _kernels

# Slower than this, in units of G, is slower than any level was measured to be (docs/performance.md has the rows).
LIMITS = {"encode + TopK": 1.15, "training step": 1.5}
SLACK = 1.25  # how much a ratio may grow before it is named: two runs on one machine differ by a tenth


def verdict(result: dict[str, Any], levels: list[str] | None = None) -> str:
    """What `sparse-sae bench` says first.

    Args:
        result: of `bench.run`.
        levels: CPU levels that this machine offers, best first; None asks the kernels.
    """
    machine = result["machine"]
    best = (levels or _kernels.loadable_levels() or [machine["level"]])[0]
    faults = [
        f"{line['work']}, {line['size']}: {line['ratio']:.2f} {line['yardstick']}, "
        f"expected at most {LIMITS[line['work']]}"
        for line in result["lines"]
        if line["work"] in LIMITS
        and line["size"] in ("medium", "large")
        and line["ratio"] > LIMITS[line["work"]]
    ]
    if machine["level"] != best:
        faults.append(f"level {machine['level']} runs where {best} could (SPARSE_SAE_KERNELS)")
    if not machine.get("openmp"):
        faults.append("the kernels were built without OpenMP and use one thread")
    if faults:
        return "This machine does NOT run as it should: " + "; ".join(faults)
    missed = sum(line["met"] is False for line in result["lines"])
    aims = sum(line["met"] is not None for line in result["lines"])
    return f"This machine runs as it should: {aims - missed} of {aims} targets met, none far off"


def regressions(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Works whose ratio to their yardstick grew by more than a quarter since `before`, one sentence each."""
    then = {(line["work"], line["size"]): line for line in before["lines"]}
    slower = []
    for line in now["lines"]:
        old = then.get((line["work"], line["size"]))
        if old is None or not old["ratio"] or old["yardstick"] != line["yardstick"]:
            continue
        if line["ratio"] > SLACK * old["ratio"] and line["ratio"] - old["ratio"] > 0.02:
            slower.append(
                f"{line['work']}, {line['size']}: {line['ratio']:.2f} {line['yardstick']}, was {old['ratio']:.2f}"
            )
    return slower
