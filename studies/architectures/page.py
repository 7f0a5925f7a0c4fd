"""Puts docs/results/architectures.json into docs/architectures.md, in blocks of the sections' names, and draws it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparse_sae._io.documents import table

Rows = list[dict[str, Any]]


def contents(results: dict[str, Any]) -> dict[str, str]:
    """Block -> its table, of every section that the result file has."""
    return {name: make(results[name]) for name, make in SECTIONS.items() if name in results} | {
        "steps": steps(results.get("steps", []) + results.get("steps_2048", []))
    }


def planted(rows: Rows) -> str:
    return at_equal_l0(rows, ("mcc", "f1"))


def at_equal_l0(rows: Rows, extra: tuple[str, ...] = ()) -> str:
    """One line an architecture, FVU / dead (and more) at each target of L0."""
    targets = sorted({r["target"] for r in rows})
    more = "".join(f" · {e.upper()}" for e in extra)
    lines = []
    for name in architectures(rows):
        own = {r["target"]: r for r in rows if r["architecture"] == name}
        cells = [_at_target(own.get(target), extra) for target in targets]
        seconds = sum(r["cpu_seconds"] for r in own.values()) / len(own)
        lines.append([name, *cells, f"{seconds:.0f}"])
    return table(["", *(f"L0 ≈ {t}: FVU · dead{more}" for t in targets), "CPU s"], lines)


def _at_target(r: dict[str, Any] | None, extra: tuple[str, ...]) -> str:
    if r is None:
        return ""
    off = "" if abs(r["l0"] / r["target"] - 1) < 0.05 else f" (L0 {r['l0']:.1f})"
    return f"{r['fvu']:.3f} · {r['dead']:.1%}" + "".join(f" · {r[e]:.2f}" for e in extra) + off


def rates(rows: Rows) -> str:
    tried = sorted({r["rate"] for r in rows})
    of = {(r["architecture"], r["rate"]): f"{r['fvu']:.3f}" for r in rows}
    lines = [[name, *(of.get((name, rate), "") for rate in tried)] for name in architectures(rows)]
    return table(["FVU at lr ×", *(f"{rate:g}" for rate in tried)], lines)


def sweep(rows: Rows) -> str:
    factors = sorted({r["factor"] for r in rows})
    of = {(r["knob"], r["factor"]): f"{r['l0']:.1f} · {r['fvu']:.3f}" for r in rows}
    knobs = dict.fromkeys(r["knob"] for r in rows)
    lines = [[knob, *(of[knob, f] for f in factors if (knob, f) in of)] for knob in knobs]
    return table(["L0 · FVU at knob ×", *map(str, factors)], lines)


def dead(rows: Rows) -> str:
    of = {(r["remedy"], r["bias"]): f"{r['alive']:.0%} · {r['fvu']:.3f}" for r in rows}
    remedies = dict.fromkeys(r["remedy"] for r in rows)
    lines = [[name, *(of[name, bias] for bias in (-3.0, -10.0) if (name, bias) in of)] for name in remedies]
    return table(["remedy", "alive · FVU from bias -3", "from bias -10"], lines)


def steps(rows: Rows) -> str:
    order = architectures(rows)
    lines = [
        [
            r["architecture"],
            str(r["batch_size"]),
            f"{r['seconds'] / r['product_seconds']:.2f}",
            f"{1000 * r['seconds']:.0f}",
            f"{r['l0']:.0f}",
        ]
        for r in sorted(rows, key=lambda r: (r["batch_size"], order.index(r["architecture"])))
    ]
    return table(["", "rows", "step, in encoder products", "CPU ms", "L0 meanwhile"], lines)


def many(r: dict[str, Any]) -> str:
    alone = sum(r["alone"].values())
    together = f"{r['together']:.1f} ({r['together'] / alone:.0%} of the sum)"
    lines = [[f"alone: {name}", f"{seconds:.1f}"] for name, seconds in r["alone"].items()]
    return table(["", "CPU s"], [*lines, ["sum", f"{alone:.1f}"], ["together, `train_many`", together]])


def starts(rows: Rows) -> str:
    lines = [
        [f"{r['architecture']}, {r['data']}"]
        + [f"{f['l0']:.1f} · {f['fvu']:.3f} · {f['dead']:.1%}" for f in (r["published"], r["here"])]
        for r in rows
    ]
    return table(["L0 · FVU · dead, started", "as published", "as here"], lines)


def crossover(rows: Rows) -> str:
    lines = [[f"{r['density']:.0%}", *(f"{r[c]:.3f}" for c in r if c != "density")] for r in rows]
    return table(["active share", "forward: sparse", "dense", "update: sparse", "dense"], lines)


SECTIONS = {
    "planted": planted,
    "real": at_equal_l0,
    "rates": rates,
    "sweep": sweep,
    "dead": dead,
    "many": many,
    "starts": starts,
    "crossover": crossover,
}


def architectures(rows: Rows) -> list[str]:
    """Names in the order of the study."""
    from common import NAMES

    return [name for name in NAMES if any(r["architecture"] == name for r in rows)]


def draw(results: dict[str, Any], path: Path) -> None:
    """FVU over L0, one line an architecture."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "architectures"  # the same file from the same numbers
    import matplotlib.pyplot as plt

    shown = [section for section in ("planted", "real") if section in results]
    figure, axes = plt.subplots(1, max(1, len(shown)), figsize=(5 * max(1, len(shown)), 4), squeeze=False)
    for axis, section in zip(axes[0], shown, strict=False):
        for name in dict.fromkeys(r["architecture"] for r in results[section]):
            own = sorted((r["l0"], r["fvu"]) for r in results[section] if r["architecture"] == name)
            axis.plot(*zip(*own, strict=True), marker="o", label=name)
        axis.set(xlabel="L0", ylabel="FVU, held out", title=section, xscale="log")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
