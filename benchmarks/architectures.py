"""Every architecture at equal L0, dead latents with and without a remedy, and where dense products win.

    python benchmarks/architectures.py planted | sweep | dead | crossover | tables
    python benchmarks/architectures.py real STORE | steps STORE | many STORE | starts [STORE]
STORE is a directory of captured activations; training and held-out rows are split by document. Each part
replaces its section of benchmarks/results/architectures.json as it goes; `tables` writes the sections into
docs/architectures.md and draws docs/figures/architectures.svg. Seconds are CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import sparse_sae
from sparse_sae import L1, AbsTopK, BatchTopK, Gated, JumpReLU, Matryoshka, Resampling, TopK
from sparse_sae._io.documents import fill, table
from sparse_sae.architectures.penalty import Penalised
from sparse_sae.data.opening import open_source
from sparse_sae.match import match
from sparse_sae.synthetic import superposition, zipf
from sparse_sae.training.config import TrainConfig
from sparse_sae.training.optim import default_lr
from sparse_sae.training.run import Run

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/architectures.json"
TARGETS = (16, 32, 64)
NAMES = {
    "TopK": lambda k: TopK(k=k),
    "TopK + Multi-TopK": lambda k: TopK(k=k, multi_k=2 * k),
    "AbsTopK": lambda k: AbsTopK(k=k),
    "BatchTopK": lambda k: BatchTopK(k=k),
    "Matryoshka": lambda k: Matryoshka(k=k),
    "JumpReLU (step)": lambda k: JumpReLU(target_l0=k),
    "JumpReLU (tanh)": lambda k: JumpReLU(target_l0=k, recipe="tanh"),
    "Gated": lambda k: Gated(target_l0=k),
    "L1, unit norm": lambda k: L1(target_l0=k, free_norms=False),
    "L1, free norms": lambda k: L1(target_l0=k),
}
# × the default rate. Each architecture gets its best one at L0 16 on planted data (the section "rates").
RATES = (0.5, 1, 2)


def keep(section, value):
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results[section] = value
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(section, json.dumps(value[-1] if isinstance(value, list) else value), flush=True)


def fit(x, held_out, architecture, world=None, codes=None, **arguments):
    started = time.process_time()
    result = sparse_sae.train(
        x, architecture, progress=False, num_threads=arguments.pop("num_threads", 1), **arguments
    )
    seconds = time.process_time() - started
    found = sparse_sae.evaluate(result.sae, held_out, num_threads=1)
    row = {
        "l0": found.l0,
        "fvu": found.fvu,
        "dead": found.dead_fraction,
        "shrinkage": found.shrinkage,
        "cpu_seconds": seconds,
        "n_tokens": result.tokens,
    }
    if world is not None:
        # Chance: random directions in place of what was learned.
        matching = match(result.sae, world.features, chance=5)
        row |= {"mcc": matching.mcc, "f1": detection(result.sae, held_out, codes, world.features)}
        random = np.random.default_rng(0).standard_normal(result.sae.W_dec.shape)
        row["mcc_chance"] = match(random, world.features, chance=0).mcc
    return row


def detection(sae, x, codes, features):
    """Mean F1 of each latent as a detector of the feature nearest to it; dead latents count as 0."""
    fired = (sae.encode(x) != 0).astype(np.float64)
    truth = (codes != 0).astype(np.float64)
    nearest = np.argmax(sae.W_dec @ features.T, axis=1)
    hits = np.asarray((fired.T @ truth).todense())[np.arange(sae.d_sae), nearest]
    sums = np.asarray(fired.sum(axis=0)).ravel() + np.asarray(truth.sum(axis=0)).ravel()[nearest]
    return float(np.mean(2 * hits / np.maximum(sums, 1)))


def world_of(n=60_000):
    world = superposition(
        512, 128, probability=zipf(512, 0.5, 0.3, 0.01), mean=1.0, std=0.3, noise=0.02, bias_norm=1.0, seed=0
    )
    blocks = [world.block(i, 4096) for i in range(-(-n // 4096) + 2)]
    x = np.concatenate([b.x for b in blocks[:-2]])[:n]
    held = blocks[-2:]
    return world, x, np.concatenate([b.x for b in held]), sparse_stack([b.codes for b in held])


def sparse_stack(codes):
    from scipy.sparse import csr_array, vstack

    return csr_array(vstack(codes))


PLANTED = {"d_sae": 512, "n_tokens": 200_000, "batch_size": 512}
RATE = default_lr(512, 200_000 // 512)


def others(section, names, targets=TARGETS):
    """Rows of a section that are of other architectures or targets, to be kept."""
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    return [
        r for r in results.get(section, []) if r["architecture"] not in names or r["target"] not in targets
    ]


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
    from sparse_sae.data.store import ActivationStore

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


def steps(options):
    """Seconds of a training step beside one product of its batch with the encoder, in the same process."""
    from sparse_sae.data.store import ActivationStore

    x = ActivationStore(options.store).split(0.1)[0].rows(slice(60_000))
    n = options.batch_size or 512
    section = "steps" if n == 512 else f"steps_{n}"
    rows = others(section, options.only or NAMES)
    for name in options.only or NAMES:
        how = TrainConfig(
            NAMES[name](32),
            d_sae=options.d_sae,
            n_tokens=780 * n,
            batch_size=n,
            lr=default_lr(options.d_sae, 780),
            dead_after=10**9,
        )
        run = Run.start(x[:16384], how, x.shape[1:], 1)
        seconds, products, active = [], [], []
        for step in range(120):
            batch = run.transformed(x[np.random.default_rng([1, step]).integers(0, len(x), n)])
            started = time.process_time()
            gradients = run.step(*batch)
            seconds.append(time.process_time() - started)
            active.append(len(gradients.codes.indices) / n)
            if step >= 90:
                started = time.process_time()
                batch[0] @ run.params["W_enc"].T
                products.append(time.process_time() - started)
        step, product = float(np.median(seconds[90:])), float(np.median(products))
        row = {"seconds": step, "product_seconds": product, "l0": float(np.mean(active[90:]))}
        rows.append({"architecture": name, "target": 32, "d_sae": options.d_sae, "batch_size": n, **row})
        keep(section, rows)


def many(options):
    """Four SAEs from one pass over a store, and one after another."""
    from sparse_sae.data.store import ActivationStore

    data = ActivationStore(options.store).split(0.1)[0]
    common = {"n_tokens": options.tokens or 50_000, "progress": False, "num_threads": 1}
    runs = {
        f"k {k}, {d_sae} latents": {"architecture": TopK(k=k), "d_sae": d_sae}
        for d_sae in (1152, 2304)
        for k in (16, 32)
    }
    started = time.process_time()
    together = sparse_sae.train_many(data, runs, **common)
    result = {"n_tokens": common["n_tokens"], "together": time.process_time() - started, "alone": {}}
    for name, run in runs.items():
        started = time.process_time()
        alone = sparse_sae.train(data, **run, **common)
        result["alone"][name] = time.process_time() - started
        assert np.array_equal(alone.sae.W_dec, together[name].sae.W_dec)
    keep("many", result)


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
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    rows = [r for r in results.get("sweep", []) if r["knob"] not in (options.only or knobs)]
    for knob in options.only or knobs:
        for factor in (0.25, 0.5, 1, 2, 4):
            row = fit(x, held_out, knobs[knob](factor), **PLANTED)
            rows.append({"knob": knob, "factor": factor, **row})
            keep("sweep", rows)


class AuxKWithReLU(TopK):
    """AuxK as published: dead latents whose pre-activation is negative model nothing, and learn nothing."""

    def _select_with_dead(self, params, batch, k):
        codes, dead_codes = super()._select_with_dead(params, batch, k)
        return codes, dead_codes and dead_codes.where(dead_codes.values > 0)


def dead(_):
    """Half of the dictionary cannot fire at the start: what lives after the run?"""
    _, x, held_out, _ = world_of()
    none = TopK(k=16, aux_k=0)
    remedies = {
        "none": (none, None),
        "AuxK": (TopK(k=16), None),
        "AuxK with ReLU": (AuxKWithReLU(k=16), None),
        "resampling, encoder scale 0.2": (none, Resampling()),
        "resampling, encoder scale 1": (none, Resampling(encoder_scale=1.0)),
        "L1: none": (L1(coefficient=0.1), None),
        "L1: resampling, encoder scale 0.2": (L1(coefficient=0.1), Resampling()),
        "L1: AuxK": (L1(coefficient=0.1, aux_k=None), None),
    }
    rows = []
    for name, (architecture, resampling) in remedies.items():
        for depth in (3.0, 10.0):
            config = TrainConfig(
                architecture,
                d_sae=512,
                n_tokens=200_000,
                batch_size=512,
                lr=RATE,
                dead_after=10_000,
                resampling=resampling,
                b_dec_init="mean",
            )
            run = Run.start(x[:16384], config, (128,), 1)
            run.params["b_enc"][:256] = -depth
            occasions = resampling.steps(config.steps) if resampling else {}
            for step in range(config.steps):
                if step in occasions:
                    run.resample(open_source(x), occasions[step])
                rows_now = x[np.random.default_rng([1, step]).integers(0, len(x), 512)]
                run.step(*run.transformed(rows_now))
            found = sparse_sae.evaluate(run.finished({}), held_out, num_threads=1)
            rows.append(
                {"remedy": name, "bias": -depth, "alive": float((found.density > 0).mean()), "fvu": found.fvu}
            )
            keep("dead", rows)


class DenseL1(L1):
    """L1 from half of all latents active, as published."""

    def init(self, params, x):
        Penalised.init(self, params, x)


class DenseGated(Gated):
    """Gated from half of all latents active, as published."""

    def init(self, params, x):
        super().init(params, x)
        params["b_enc"][:] = params["b_mag"][:] = 0


class SmallJumpReLU(JumpReLU):
    """The published W_enc of the tanh recipe: W_dec, d_in / d_sae times."""

    def init(self, params, x):
        super().init(params, x)
        small = params["W_dec"].dtype.type(3**-0.5 * x.shape[1] / len(params["W_enc"]))
        params["W_enc"] *= small
        params["b_enc"][:] = 1.0 + small * (params["b_enc"] - 1.0)  # as many active as before


def starts(options):
    """Where a penalty's run begins: as published, and as here; with a store, on its rows too."""
    tanh = {"recipe": "tanh", "target_l0": 16}
    _, x, held_out, _ = world_of()
    where = {
        "L1, free norms": (DenseL1(target_l0=16), L1(target_l0=16)),
        "Gated": (DenseGated(target_l0=16), Gated(target_l0=16)),
        "JumpReLU (tanh)": (SmallJumpReLU(**tanh), JumpReLU(**tanh)),
    }
    pairs = [(name, "planted", pair, (x, held_out), PLANTED) for name, pair in where.items()]
    if options.store:
        from sparse_sae.data.store import ActivationStore

        train, held = ActivationStore(options.store).split(0.1)
        tanh["target_l0"] = 32
        pair, how = (SmallJumpReLU(**tanh), JumpReLU(**tanh)), {"d_sae": 4608, "n_tokens": 100_000}
        pairs.append(("JumpReLU (tanh)", "real", pair, (train.rows(), held.rows()[:8192]), how))
    rows = []
    for name, data, pair, given, how in pairs:
        found = [fit(*given, architecture, **how) for architecture in pair]
        rows.append({"architecture": name, "data": data, "published": found[0], "here": found[1]})
        keep("starts", rows)


def crossover(_):
    """CPU seconds of the sparse and the dense way over a range of densities, one thread."""
    from sparse_sae import _kernels
    from sparse_sae.architectures import products
    from sparse_sae.codes import Codes

    n, m, d = 1024, 4608, 576
    rng = np.random.default_rng(0)
    w, x = (rng.standard_normal((size, d), dtype=np.float32) for size in (m, n))
    moments = [np.zeros_like(w) for _ in range(4)]
    how = {"lr": 0.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": 1, "num_threads": 1}

    def best(function):
        times = []
        for _ in range(4):
            started = time.process_time()
            function()
            times.append(time.process_time() - started)
        return min(times)

    rows = []
    for density in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85):
        mask = rng.random((n, m)) < density
        codes = Codes(
            np.concatenate([[0], mask.sum(axis=1).cumsum()]).astype(np.int32),
            np.nonzero(mask)[1].astype(np.int32),
            rng.random(int(mask.sum())).astype(np.float32),
        )
        updates = [
            {"w": w, "m": moments[2 * i], "v": moments[2 * i + 1], "values": codes.values, "dense": x}
            for i in (0, 1)
        ]

        def dense_update(codes=codes, updates=updates):
            for u in updates:
                grad = products.dense_weight_grad(*codes[:2], codes.values, x, m, 1)
                _kernels.adam_rows(u["w"], u["m"], u["v"], grad, **how)

        row = {"density": density}
        for way, limit in (("sparse", 2.0), ("dense", -1.0)):
            products.DENSE_FORWARD = limit
            row[f"forward_{way}"] = best(lambda codes=codes: products.residual_products(codes, w, x, 1))
        row["update_sparse"] = best(
            lambda codes=codes, u=updates: _kernels.update_rows(u, *codes[:2], m, **how)
        )
        row["update_dense"] = best(dense_update)
        rows.append(row)
        keep("crossover", rows)


def at_equal_l0(rows, extra=()):
    """One line an architecture, L0 / FVU / dead (and more) at each target."""
    names = [name for name in NAMES if any(r["architecture"] == name for r in rows)]
    targets = sorted({r["target"] for r in rows})
    header = [
        "",
        *(f"L0 ≈ {t}: FVU · dead" + "".join(f" · {e.upper()}" for e in extra) for t in targets),
        "CPU s",
    ]
    lines = []
    for name in names:
        own = {r["target"]: r for r in rows if r["architecture"] == name}
        cells = []
        for target in targets:
            if target not in own:
                cells.append("")
                continue
            r = own[target]
            off = "" if abs(r["l0"] / target - 1) < 0.05 else f" (L0 {r['l0']:.1f})"
            cells.append(f"{r['fvu']:.3f} · {r['dead']:.1%}" + "".join(f" · {r[e]:.2f}" for e in extra) + off)
        lines.append([name, *cells, f"{np.mean([r['cpu_seconds'] for r in own.values()]):.0f}"])
    return table(header, lines)


def tables(_):
    results = json.loads(RESULT.read_text())
    made = {}
    for section in ("planted", "real"):
        if section in results:
            made[section] = at_equal_l0(results[section], ("mcc", "f1") if section == "planted" else ())
    if "rates" in results:
        names = [name for name in NAMES if any(r["architecture"] == name for r in results["rates"])]
        of = {(r["architecture"], r["rate"]): r for r in results["rates"]}
        made["rates"] = table(
            ["FVU at lr ×", *map(str, RATES)],
            [[n, *(f"{of[n, r]['fvu']:.3f}" if (n, r) in of else "" for r in RATES)] for n in names],
        )
    if "sweep" in results:
        knobs = list(dict.fromkeys(r["knob"] for r in results["sweep"]))
        factors = sorted({r["factor"] for r in results["sweep"]})
        of = {(r["knob"], r["factor"]): r for r in results["sweep"]}
        made["sweep"] = table(
            ["L0 · FVU at knob ×", *map(str, factors)],
            [
                [k, *(f"{of[k, f]['l0']:.1f} · {of[k, f]['fvu']:.3f}" for f in factors if (k, f) in of)]
                for k in knobs
            ],
        )
    if "dead" in results:
        remedies = list(dict.fromkeys(r["remedy"] for r in results["dead"]))
        of = {(r["remedy"], r["bias"]): r for r in results["dead"]}
        made["dead"] = table(
            ["remedy", "alive · FVU from bias -3", "from bias -10"],
            [
                [
                    n,
                    *(
                        f"{of[n, b]['alive']:.0%} · {of[n, b]['fvu']:.3f}"
                        for b in (-3.0, -10.0)
                        if (n, b) in of
                    ),
                ]
                for n in remedies
            ],
        )
    if "steps" in results:
        timed = [r for section in ("steps", "steps_2048") for r in results.get(section, [])]
        made["steps"] = table(
            ["", "rows", "step, in encoder products", "CPU ms", "L0 meanwhile"],
            [
                [
                    r["architecture"],
                    str(r["batch_size"]),
                    f"{r['seconds'] / r['product_seconds']:.2f}",
                    f"{1000 * r['seconds']:.0f}",
                    f"{r['l0']:.0f}",
                ]
                for r in sorted(timed, key=lambda r: (r["batch_size"], list(NAMES).index(r["architecture"])))
            ],
        )
    if "many" in results:
        r = results["many"]
        alone = sum(r["alone"].values())
        made["many"] = table(
            ["", "CPU s"],
            [
                *([f"alone: {name}", f"{seconds:.1f}"] for name, seconds in r["alone"].items()),
                ["sum", f"{alone:.1f}"],
                ["together, `train_many`", f"{r['together']:.1f} ({r['together'] / alone:.0%} of the sum)"],
            ],
        )
    if "starts" in results:
        made["starts"] = table(
            ["L0 · FVU · dead, started", "as published", "as here"],
            [
                [
                    f"{r['architecture']}, {r['data']}",
                    *(
                        f"{f['l0']:.1f} · {f['fvu']:.3f} · {f['dead']:.1%}"
                        for f in (r["published"], r["here"])
                    ),
                ]
                for r in results["starts"]
            ],
        )
    if "crossover" in results:
        made["crossover"] = table(
            ["active share", "forward: sparse", "dense", "update: sparse", "dense"],
            [
                [f"{r['density']:.0%}", *(f"{r[c]:.3f}" for c in r if c != "density")]
                for r in results["crossover"]
            ],
        )
    fill(ROOT / "docs/architectures.md", made)
    draw(results)


def draw(results):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    shown = [s for s in ("planted", "real") if s in results]
    figure, axes = plt.subplots(1, max(1, len(shown)), figsize=(5 * max(1, len(shown)), 4), squeeze=False)
    for axis, section in zip(axes[0], shown, strict=False):
        for name in dict.fromkeys(r["architecture"] for r in results[section]):
            own = sorted((r["l0"], r["fvu"]) for r in results[section] if r["architecture"] == name)
            axis.plot(*zip(*own, strict=True), marker="o", label=name)
        axis.set(xlabel="L0", ylabel="FVU, held out", title=section, xscale="log")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/figures/architectures.svg", metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "part", choices=("planted", "real", "steps", "many", "sweep", "starts", "dead", "crossover", "tables")
    )
    parser.add_argument("store", nargs="?")
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", type=int, nargs="*")
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--section", default="real")
    chosen = parser.parse_args()
    globals()[chosen.part](chosen)
