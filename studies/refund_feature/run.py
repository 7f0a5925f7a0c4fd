"""Is there a refund feature? The best latents of many SAEs against neurons, on tickets in words that no choice saw.

    python studies/refund_feature/run.py                  # goes on where it stopped; docs/results/refund_feature.json
    python studies/refund_feature/run.py --write-docs     # no model: fills docs/refunds.md from the result file

Units are chosen on development tickets and scored on held-out tickets that share no content word with them
(`sparse_sae.demo.tickets`, the large vocabulary), and on fresh tickets in the words of development. An SAE is one row
of the result (layer, width, architecture, seed), written when it is done, so that a stop keeps what there is;
activations are captured once for all layers, into --work. "label" is what the customer means (a refund is asked for),
"topic" what is spoken of (a refund, if only to say that none is needed).
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Layer, baselines, latents_of, random_weights  # beside this file
from page import contents, settings_of

import sparse_sae
from sparse_sae._io.atomic import write_json
from sparse_sae._io.documents import blocks, fill
from sparse_sae.data.store import ActivationStore
from sparse_sae.demo.tickets import Ticket, tickets
from sparse_sae.lm import capture, english_documents, load_model
from sparse_sae.lm.studies.quality import randomise

HERE = Path(__file__).resolve().parents[2]
RESULT = HERE / "docs" / "results" / "refund_feature.json"
PAGE = HERE / "docs" / "refunds.md"
ARCHITECTURES = {
    "TopK": sparse_sae.TopK,
    "BatchTopK": sparse_sae.BatchTopK,
    "Matryoshka": sparse_sae.Matryoshka,
}
K = 32
# passes over a share of the rows: the first setting, trained for longer, on less
BUDGETS = ((8, 1.0), (8, 0.25))
SPLITS = {"read": (1, "train"), "development": (0, "train"), "held-out": (0, "held_out")}  # seed, wordings


def english(n: int, size: int = 400) -> Iterator[str]:
    """Pieces of English prose about as long as a ticket."""
    pieces = (
        text[start : start + size]
        for text in english_documents()
        for start in range(0, len(text) - size + 1, size)
    )
    return itertools.islice(pieces, n)


def ticket_sets(args: argparse.Namespace) -> dict[str, list[Ticket]]:
    """Tickets the SAEs read, tickets units are chosen on, and held-out ones."""
    sizes = {"read": args.read, "development": args.tickets, "held-out": args.tickets}
    return {
        name: tickets(sizes[name], seed, split, "large")  # type: ignore[arg-type]
        for name, (seed, split) in SPLITS.items()
    }


def captured(
    model: Any, sets: dict[str, list[Ticket]], hooks: list[str], out: Path, args: argparse.Namespace
) -> dict[str, dict[str, ActivationStore]]:
    """Set -> hook -> activations; what is there already is not read again."""
    options: dict[str, Any] = {"pack": False, "parse_special": False}
    found = {
        name: capture(model, (item.text for item in items), hooks, out / name, **options)
        for name, items in sets.items()
    }
    prose = capture(model, english(3500), hooks, out / "english", max_tokens=args.english_tokens, **options)
    return found | {"english": prose}


def grid(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What is trained, in this order: first one setting with all seeds, then one seed of everything, then the rest."""
    settings = settings_of(vars(args))
    first, others = settings[0], settings[1:]
    cells = [(first, seed) for seed in range(args.seeds)]
    cells += [(setting, 0) for setting in others]
    cells += [(setting, seed) for seed in range(1, args.seeds) for setting in others]
    return [
        {"layer": layer, "width": wide, "architecture": name, "seed": seed}
        for (layer, wide, name), seed in cells
    ]


def trained(rows: np.ndarray, cell: dict[str, Any], name: str, args: argparse.Namespace) -> sparse_sae.SAE:
    """The SAE of a cell; one that was trained before is loaded."""
    path = Path(args.work) / "saes" / "-".join(str(part) for part in cell.values())
    if (path / "cfg.json").is_file():
        return sparse_sae.load(path)
    sae = sparse_sae.train(
        rows,
        ARCHITECTURES[cell["architecture"]](k=K),
        d_sae=cell["width"],
        n_tokens=args.passes * len(rows),
        seed=cell["seed"],
        metadata={"model_name": name, "hook_name": hook(cell["layer"])},
        progress=False,
    ).sae
    sae.save(path)
    return sae


def hook(layer: int) -> str:
    """The hook point of a layer's SAE."""
    return f"blocks.{layer}.hook_resid_post"


def add_rows(
    result: dict[str, Any],
    cells: list[dict[str, Any]],
    name: str,
    stores: dict[str, dict[str, ActivationStore]],
    sets: dict[str, list[Ticket]],
    args: argparse.Namespace,
    say: Callable[[str], None],
) -> None:
    """The rows of these cells that the result does not have, each written when it is done."""
    layer: Layer | None = None
    for cell in cells:
        if any(all(row[k] == v for k, v in cell.items()) for row in result["rows"]):
            continue
        if layer is None or layer.number != cell["layer"]:
            there = {k: found[hook(cell["layer"])] for k, found in stores.items()}
            layer = Layer(cell["layer"], there, sets, args.neutral)
            result["tokens"] = layer.tokens
        if str(layer.number) not in result["layers"]:
            result["layers"][str(layer.number)] = baselines(layer, args.directions)
            write_json(args.json, result)
            say(f"layer {layer.number}: neurons, directions, dense probe")
        started = time.process_time()
        sae = trained(layer.training, cell, name, args)
        row = cell | latents_of(sae, layer) | {"cpu_seconds": round(time.process_time() - started)}
        result["rows"].append(row)
        write_json(args.json, result)
        areas = ", ".join(f"{v['latent']['auroc']['value']:.2f}" for v in row["label"].values())
        say(f"{cell}: FVU {row['fvu']:.3f}, AUROC {areas}")


def on_random_weights(
    lm: Any, sets: dict[str, list[Ticket]], rows: int, args: argparse.Namespace
) -> dict[str, Any]:
    """The first setting on the model with random weights: as many steps of training, on fewer tickets."""
    few = {name: items[: args.random_tickets] for name, items in sets.items()}
    short = argparse.Namespace(english_tokens=args.english_tokens // 4)
    point = [hook(args.layers[0])]
    other = captured(randomise(lm, seed=0), few, point, Path(args.work) / "random", short)
    place = Layer(args.layers[0], {k: found[point[0]] for k, found in other.items()}, few, args.neutral // 4)
    sae = sparse_sae.train(
        place.training,
        sparse_sae.TopK(k=K),
        d_sae=args.widths[0],
        n_tokens=args.passes * rows,
        seed=0,
        progress=False,
    ).sae
    return random_weights(sae, place)


def with_budget(passes: int, share: float, layer: Layer, args: argparse.Namespace) -> dict[str, Any]:
    """The first setting, trained so many times over a share of its rows."""
    order = np.random.default_rng(0).permutation(len(layer.training))
    rows = layer.training[np.sort(order[: round(share * len(order))])]
    longer = argparse.Namespace(**{**vars(args), "passes": passes})
    cell = {"layer": layer.number, "width": args.widths[0], "architecture": "TopK", "seed": 0}
    longer.work = Path(args.work) / f"budget-{passes}-{share:g}"
    sae = trained(rows, cell, "", longer)
    return {"passes": passes, "rows": len(rows)} | latents_of(sae, layer)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the result file does not have yet."""
    began = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - began:6.0f} s] {line}", flush=True)

    sets = ticket_sets(args)
    result: dict[str, Any] = {
        "arguments": {
            k: v for k, v in vars(args).items() if k not in ("work", "json", "write_docs", "model")
        },
        "k": K,
        "layers": {},
        "rows": [],
    }
    if args.json.is_file():
        earlier = json.loads(args.json.read_text(encoding="utf-8"))
        if earlier["arguments"] != result["arguments"]:
            raise SystemExit(
                f"{args.json}: made with other arguments ({earlier['arguments']}); give another --json"
            )
        result = earlier
    lm = load_model(args.model)
    result["model"] = lm.name
    stores = captured(lm, sets, [hook(layer) for layer in args.layers], Path(args.work), args)
    cells = grid(args)
    once = 1 + max(i for i, cell in enumerate(cells) if cell["seed"] == 0)  # after it, seeds are repeated
    for part in (cells[:once], cells[once:]):
        add_rows(result, part, lm.name, stores, sets, args, say)
        if "random_weights" not in result and args.random_tickets:
            say("the first setting on random weights")
            result["random_weights"] = on_random_weights(lm, sets, result["tokens"]["training"], args)
            write_json(args.json, result)
        left = BUDGETS[len(result.setdefault("budgets", [])) :]
        if left:
            there = {k: found[hook(args.layers[0])] for k, found in stores.items()}
            layer = Layer(args.layers[0], there, sets, args.neutral)
        for passes, share in left:
            result["budgets"].append(with_budget(passes, share, layer, args))
            write_json(args.json, result)
            say(f"{passes} passes over {share:g} of the rows: FVU {result['budgets'][-1]['fvu']:.3f}")
    return result


def main() -> None:
    """Go on with the study, or write the page from its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="directory, GGUF file or id; by default SmolLM2-135M-Instruct")
    parser.add_argument("--layers", type=int, nargs="+", default=[15, 10, 20, 5, 25])
    parser.add_argument("--widths", type=int, nargs="+", default=[4608, 16384])
    parser.add_argument("--architectures", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tickets", type=int, default=1500, help="development tickets, and held-out ones")
    parser.add_argument("--read", type=int, default=1000, help="tickets that SAEs are trained on")
    parser.add_argument("--english-tokens", type=int, default=100_000, help="and English prose")
    parser.add_argument("--neutral", type=int, default=300, help="pieces of English that are held out")
    parser.add_argument(
        "--directions", type=int, default=1024, help="random directions, the best of which counts"
    )
    parser.add_argument("--passes", type=int, default=2, help="passes of training over its tokens")
    parser.add_argument(
        "--random-tickets", type=int, default=600, help="of each set, for random weights; 0: not"
    )
    parser.add_argument("--work", default="refund-feature-work", help="directory for activations and SAEs")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--write-docs", action="store_true", help="only fill the page from the result file")
    args = parser.parse_args()
    if not args.write_docs:
        run(args)
    if args.write_docs or args.json == RESULT:
        result = json.loads(RESULT.read_text(encoding="utf-8"))
        fill(PAGE, contents(result, blocks(PAGE.read_text(encoding="utf-8"))))
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
