"""Does a latent steer a judgement about refunds more than other pushes of its size do?

    python studies/refund_steering/run.py                 # goes on where it stopped; docs/results/refund_steering.json
    python studies/refund_steering/run.py --write-docs    # no model: fills docs/refunds.md from the result files
    python studies/refund_steering/run.py --sae SAE --detector N --json docs/results/refund_steering_found.json

A judge first (two examples before the ticket, the threshold calibrated on development tickets, its AUROC measured on
held-out ones). Then, on development tickets, the effect per unit of norm of every living latent and of random
directions by one gradient; real pushes of the size of one typical activation along some of each, on held-out tickets;
the chosen latents, a pair and the difference of means at doses from 0.1 to 2 typical activations; and the detector and
its strongest rivals at one of them on many more tickets. Each part is written when it is done, the last two ticket
chunk by ticket chunk.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from judging import Bench, judge_of, neutral_texts, short, unit  # beside this file
from page import contents

import sparse_sae
from sparse_sae._io.atomic import write_json
from sparse_sae._io.documents import blocks, fill
from sparse_sae.demo.tickets import labels_of, tickets
from sparse_sae.lm import load_model
from sparse_sae.lm.steering.interventions import steer_direction
from sparse_sae.lm.studies.judge import Judge
from sparse_sae.lm.studies.scores import score_texts
from sparse_sae.probing import auroc, unit_probe

HERE = Path(__file__).resolve().parents[2]
RESULTS = {  # which blocks of the page each fills
    "steering": HERE / "docs" / "results" / "refund_steering.json",
    "found": HERE / "docs" / "results" / "refund_steering_found.json",
}
PAGE = HERE / "docs" / "refunds.md"
DOSES = (0.1, 0.25, 0.5, 1.0, 2.0)
LABEL = "refund_asked"
CHUNK = 32  # tickets in one pass
BLOCK = 128  # tickets between two writings of the result, those of alike length in one pass
RECORDED = ("tickets", "final", "development", "controls", "control_tickets", "directions", "seed")


def random_directions(seed: int, n: int, d_in: int) -> np.ndarray:
    """(n, d_in) directions, of no particular norm: the same wherever they are asked for."""
    return np.random.default_rng([seed, 1]).standard_normal((n, d_in))


def prepared(bench: Bench, sae: sparse_sae.SAE, items: list[Any], args: argparse.Namespace) -> dict[str, Any]:
    """On development tickets: the latents, their typical activations, and every effect to first order."""
    gradients, activations = bench.read(items)
    codes = [sae.encode(x) for x in activations]
    asked = labels_of(items)[LABEL]
    pooled = np.stack([np.asarray(c.max(axis=0).todense()).ravel() for c in codes])
    fired = np.stack([np.asarray((c > 0).sum(axis=0)).ravel() for c in codes]).sum(0)
    total = np.stack([np.asarray(c.sum(axis=0)).ravel() for c in codes]).sum(0)
    living = np.flatnonzero(fired >= 3)  # once is an accident
    decoder = sae.rows["W_dec"]
    norms = np.linalg.norm(decoder, axis=1)
    slope = gradients.mean(0)
    effects = decoder[living] @ slope / norms[living]
    if args.detector is None:
        detector = int(living[unit_probe(pooled[:, living], asked, signs=(1,)).columns[0]])
    elif args.detector in living:
        detector = args.detector
    else:
        raise SystemExit(
            f"--detector: got {args.detector}, which fires at fewer than 3 tokens of {len(items)} tickets; "
            f"expected one of the {len(living)} that fire more often"
        )
    order = living[np.argsort(-effects)]
    strongest, second = int(order[0]), int(order[1])
    typical = total[living] * norms[living] / fired[living]
    means = np.stack([x.mean(0) for x in activations])
    difference = means[asked].mean(0) - means[~asked].mean(0)
    random = random_directions(args.seed, args.directions, len(slope))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    size = float(typical[np.flatnonzero(living == detector)[0]])
    arms = {
        f"detector ({detector})": unit(decoder[detector]),
        f"strongest by gradient ({strongest})": unit(decoder[strongest]),
        f"pair ({strongest}, {second})": unit(unit(decoder[strongest]) + unit(decoder[second])),
        "difference of means": unit(difference),
        "gradient itself": unit(slope),
    }
    return {
        "typical": size,
        "typical_of_living": np.percentile(typical, [5, 50, 95]).round(3).tolist(),
        "residual_norm": float(np.median(np.linalg.norm(np.concatenate(activations), axis=1))),
        "living": living.tolist(),
        "effects": effects.round(5).tolist(),
        "random_effects": (random @ slope).round(5).tolist(),
        "slope_norm": float(np.linalg.norm(slope)),
        "arms": {name: vector.round(6).tolist() for name, vector in arms.items()},
        "arm_effects": {name: round(float(vector @ slope), 5) for name, vector in arms.items()},
        "detector_auroc_development": float(auroc(pooled[:, detector], asked)),
    }


def controls(
    bench: Bench,
    sae: sparse_sae.SAE,
    items: list[Any],
    ready: dict[str, Any],
    args: argparse.Namespace,
    part: dict[str, Any],
    save: Callable[[dict[str, Any]], None],
    inside: bool = False,
) -> dict[str, Any]:
    """Real pushes of one typical activation: the arms, random living latents, random directions.

    Args:
        inside: push at the ticket's own words alone, so that no push can write the answer where it is read.
    """
    rng = np.random.default_rng([args.seed, 2])
    chosen = rng.choice(ready["living"], min(args.controls, len(ready["living"])), replace=False)
    random = random_directions(args.seed, args.directions, sae.d_in)
    directions = {f"latent {j}": unit(sae.rows["W_dec"][j]) for j in chosen.tolist()}
    directions |= {f"direction {i}": unit(random[i]) for i in range(min(args.controls, len(random)))}
    directions |= {name: np.array(v, np.float32) for name, v in ready["arms"].items()}
    pushes = {name: v * np.float32(ready["typical"]) for name, v in directions.items()}
    # pushes that are done stay done: (name -> margins) is written after every twentieth
    kept: dict[str, list[float]] = dict(part.get("margins", {}))

    def each(name: str, values: np.ndarray) -> None:
        kept[name] = values.tolist()
        if len(kept) % 20 == 0:
            save({"margins": kept})

    left = {name: v for name, v in pushes.items() if name not in kept}
    bench.margins(items, left, chunk=len(items), each=each, inside=inside)
    margins = {name: np.array(kept[name]) for name in pushes}
    plain = np.array(kept["unsteered"])
    predicted = dict(zip(ready["living"], ready["effects"], strict=True))
    return {
        "tickets": len(items),
        "groups": [item.sentences[LABEL] for item in items],
        "changes": {name: (values - plain).round(4).tolist() for name, values in margins.items()},
        "predicted": {
            name: round(
                ready["typical"]
                * (
                    predicted[int(name[7:])]
                    if name[:6] == "latent"
                    else ready["random_effects"][int(name[10:])]
                ),
                4,
            )
            for name in margins
            if name not in ready["arms"]
        },
    }


def side_effects(
    bench: Bench, sae: sparse_sae.SAE, ready: dict[str, Any], measured: dict[str, Any], n: int
) -> dict[str, Any]:
    """KL on neutral text, nats a token: of the arms at each dose, of some controls at one typical activation."""
    arms = {name: np.array(v, np.float32) for name, v in ready["arms"].items()}
    size = ready["typical"]
    pushes = {f"{name} × {dose:g}": v * np.float32(dose * size) for name, v in arms.items() for dose in DOSES}
    names = list(measured["predicted"])
    some = [name for name in names if name[:6] == "latent"][:n] + [
        name for name in names if name[:4] == "dire"
    ][:n]
    random = random_directions(ready["seed"], len(ready["random_effects"]), sae.d_in)
    for name in some:
        row = sae.rows["W_dec"][int(name[7:])] if name[:6] == "latent" else random[int(name[10:])]
        pushes[name] = unit(row) * np.float32(size)

    def edit(vector: np.ndarray) -> Any:
        return lambda: steer_direction(bench.lm, bench.hook, vector, 1.0)

    scores = score_texts(
        bench.lm, neutral_texts(), {name: edit(v) for name, v in pushes.items()}, batch_size=4, max_tokens=64
    )
    return {
        "tokens": int(scores["unedited"].tokens.sum()),
        "kl": {name: round(scores[name].kl, 6) for name in pushes},
    }


def dose_pushes(ready: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every arm at every dose, both ways."""
    return {
        f"{name} × {sign * dose:g}": np.array(v, np.float32) * np.float32(sign * dose * ready["typical"])
        for name, v in ready["arms"].items()
        for dose in DOSES
        for sign in (1, -1)
    }


def final_pushes(
    sae: sparse_sae.SAE, ready: dict[str, Any], measured: dict[str, Any]
) -> dict[str, np.ndarray]:
    """One typical activation, both ways: the detector, the baseline, and the control that moved the margin furthest
    on fewer tickets."""
    own = {number for name in ready["arms"] for number in re.findall(r"\d+", name)}
    moved = {
        name: abs(np.mean(measured["changes"][name]))
        for name in measured["predicted"]
        if name.startswith("direction") or name.split()[1] not in own  # an arm may be among the latents drawn
    }
    furthest = max(moved, key=moved.__getitem__)
    kind, number = furthest.split()
    random = random_directions(ready["seed"], len(ready["random_effects"]), sae.d_in)
    directions = {name: ready["arms"][name] for name in ready["arms"] if name.startswith(("det", "diff"))}
    row = (sae.rows["W_dec"] if kind == "latent" else random)[int(number)]
    directions[f"the control that moved most ({furthest})"] = unit(row)
    return {
        f"{name} × {sign}": np.array(v, np.float32) * np.float32(sign * ready["typical"])
        for name, v in directions.items()
        for sign in (1, -1)
    }


def along(
    bench: Bench,
    items: list[Any],
    pushes: dict[str, np.ndarray],
    before: dict[str, Any] | None,
    save: Callable[[dict[str, Any]], None],
    least: int | None = None,
) -> None:
    """Margins of held-out tickets under every push; goes on after the tickets that are done.

    Args:
        before: the part of the result that is there.
        least: stop when so many tickets are done, None: all.
    """
    asked = labels_of(items)[LABEL]
    before = before or {"tickets": 0, "margins": {}}
    while before["tickets"] < min(len(items), least or len(items)):
        n = before["tickets"]
        block = items[n : n + BLOCK]
        order = np.argsort([len(ids) for ids in bench.tokens(block)], kind="stable")
        part = bench.margins([block[i] for i in order], pushes, chunk=CHUNK)
        place = np.argsort(order)  # of each ticket among the sorted ones
        n += len(block)
        before = {
            "tickets": n,
            "asked": asked[:n].astype(int).tolist(),
            "groups": [item.sentences[LABEL] for item in items[:n]],
            "margins": {
                name: [*before["margins"].get(name, []), *values[place].round(3).tolist()]
                for name, values in part.items()
            },
        }
        save(before)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Every part that the result file does not have yet."""
    began = time.perf_counter()
    arguments = {k: getattr(args, k) for k in RECORDED}
    if args.detector is not None:
        arguments |= {"sae": args.sae, "detector": args.detector}
    result: dict[str, Any] = {"arguments": arguments, "doses": list(DOSES)}
    if args.json.is_file():
        earlier = json.loads(args.json.read_text(encoding="utf-8"))
        if earlier["arguments"] != result["arguments"]:
            raise SystemExit(
                f"{args.json}: made with other arguments ({earlier['arguments']}); give another --json"
            )
        result = earlier

    def keep(name: str, value: Any) -> None:
        result[name] = value
        write_json(args.json, result)
        print(f"[{time.perf_counter() - began:6.0f} s] {name}", flush=True)

    lm = load_model(args.model)
    sae = sparse_sae.load(args.sae)
    hook = sae.metadata["hook_name"]
    seen = tickets(args.development, 2, "train", "large")
    held_out = tickets(max(args.tickets, args.control_tickets, args.final), 3, "held_out", "large")
    result["model"], result["hook"] = lm.name, hook
    result["sae"] = {"d_sae": sae.d_sae, "architecture": type(sae.activation).__name__}
    if "judge" not in result:
        judge = judge_of(lm, seen)
        margins = judge.margins(lm, [judge.prompt(short(item)) for item in held_out[: args.judged]])
        asked = labels_of(held_out[: args.judged])[LABEL]
        own = {
            "held_out": len(asked),
            "auroc_held_out": float(auroc(margins, asked)),
            "accuracy_held_out": float(((margins > 0) == asked).mean()),
        }
        keep("judge", {**vars(judge), **own})
    fields = ("preface", "before", "after", "yes", "no", "threshold", "auroc")
    bench = Bench(lm, Judge(**{k: result["judge"][k] for k in fields}), hook)
    if "prepared" not in result:
        keep("prepared", prepared(bench, sae, seen, args) | {"seed": args.seed})
    ready = result["prepared"]
    some, pushes = held_out[: args.tickets], dose_pushes(ready)
    along(bench, some, pushes, result.get("held_out"), partial(keep, "held_out"), least=1)
    for name, inside in (("controls", False), ("inside", True)):
        if "changes" not in result.get(name, {}):
            few, part = held_out[: args.control_tickets], result.get(name, {})
            save = partial(keep, name)
            save(controls(bench, sae, few, ready, args, part, save, inside))
    if "side_effects" not in result:
        keep("side_effects", side_effects(bench, sae, ready, result["controls"], args.side_controls))
    along(bench, some, pushes, result.get("held_out"), partial(keep, "held_out"))
    pushes = final_pushes(sae, ready, result["controls"])
    along(bench, held_out[: args.final], pushes, result.get("final"), partial(keep, "final"))
    return result


def main() -> None:
    """Go on with the study, or write the page from its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="directory, GGUF file or id; by default SmolLM2-135M-Instruct")
    parser.add_argument(
        "--sae",
        default="sae-demo/sae-60000-4608-32/sae",
        help="as `sparse-sae demo --tokens 60000` leaves it",
    )
    parser.add_argument(
        "--detector", type=int, help="the latent in question; by default the best on development tickets"
    )
    parser.add_argument("--tickets", type=int, default=256, help="held-out tickets of the doses")
    parser.add_argument(
        "--final",
        type=int,
        default=10_000,
        help="held-out tickets of one dose of the detector and few others",
    )
    parser.add_argument(
        "--development", type=int, default=100, help="tickets of the threshold and the gradient"
    )
    parser.add_argument("--judged", type=int, default=150, help="held-out tickets the judge is measured on")
    parser.add_argument(
        "--controls", type=int, default=100, help="random latents, and as many directions, really run"
    )
    parser.add_argument("--control-tickets", type=int, default=32, help="held-out tickets they are run on")
    parser.add_argument("--directions", type=int, default=1000, help="random directions by gradient")
    parser.add_argument(
        "--side-controls", type=int, default=8, help="controls of each kind with side effects"
    )
    parser.add_argument("--json", type=Path, default=RESULTS["steering"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write-docs", action="store_true", help="only fill the page from the result file")
    args = parser.parse_args()
    if not args.write_docs:
        run(args)
    if args.write_docs or args.json.resolve() in RESULTS.values():
        results = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in RESULTS.items()}
        fill(PAGE, contents(results, blocks(PAGE.read_text(encoding="utf-8"))))
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
