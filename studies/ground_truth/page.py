"""Fill the tables of docs/ground-truth.md from the committed result files.

    python studies/ground_truth/page.py
A block is replaced by what the function of its name below returns.
"""

import json
from pathlib import Path

import numpy as np

from sparse_sae._io.documents import fill, table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "ground-truth.md"


def results():
    """The result files, by name."""
    return {
        "lesson": json.loads((ROOT / "docs/results/lesson.json").read_text()),
        "dictionaries": json.loads((ROOT / "docs/results/dictionaries.json").read_text()),
        "inference": json.loads((ROOT / "docs/results/inference.json").read_text()),
        "recipes": json.loads((ROOT / "docs/results/recipes.json").read_text()),
        "synthsaebench": json.loads((ROOT / "docs/results/synthsaebench.json").read_text()),
        "matching": json.loads((ROOT / "docs/results/matching.json").read_text()),
        "toy": json.loads((ROOT / "docs/results/toy_models.json").read_text()),
    }


def recovered(r):
    rows = []
    for name, runs in (
        ("lesson (data seed 42), ten training seeds", r["lesson"]["seeds"]),
        (
            f"other data, seeds {', '.join(str(x['data_seed']) for x in r['lesson']['other_data'])}",
            r["lesson"]["other_data"],
        ),
    ):

        def spread(key, digits, runs=runs):
            values = [x[key] for x in runs]
            low, high = (f"{v:.{digits}f}" for v in (min(values), max(values)))
            return f"{np.median(values):.{digits}f}" + (f" ({low}–{high})" if low != high else "")

        rows.append(
            [
                name,
                spread("above_0.9", 0),
                spread("above_0.95", 0),
                spread("mean_cosine", 4),
                spread("chance_mean_cosine", 2),
                spread("latents", 0),
                spread("l0", 2),
                spread("fvu", 4),
                spread("cpu_seconds", 0),
            ]
        )
    head = [
        "median (range)",
        "> 0.9",
        "> 0.95",
        "mean cosine",
        "chance",
        "latents",
        "L0",
        "FVU",
        "CPU seconds",
    ]
    return table(head, rows)


def settings(r):
    rows = [
        [x["d_sae"], x["penalty"], x["latents"], f"{x['held_out_nats']:.2f}", x["above_0.9"], x["above_0.95"]]
        for x in r["lesson"]["other_settings"]
    ]
    return table(["rows of a start", "penalty", "latents found", "held-out nats", "> 0.9", "> 0.95"], rows)


def topk(r):
    rows = [
        [
            x["d_sae"],
            f"{x['l0']:.1f}",
            f"{x['fvu']:.3f}",
            f"{x['fvu_omp_same_dictionary']:.3f}",
            f"{x['mean_cosine']:.3f}",
            f"{x['chance_mean_cosine']:.3f}",
            x["above_0.9"],
            x["above_0.95"],
        ]
        for x in r["lesson"]["topk"]
    ]
    head = ["latents", "L0", "FVU", "FVU, same W_dec, OMP codes", "mean cosine", "chance", "> 0.9", "> 0.95"]
    return table(head, rows)


def inference(r):
    rows = [
        [
            x["codes"],
            f"{x['l0']:.2f}",
            f"{x['fvu']:.3f}",
            f"{x['precision']:.2f}",
            f"{x['recall']:.2f}",
            f"{x['microseconds_per_sample']:.1f}",
        ]
        for x in r["lesson"]["inference_at_the_true_dictionary"]
    ]
    cost = [x["microseconds_per_sample"] for x in r["lesson"]["inference_at_the_true_dictionary"]]
    return (
        table(["codes", "L0", "FVU", "precision", "recall", "µs a sample, one core"], rows)
        + f"\n\nBetter codes cost more, the last row {cost[-1] / cost[0]:.0f} times the linear one."
    )


def growth(r):
    rows = [
        [k, v["represented"], f"{v['dimensions_per_feature']:.2f}", f"{v['features_per_hidden_unit']:.1f}"]
        for k, v in r["toy"]["growth"].items()
    ]
    return table(
        ["density", "features represented", "dimensions per feature", "features per hidden unit"], rows
    )


def plateaus(r):
    by_density = r["toy"]["plateaus"]["by_density"]
    rows = [
        [
            density,
            v["represented"],
            f"{v['median_dimensionality']:.2f}",
            f"{v['sum_of_dimensionalities']:.1f}",
        ]
        for density, v in by_density.items()
    ]
    return table(["density", "represented of 100", "median D_i", "sum of D_i (10 dimensions)"], rows[::2])


def phases(r):
    p = r["toy"]["phases"]
    return (
        f"Both features are kept in {p['pair_share_sparse_half']:.0%} of the sparser half of the diagram and in "
        f"{p['pair_share_dense_half']:.0%} of the denser half; {p['pairs_antipodal']:.0%} of these pairs are antipodal."
    )


def undone(r):
    u = r["toy"]["undone"]
    m = u["match"]
    return (
        f"Of 24 features the model represents {u['represented_features']} in 10 hidden units. A hidden unit serves "
        f"{u['features_per_hidden_unit']:.1f} features; each of the {u['latents']} latents learned from the hidden "
        f"activations serves {u['features_per_latent']:.2f} "
        f"(0 where it responds to none). {m['above_0.9']['count']} of the "
        f"{u['represented_features']} directions are matched above 0.9 (chance: {m['above_0.9']['random']:.1f}), mean "
        f"cosine {m['mcc']['score']:.3f} (chance: {m['mcc']['random']['mean']:.3f})."
    )


def matching(r):
    rows = [
        [
            f"{x['n']:,} × {x['n']:,}",
            x["method"],
            f"{x['mean_score']:.4f}",
            f"{x['proven_gap']:.4f}",
            f"{x['true_gap']:.4f}" if "true_gap" in x else "",
            f"{x['cpu_seconds']:.1f}",
            f"{x['extra_megabytes']:,.0f}",
        ]
        for x in r["matching"]
    ]
    return table(["rows", "method", "mean score", "proven gap", "true gap", "CPU seconds", "extra MB"], rows)


def _trained_by(x):
    if x["library"] == "sparse_sae":
        momentum = x.get("beta1", 0.9)
        name = "sparse_sae, defaults" if momentum == 0.9 else f"sparse_sae, no momentum, at {x['lr']:.2g}"
        if x.get("architecture", "BatchTopK") != "BatchTopK":
            name = name.replace("sparse_sae", f"sparse_sae, {x['architecture']}")
        if x.get("dead_after"):
            name += f", dead after {x['dead_after']:,}"
        return name if x.get("batch", 1024) == 1024 else f"{name}, batch {x['batch']}"
    return "SAELens, published recipe" if x["lr"] == 3e-4 else f"SAELens at {x['lr']:g}"


def _benchmark_runs(r):
    """Runs of both libraries: the large world first, then by samples."""
    runs = [x for x in r["synthsaebench"] if "library" in x]
    return sorted(runs, key=lambda x: (-x["world"][0], x["samples"], x["library"] != "sparse_sae", x["lr"]))


def _settings(r):
    """The runs of each setting, which differ by seed."""
    found = {}
    for x in _benchmark_runs(r):
        found.setdefault((x["world"][0], x["samples"], _trained_by(x)), []).append(x)
    return found


def _over_seeds(runs, key, form):
    """The mean, and the range where there are several seeds."""
    values = [x[key] for x in runs]
    span = f" ({min(values):{form}}–{max(values):{form}})" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{span}"


def synthsaebench(r):
    """Scores, with what random directions reach below those of each world."""
    scores = ("mcc", "uniqueness", "precision", "recall", "f1", "best_f1")
    rows = []
    for features in sorted({x["world"][0] for x in _benchmark_runs(r)}, reverse=True):
        runs = [x for x in _benchmark_runs(r) if x["world"][0] == features]
        rows += [
            [
                f"{features:,}",
                f"{samples:,}",
                name,
                f"{len(found)}",
                _over_seeds(found, "explained_variance", ".3f"),
                _over_seeds(found, "l0", ".1f"),
                *(_over_seeds(found, score, ".3f") for score in scores),
                _over_seeds(found, "dead_fraction", ".1%"),
            ]
            for (width, samples, name), found in _settings(r).items()
            if width == features
        ]
        m, chance = runs[0]["d_sae"], max(x["mcc_chance"] for x in runs)
        unique = features * (1 - (1 - 1 / features) ** m) / m
        rows.append(
            [
                f"{features:,}",
                "",
                "random directions",
                "",
                "",
                "",
                f"{chance:.3f}",
                f"{unique:.3f}",
                "",
                "",
                "",
                "",
                "",
            ]
        )
    head = [
        "features",
        "samples",
        "",
        "seeds",
        "explained variance",
        "L0",
        "MCC",
        "uniqueness",
        "precision",
        "recall",
        "F1",
        "F1, best threshold",
        "dead",
    ]
    return table(head, rows)


def refined(r):
    """The codes of a trained SAE before and after leave-one-out refinement."""
    rows = []
    for x in (x for x in _benchmark_runs(r) if "refined" in x and not x["seed"]):
        third, best = x["refined"]["third"], x["refined"]["best"]
        named = [("as encoded", x), ("a third leaves", third), (f"{best['share']:.0%} leave", best)]
        rows += [
            [
                f"{x['world'][0]:,}",
                f"{x['samples']:,}",
                _trained_by(x),
                name,
                f"{at['l0']:.1f}",
                *(
                    f"{at[score]:.3f}"
                    for score in ("explained_variance", "precision", "recall", "f1", "best_f1")
                ),
            ]
            for name, at in named
        ]
    head = [
        "features",
        "samples",
        "",
        "codes",
        "L0",
        "explained variance",
        "precision",
        "recall",
        "F1",
        "F1, best threshold",
    ]
    return table(head, rows)


def synthsaebench_cost(r):
    """CPU seconds and milliseconds of a step."""
    rows, seconds = [], {}
    for (features, samples, name), runs in _settings(r).items():
        x = runs[0]
        steps = samples // x.get("batch", 1024)
        # of the first seed: others may be of another machine
        cpu, data = x["cpu_seconds"], x["data_cpu_seconds"]
        if x["lr"] == 3e-4 if x["library"] == "saelens" else name == "sparse_sae, defaults":
            seconds[x["library"], features, samples] = cpu
        rows.append(
            [
                f"{features:,}",
                f"{samples:,}",
                name,
                f"{x['lr']:.1e}",
                f"{cpu:,.0f}",
                f"{1e3 * cpu / steps:,.0f}",
                f"{1e3 * data / steps:,.0f}",
            ]
        )
    both = [(n, m) for name, n, m in seconds if name == "saelens"]
    ratios = [f"{seconds['saelens', n, m] / seconds['sparse_sae', n, m]:.1f}" for n, m in both]
    head = [
        "features",
        "samples",
        "",
        "learning rate",
        "CPU seconds of training",
        "ms a step",
        "ms to make its samples",
    ]
    return (
        table(head, rows)
        + f"\n\nIn CPU seconds SAELens takes {', '.join(ratios)} times as long, in this order."
    )


def pursuit_cost(r):
    rows = [
        [
            x["codes"],
            f"{x['l0']:.1f}",
            f"{x['fvu']:.3f}",
            f"{x['precision']:.3f}",
            f"{x['recall']:.3f}",
            f"{x['microseconds_per_sample']:,.0f}",
            f"{x['microseconds_per_sample'] / r['inference']['rows'][0]['microseconds_per_sample']:.1f}",
        ]
        for x in r["inference"]["rows"]
    ]
    head = ["codes", "L0", "FVU", "precision", "recall", "µs a sample, one core", "times the linear encoder"]
    floor = r["inference"]["product_microseconds_per_sample"]
    lasso = next(x for x in r["inference"]["rows"] if x["codes"] == "lasso")
    return (
        table(head, rows)
        + f"\n\nThe floor, one product of the samples with the dictionary, takes {floor:.0f} µs a "
        f"sample; the lasso takes {lasso['microseconds_per_sample'] / floor:.1f} times that."
    )


def dictionaries(r):
    """Means over seeds; of each dictionary, a row for its encoder and rows for pursuits."""
    d = r["dictionaries"]
    named = {
        "encoder": "its encoder",
        "omp": f"OMP, k = {d['settings']['k']}",
        "reweighted": "reweighted lasso",
    }
    rows = []
    for name in dict.fromkeys(x["name"] for x in d["runs"]):
        runs = [x for x in d["runs"] if x["name"] == name]
        for codes in runs[0]["codes"]:

            def mean(key, codes=codes, runs=runs):
                return np.mean([x["codes"][codes][key] for x in runs])

            stable = d["stability"].get(name)
            rows.append(
                [
                    name,
                    f"{runs[0]['tokens']:,}",
                    f"{np.mean([x['cpu_seconds'] for x in runs]):.0f}",
                    named[codes],
                    f"{mean('l0'):.1f}",
                    f"{mean('fvu'):.3f}",
                    f"{mean('unused'):.1%}",
                    f"{mean('microseconds_per_row'):,.0f}",
                    f"{stable['mcc']:.3f} ({stable['chance']:.3f})" if stable else "",
                ]
            )
    head = [
        "dictionary",
        "rows seen",
        "CPU seconds",
        "codes",
        "L0",
        "FVU, held out",
        "never fire",
        "µs a row",
        "two seeds agree (chance)",
    ]
    return table(head, rows)


def _recipe_rows(r, where, columns):
    """A row for each recipe: means over its seeds of what the columns give, by digits."""
    d, rows = r["recipes"], []
    for name in dict.fromkeys(x["name"] for x in d[where]):
        runs = [x for x in d[where] if x["name"] == name]
        row = [name, *(f"{np.mean([x[key] for x in runs]):,.0f}" for key in ("cpu_seconds", "samples"))]
        for value, form in columns:
            row.append(format(float(np.mean([value(x) for x in runs])), form))
        stable = d["stability"].get(f"{where}: {name}")
        rows.append([*row, f"{stable['mcc']:.3f} ({stable['chance']:.3f})" if stable else "not measured"])
    return rows


def recipes_planted(r):
    rows = _recipe_rows(
        r,
        "planted",
        [
            (lambda x: x["explained_variance"], ".3f"),
            (lambda x: x["l0"], ".1f"),
            (lambda x: x["mcc"], ".3f"),
            (lambda x: x["f1"], ".3f"),
            (lambda x: x["best_f1"], ".3f"),
            (lambda x: x["refined"]["f1"], ".3f"),
            (lambda x: x["absorption"], ".3f"),
            (lambda x: x["microseconds_per_row"], ".1f"),
        ],
    )
    head = [
        "recipe",
        "CPU seconds",
        "samples",
        "explained variance",
        "L0",
        "MCC",
        "F1",
        "F1, best threshold",
        "F1, a third left out",
        "absorption",
        "µs a row",
        "two seeds agree (chance)",
    ]
    chance = np.mean([x["mcc_chance"] for x in r["recipes"]["planted"]])
    return table(head, rows) + f"\n\nRandom directions reach an MCC of {chance:.3f}."


def recipes_real(r):
    rows = _recipe_rows(
        r,
        "real",
        [
            (lambda x: x["l0"], ".1f"),
            (lambda x: x["fvu"], ".3f"),
            (lambda x: x["refined_l0"], ".1f"),
            (lambda x: x["refined_fvu"], ".3f"),
            (lambda x: x["dead_fraction"], ".1%"),
            (lambda x: x["nearest_cosine"], ".3f"),
            (lambda x: x["microseconds_per_row"], ".0f"),
        ],
    )
    head = [
        "recipe",
        "CPU seconds",
        "rows",
        "L0",
        "FVU, held out",
        "L0, a third left out",
        "FVU then",
        "never fire",
        "cosine of the nearest",
        "µs a row",
        "two seeds agree (chance)",
    ]
    return table(head, rows)


def recipes_in_model(r):
    """What the model says with each SAE in its place; KL differences are paired, piece of text by piece of text."""
    d = r["recipes"]["in_model"]
    plain, rng = np.array(d["recipes"]["TopK"]["kl_by_text"]), np.random.default_rng(0)
    drawn = rng.integers(0, len(plain), (1000, len(plain)))
    rows = []
    for name, x in d["recipes"].items():
        own = np.array(x["kl_by_text"])
        ratios = own[drawn].mean(axis=1) / plain[drawn].mean(axis=1) - 1
        low, high = np.percentile(ratios, [2.5, 97.5])
        gap = (x["ce"] - d["ce"]) / (d["recipes"]["TopK"]["ce"] - d["ce"]) - 1
        change = f"{own.mean() / plain.mean() - 1:+.1%} [{low:+.1%}, {high:+.1%}]"
        rows.append(
            [
                name,
                f"{x['ce']:.3f}",
                f"{x['recovered_mean']:.3f}",
                f"{x['kl']:.3f}",
                *(["", ""] if name == "TopK" else [f"{gap:+.1%}", change]),
            ]
        )
    f = r["recipes"]["finetune"]
    head = ["recipe", "CE", "recovered of mean ablation", "KL", "CE gap, to TopK's", "KL, to TopK's [95 %]"]
    return (
        table(head, rows)
        + f"\n\n{d['tokens']:,} predicted tokens of English prose; the model alone has a CE of {d['ce']:.3f}, with the "
        f"mean activation {d['ce_mean']:.3f}. KL + MSE: {f['tokens']:,} tokens in {f['cpu_seconds']:.0f} CPU seconds."
    )


BLOCKS = {
    f.__name__: f
    for f in (
        recovered,
        settings,
        topk,
        inference,
        growth,
        plateaus,
        phases,
        undone,
        matching,
        synthsaebench,
        refined,
        synthsaebench_cost,
        pursuit_cost,
        dictionaries,
        recipes_planted,
        recipes_real,
        recipes_in_model,
    )
}


def contents(found):
    """Block -> what the results say."""
    return {name: block(found) for name, block in BLOCKS.items()}


if __name__ == "__main__":
    fill(PAGE, contents(results()))
