"""Fill the tables of docs/ground-truth.md from the committed result files.

    python benchmarks/ground_truth/page.py
A block between <!-- name --> and <!-- /name --> is replaced by what the function `name` below returns.
"""

import json
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "ground-truth.md"


def results():
    """The result files, by name."""
    return {
        "lesson": json.loads((ROOT / "benchmarks/results/lesson.json").read_text()),
        "matching": json.loads((ROOT / "benchmarks/results/matching.json").read_text()),
        "toy": json.loads((ROOT / "docs/results/toy_models.json").read_text()),
    }


def table(head, rows):
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows])


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

        rows.append([
            name, spread("above_0.9", 0), spread("above_0.95", 0), spread("mean_cosine", 4),
            spread("chance_mean_cosine", 2), spread("latents", 0), spread("l0", 2),
            spread("fvu", 4), spread("cpu_seconds", 0),
        ])  # fmt: skip
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
            x["d_sae"], f"{x['l0']:.1f}", f"{x['fvu']:.3f}", f"{x['fvu_omp_same_dictionary']:.3f}",
            f"{x['mean_cosine']:.3f}", f"{x['chance_mean_cosine']:.3f}", x["above_0.9"], x["above_0.95"],
        ]
        for x in r["lesson"]["topk"]
    ]  # fmt: skip
    head = ["latents", "L0", "FVU", "FVU, same W_dec, OMP codes", "mean cosine", "chance", "> 0.9", "> 0.95"]
    return table(head, rows)


def inference(r):
    rows = [
        [
            x["codes"], f"{x['l0']:.2f}", f"{x['fvu']:.3f}", f"{x['precision']:.2f}", f"{x['recall']:.2f}",
            f"{x['microseconds_per_sample']:.1f}",
        ]
        for x in r["lesson"]["inference_at_the_true_dictionary"]
    ]  # fmt: skip
    return table(["codes", "L0", "FVU", "precision", "recall", "µs a sample, one core"], rows)


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
            f"{x['n']:,} × {x['n']:,}", x["method"], f"{x['mean_score']:.4f}", f"{x['proven_gap']:.4f}",
            f"{x['true_gap']:.4f}" if "true_gap" in x else "", f"{x['cpu_seconds']:.1f}",
            f"{x['extra_megabytes']:,.0f}",
        ]
        for x in r["matching"]
    ]  # fmt: skip
    return table(["rows", "method", "mean score", "proven gap", "true gap", "CPU seconds", "extra MB"], rows)


BLOCKS = {
    f.__name__: f for f in (recovered, settings, topk, inference, growth, plateaus, phases, undone, matching)
}


def filled(text, found):
    """The page with every block computed from the results."""

    def block(hit):
        return f"<!-- {hit[1]} -->\n{BLOCKS[hit[1]](found)}\n<!-- /{hit[1]} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", block, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results()), encoding="utf-8")
