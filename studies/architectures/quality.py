"""Quality at equal L0, on planted and on real activations, and how each answers its knob."""

from __future__ import annotations

from common import NAMES, PLANTED, RATE, RATES, TARGETS, fit, keep, others, results, world_of

from sparse_sae import L1, AbsTopK, BatchTopK, Gated, JumpReLU, TopK
from sparse_sae.data.store import ActivationStore


def planted(options):
    world, x, held_out, codes = world_of()
    for name in options.only or NAMES:
        make, rates, rows = NAMES[name], others("rates", [name]), others("planted", [name])
        for rate in RATES:
            row = fit(x, held_out, make(16), world, codes, lr=rate * RATE, **PLANTED)
            rates.append({"architecture": name, "target": 16, "rate": rate, **row})
            keep("rates", rates)
        best = min((r for r in rates if r["architecture"] == name), key=lambda r: r["fvu"])
        rows.append(best)
        for target in TARGETS[1:]:
            row = fit(x, held_out, make(target), world, codes, lr=best["rate"] * RATE, **PLANTED)
            rows.append({"architecture": name, "target": target, "rate": best["rate"], **row})
        keep("planted", rows)


def real(options):
    train, held = ActivationStore(options.store).split(0.1)
    x, held_out = train.rows(), held.rows()[:8192]
    rows = others(options.section, options.only or NAMES, options.target or TARGETS)
    n_tokens = options.tokens or 2 * len(x)
    for name in options.only or NAMES:
        for target in options.target or TARGETS:
            row = fit(
                x,
                held_out,
                NAMES[name](target),
                d_sae=options.d_sae,
                n_tokens=n_tokens,
                num_threads=options.threads,
                batch_size=options.batch_size,
            )
            rows.append(
                {"architecture": name, "target": target, "d_sae": options.d_sae, "rows": len(x), **row}
            )
            keep(options.section, rows)


def sweep(options):
    """The one knob of each, half to twice and more: how L0 and FVU answer."""
    _, x, held_out, _ = world_of()
    knobs = {
        "TopK: k": lambda f: TopK(k=round(16 * f)),
        "BatchTopK: k": lambda f: BatchTopK(k=round(16 * f)),
        "AbsTopK: k": lambda f: AbsTopK(k=round(16 * f)),
        "JumpReLU (step): coefficient": lambda f: JumpReLU(coefficient=0.005 * f),
        "JumpReLU (tanh): coefficient": lambda f: JumpReLU(coefficient=0.005 * f, recipe="tanh"),
        "Gated: coefficient": lambda f: Gated(coefficient=0.1 * f),
        "L1, free norms: coefficient": lambda f: L1(coefficient=0.1 * f),
    }
    rows = [r for r in results().get("sweep", []) if r["knob"] not in (options.only or knobs)]
    for knob in options.only or knobs:
        for factor in (0.25, 0.5, 1, 2, 4):
            row = fit(x, held_out, knobs[knob](factor), **PLANTED)
            rows.append({"knob": knob, "factor": factor, **row})
            keep("sweep", rows)
