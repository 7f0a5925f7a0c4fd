"""One refund refused, its twin approved, one word changed: the two graphs, their difference, and ablations.

    python studies/circuits/run.py --set DIR       # trains the set there if need be; writes the result and the page
    python studies/circuits/run.py --write-docs    # no model: fills the page from the result file

Writes docs/results/circuits.json. The set has a skip transcoder for every layer of SmolLM2-135M-Instruct, small and
trained briefly, so that the whole study takes minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
from page import contents  # beside this file

from sparse_sae._io.atomic import write_json
from sparse_sae._io.documents import blocks, fill
from sparse_sae.circuits import (
    LogitDifference,
    ablated,
    attribute,
    encode_texts,
    features_of,
    label_features,
    neighbours,
    set_quality,
    supernodes,
    train_set,
    write_page,
)
from sparse_sae.demo.tickets import tickets
from sparse_sae.lm import choice_logprobs, english_documents, load_model

ROOT = Path(__file__).resolve().parents[2]
RESULT, PAGE = ROOT / "docs/results/circuits.json", ROOT / "docs/circuits.md"
RULE = "Was the parcel late? Then the shop pays a refund.\n\n"
SHOTS = (
    "Customer: My order came on time.\nLate (refund): No\n\n"
    "Customer: My order came two weeks late.\nLate (refund): Yes\n\n"
)
FRAMES = ("My parcel came {}", "The lamp I ordered came {}", "My shoes came {}", "Your delivery came {}")
REFUSED, APPROVED = (
    ("quickly", "fast", "early", "punctually"),
    ("late", "too late", "two days late", "very late"),
)
CHOICES = (" No", " Yes")
HELD_OUT = (400, 408)  # documents beyond those that are captured


def prompt(frame: str, word: str) -> str:
    """A customer's sentence after two that were answered."""
    return f"{RULE}{SHOTS}Customer: {frame.format(word)}.\nLate (refund):"


def texts() -> Iterator[str]:
    """English text, and tickets answered by a rule."""
    answered = (
        f"Customer: {t.text}\nRefund: {'Yes' if t.labels['shipping_delay'] else 'No'}"
        for t in tickets(2000, seed=1)
    )
    for document in english_documents():
        yield document
        yield "\n\n".join(islice(answered, 6))


def decision(lm: Any, prompts: list[str]) -> np.ndarray:
    """(n,) log-probability of No minus that of Yes."""
    scores = choice_logprobs(lm, prompts, CHOICES, batch_size=8, share_prefix=False)
    return scores[:, 0] - scores[:, 1]


def graph_of(lm: Any, made: Any, word: str, features: int) -> tuple[Any, Any, dict[str, Any]]:
    """The whole graph, the pruned one, and their numbers."""
    began = time.perf_counter()
    whole = attribute(lm, made, prompt(FRAMES[0], word), LogitDifference(*CHOICES), max_features=features)
    seconds = time.perf_counter() - began
    graph = whole.prune(0.6, 0.9)
    return (
        whole,
        graph,
        {
            "word": word,
            "nodes": len(whole),
            "edges": int(whole.edges.nnz),
            "kept_nodes": len(graph),
            "kept_features": int((graph.kind == 2).sum()),
            "replacement": whole.replacement,
            "completeness": whole.completeness,
            "seconds": seconds,
        },
    )


def confirmed(graph: Any) -> dict[str, Any]:
    """What ablations say of a graph."""
    c = graph.confirm(n_edges=24, n_nodes=16, n_random=20)
    return {
        "value": c.value,
        "verdict": c.verdict,
        "frozen": c.frozen.correlation,
        "attention": c.attention.correlation,
        "nodes_r": c.nodes.correlation,
        "nodes_sign": c.nodes.sign_agreement,
        "faithfulness": c.faithfulness,
        "random": float(c.random.mean()),
        "p_random": c.p_random,
        "f_completeness": c.completeness,
    }


def once(path: Path, make: Any) -> Any:
    """What an earlier run wrote there, or what `make` returns: steps that take minutes are not repeated."""
    if not path.exists():
        write_json(path, make())
    return json.loads(path.read_text())


def ablations(lm: Any, made: Any, chosen: list[tuple[int, int]], seed: int = 0) -> dict[str, Any]:
    """Mean change of the decision without those features, beside as many random ones of the same layers."""
    groups = {
        "refused": [prompt(f, w) for f, w in product(FRAMES, REFUSED)],
        "approved": [prompt(f, w) for f, w in product(FRAMES, APPROVED)],
    }
    rng = np.random.default_rng(seed)
    sets: dict[str, list[list[tuple[int, int]]]] = {"found": [chosen]}
    codes = encode_texts(lm, made, [p for ps in groups.values() for p in ps], pack=False)
    active = {}
    for layer in {layer for layer, _ in chosen}:
        fired = np.unique(codes.of(f"blocks.{layer}.hook_mlp_out").indices)
        active[layer] = np.setdiff1d(fired, [j for a, j in chosen if a == layer])
    sets["random"] = [[(layer, int(rng.choice(active[layer]))) for layer, _ in chosen] for _ in range(5)]
    before = {name: decision(lm, prompts) for name, prompts in groups.items()}
    out: dict[str, Any] = {
        "prompts": {name: len(prompts) for name, prompts in groups.items()},
        "before": {name: float(values.mean()) for name, values in before.items()},
        "refused_share": {name: float((values > 0).mean()) for name, values in before.items()},
    }
    for kind, lists in sets.items():
        changes: dict[str, list[float]] = {name: [] for name in groups}
        flips: dict[str, list[float]] = {name: [] for name in groups}
        for features in lists:
            with ablated(lm, made, features):
                for name, prompts in groups.items():
                    after = decision(lm, prompts)
                    changes[name].append(float((after - before[name]).mean()))
                    flips[name].append(float(((after > 0) != (before[name] > 0)).mean()))
        out[kind] = {"change": changes, "flipped": flips}
    return out


def study(args: argparse.Namespace, lm: Any) -> dict[str, Any]:
    """Everything, in the order of the page."""
    made = train_set(
        lm,
        texts,
        args.set,
        layers=args.layers,
        d_sae=args.d_sae,
        capture_tokens=args.capture_tokens,
        n_tokens=args.tokens,
        compute_dtype=args.compute_dtype,
    )
    held_out = list(islice(english_documents(), *HELD_OUT))
    result: dict[str, Any] = {
        "model": lm.name,
        "layers": len(made),
        "d_sae": args.d_sae,
        "capture_tokens": args.capture_tokens,
        "tokens": args.tokens,
        "prompt": prompt(FRAMES[0], "…"),
        "fvu": {hook: d.sae.metadata["held_out"]["fvu"] for hook, d in made.items()},
        "quality": once(
            args.pages / "quality.json",
            lambda: set_quality(lm, made, held_out, max_tokens=128, each=False).to_dict(),
        ),
    }
    print(json.dumps(result["quality"]), flush=True)
    graphs, wholes = {}, {}
    for name, word in (("refused", REFUSED[0]), ("approved", APPROVED[0])):
        wholes[name], graphs[name], numbers = graph_of(lm, made, word, args.features)
        graph = graphs[name]
        result[name] = numbers | once(args.pages / f"{name}.json", lambda graph=graph: confirmed(graph))
        print(name, result[name]["verdict"], flush=True)
    by_feature: dict[str, dict[tuple[int, int], float]] = {}
    for name, whole in wholes.items():
        value = whole.influence
        sums: dict[tuple[int, int], float] = {}
        for i in np.flatnonzero(whole.kind == 2):
            key = int(whole.layer[i]), int(whole.latent[i])
            sums[key] = sums.get(key, 0.0) + float(value[i])
        by_feature[name] = sums
    a, b = by_feature["refused"], by_feature["approved"]
    gap = {f: a.get(f, 0.0) - b.get(f, 0.0) for f in {*a, *b}}
    ordered = sorted(gap, key=lambda f: -abs(gap[f]))[: args.shown]
    codes = encode_texts(lm, made, texts(), max_tokens=args.label_tokens)
    wanted = list(dict.fromkeys([*ordered, *(f for g in graphs.values() for f in features_of(g))]))
    names = label_features(lm, made, codes, wanted)
    result["difference"] = [
        {"feature": list(f), "refused": a.get(f, 0.0), "approved": b.get(f, 0.0), "label": names[f]}
        for f in ordered
    ]
    both = set(features_of(graphs["refused"])) & set(features_of(graphs["approved"]))
    result["shared"] = {
        "both": len(both),
        **{name: len(features_of(graph)) for name, graph in graphs.items()},
    }
    result["ablation"] = once(args.pages / "ablation.json", lambda: ablations(lm, made, ordered[:10]))
    layer, latent = ordered[0]
    near = neighbours(lm, made, f"blocks.{layer}.hook_mlp_out", latent, codes, top=5)
    result["neighbours"] = {"of": [layer, latent], "text": str(near)}
    for name, graph in graphs.items():
        groups = supernodes(graph, lm, made, names)
        result[name]["groups"] = [[text, len(members)] for text, members in groups[:6]]
        write_page(
            graph,
            args.pages / f"{name}.html",
            whole=wholes[name],
            names=names,
            supernodes=groups,
            title=f"Refund {name}: {CHOICES[0].strip()} minus {CHOICES[1].strip()}",
        )
    return result


def main(arguments: list[str] | None = None) -> None:
    """Run the study, or only fill the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", type=Path, default=Path("circuits-set"))
    parser.add_argument("--layers", type=int, nargs="*", help="layers with a transcoder; all unless given")
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--capture-tokens", type=int, default=40_000)
    parser.add_argument("--tokens", type=int, default=80_000)
    parser.add_argument("--compute-dtype", default="bfloat16")
    parser.add_argument("--features", type=int, default=300, help="whose inputs are computed")
    parser.add_argument("--label-tokens", type=int, default=6_000)
    parser.add_argument("--shown", type=int, default=12)
    parser.add_argument(
        "--pages", type=Path, default=Path("circuits-pages"), help="directory of pages and of steps done"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--write-docs", action="store_true")
    args = parser.parse_args(arguments)
    if not args.write_docs:
        args.pages.mkdir(parents=True, exist_ok=True)
        write_json(args.out, study(args, load_model()))
    if args.out == RESULT:
        fill(PAGE, contents(json.loads(RESULT.read_text()), list(blocks(PAGE.read_text()))))


if __name__ == "__main__":
    main()
