"""Which feature makes the shop's assistant refuse refunds, and what happens when it is turned up and down?

    python studies/refunds/run.py                    # the study; writes docs/results/refunds.json and the pages
    python studies/refunds/run.py --tickets 10000    # the same with many more held-out tickets
    python studies/refunds/run.py --write-docs       # no model: fills the pages from the result file

Generated support tickets with known labels are put to a small language model that has to decide: refund
(Yes), no refund (No), or pass it on (Manager). An SAE is trained on the model's activations; latents that
detect the labels and latents that drive the decision are found on training tickets; then both kinds are
added and subtracted while the model decides on held-out tickets, whose wordings nothing before has seen. The
decision is read from the probabilities of the next token, so one forward pass decides a ticket.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from page import contents  # beside this file

import sparse_sae
from sparse_sae._io.atomic import atomic_write, write_json
from sparse_sae._io.documents import blocks, fill
from sparse_sae.data.store import ActivationStore
from sparse_sae.demo.tickets import LABELS, label_matrix, labels_of, tickets
from sparse_sae.lm import english_documents, load_model
from sparse_sae.lm.explaining.attribution import Explanation, explain
from sparse_sae.lm.harvest.recording import capture
from sparse_sae.lm.studies.dose import DoseResponse, dose_response
from sparse_sae.lm.studies.experiments import adjusted, decisions
from sparse_sae.lm.studies.quality import model_quality, randomise
from sparse_sae.lm.studies.scores import choice_logprobs
from sparse_sae.probing import auroc, document_maxima, label_detectors, unit_views

HERE = Path(__file__).resolve().parents[2]
RESULT = HERE / "docs" / "results" / "refunds.json"
PAGES = (HERE / "docs" / "refunds.md", HERE / "docs" / "language-models.md")
FIGURE = HERE / "docs" / "figures" / "refunds.png"

HOOK = "blocks.15.hook_resid_post"
CHOICES = {"approve": "Yes", "refuse": "No", "escalate": "Manager"}
SYSTEM = (
    "You are the support assistant of an online shop. Late parcels are refunded. "
    "Does this customer get a refund? Answer with one word: Yes, No or Manager."
)
COMPLAINT = "My parcel is three weeks late and I want my money back. Can I get a refund?"
REFUSAL = "Unfortunately, refunds are not available."
# strengths, as shares of the median norm of the residual stream at the hook point
SHARES = (-0.5, -0.25, 0.25, 0.5)
# arguments that a result depends on
RECORDED = (
    "sae",
    "activations",
    "tokens",
    "passes",
    "latents",
    "tickets",
    "train_tickets",
    "explained",
    "controls",
    "random_weights",
    "seed",
)


def chat(lm: Any, user: str, system: str | None = SYSTEM) -> str:
    """A prompt in the model's chat format, up to where the assistant speaks."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    text: str = lm.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return text


def sae_and_store(
    lm: Any, args: argparse.Namespace, out: Path
) -> tuple[sparse_sae.SAE, ActivationStore, dict[str, Any]]:
    """The SAE given, or one trained on half English text and half prompts; its activations and its quality."""
    if args.activations:
        store = ActivationStore(args.activations)
    else:
        # six prompts are about as many tokens as one document
        prompts = (chat(lm, t.text) for t in tickets(args.tokens // 100, seed=1))
        texts = chain.from_iterable((d, *islice(prompts, 6)) for d in english_documents())
        store = capture(lm, texts, HOOK, out / "activations", max_tokens=args.tokens, parse_special=True)
    rows, held_out = store.split(0.1)
    if args.sae:
        sae = sparse_sae.load(args.sae)
    else:
        sae = sparse_sae.train(
            rows,
            sparse_sae.TopK(k=32),
            d_sae=args.latents,
            n_tokens=args.passes * len(rows),
            seed=args.seed,
            metadata={"model_name": lm.name, "hook_name": HOOK},
            progress=False,
        ).sae
    metrics = sparse_sae.evaluate(sae, held_out)
    quality = {"tokens": len(rows), "excluded": store.excluded, "d_sae": sae.d_sae}
    quality["architecture"] = type(sae.activation).__name__
    scores = {name: getattr(metrics, name) for name in ("fvu", "l0", "dead_fraction")}
    return sae, store, quality | scores


def ticket_maxima(lm: Any, prompts: list[str], sae: sparse_sae.SAE, out: Path) -> dict[str, np.ndarray]:
    """The highest value on any token of each prompt, of every neuron, latent and as many random directions."""
    store = capture(lm, prompts, HOOK, out, pack=False, parse_special=True)
    pooled = {kind: document_maxima(store, view) for kind, view in unit_views(sae).items()}
    return {kind.replace("random", "random direction"): values for kind, values in pooled.items()}


def detectors(train: dict[str, np.ndarray], held_out: dict[str, np.ndarray], items: Any) -> dict[str, Any]:
    """For each label the best single neuron, latent and random direction."""
    found = label_detectors(train, held_out, *(labels_of(part) for part in items))
    return {
        name: {kind: detector.to_dict() for kind, detector in kinds.items()} for name, kinds in found.items()
    }


def drivers(lm: Any, sae: sparse_sae.SAE, prompts: list[str]) -> list[dict[str, Any]]:
    """Latents by their mean ablation effect on logit(No) - logit(Yes) over several prompts."""
    effects: dict[int, list[float]] = {}
    agreement = []
    for prompt in prompts:
        found = explain(lm, sae, prompt, ("No", "Yes"), top=10)
        agreement.append(found.agreement)
        for effect in found.effects[:10]:
            effects.setdefault(effect.latent, []).append(effect.ablation or 0.0)
    means = {latent: sum(values) / len(prompts) for latent, values in effects.items()}
    order = sorted(means, key=lambda j: -abs(means[j]))
    return [{"latent": j, "effect": means[j], "prompts": len(effects[j])} for j in order[:10]]


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The whole study; what it returns is the result file."""
    began = time.perf_counter()

    def say(line: str) -> None:
        print(f"[{time.perf_counter() - began:6.0f} s] {line}", flush=True)

    lm = load_model(args.model)
    out = Path(args.work)
    say(f"{lm.name}: {'loading' if args.sae else 'training'} an SAE at {HOOK}")
    sae, store, quality = sae_and_store(lm, args, out)
    sae.save(out / "sae")
    # English that is far behind what training read
    neutral = [text[:400] for text in islice(english_documents(), 300, 312)]
    say(f"FVU {quality['fvu']:.3f}, L0 {quality['l0']:.1f}; quality on the model")
    on_model = model_quality(lm, sae, neutral[:8], max_tokens=128)
    print(on_model)

    found = {
        "train": tickets(args.train_tickets, seed=0),
        "held_out": tickets(args.tickets, seed=0, split="held_out"),
    }
    prompts = {split: [chat(lm, t.text) for t in items] for split, items in found.items()}
    labels = {split: label_matrix(items) for split, items in found.items()}
    shown = min(args.tickets, 400)  # enough held-out tickets for an AUROC
    say("detectors of the five labels")
    maxima = [
        ticket_maxima(lm, prompts["train"], sae, out / "train"),
        ticket_maxima(lm, prompts["held_out"][:shown], sae, out / f"held-out-{shown}"),
    ]
    detected = detectors(*maxima, (found["train"], found["held_out"][:shown]))

    say(f"what drives «{REFUSAL}»")
    refusal = explain(lm, sae, chat(lm, COMPLAINT, system=None), REFUSAL, top=15)
    print(refusal)
    late = (
        labels["train"][:, LABELS.index("refund_asked")] & labels["train"][:, LABELS.index("shipping_delay")]
    )
    due = [prompt for prompt, is_due in zip(prompts["train"], late, strict=True) if is_due]
    say("what drives No against Yes on training tickets where a refund is due")
    driving = drivers(lm, sae, due[: args.explained])
    refund, refuse = detected["refund_asked"]["latent"]["index"], driving[0]["latent"]

    say("the model's own leaning, on training tickets")
    own = choice_logprobs(lm, prompts["train"][:80], list(CHOICES.values())).mean(0)
    prior = dict(zip(CHOICES, own.tolist(), strict=True))
    outcome = decisions(CHOICES, prior=prior, share_prefix=True)

    norm = float(np.median(np.linalg.norm(store.sample(4000), axis=1)))
    strengths = [share * norm for share in SHARES]
    alive = np.flatnonzero(maxima[0]["latent"].max(0) > 0)
    common = {
        "outcomes": list(CHOICES),
        "neutral": neutral,
        "pool": alive,
        "seed": args.seed,
        "progress": say,
    }
    say(f"steering on {args.tickets} held-out tickets")
    steering = time.process_time()
    responses = {
        "drives the refusal": dose_response(
            lm,
            sae,
            refuse,
            strengths,
            prompts["held_out"],
            outcome,
            n_directions=args.controls,
            n_latents=args.controls,
            **common,
        ),
        "detects that a refund is asked for": dose_response(
            lm,
            sae,
            refund,
            strengths,
            prompts["held_out"],
            outcome,
            n_directions=0,
            n_latents=0,
            **common,
        ),
    }
    steering = time.process_time() - steering
    write_figure(responses)
    return {
        "arguments": {k: v for k, v in vars(args).items() if k in RECORDED},
        "model": lm.name,
        "hook": HOOK,
        "system": SYSTEM,
        "choices": CHOICES,
        "seed": args.seed,
        "train_tickets": args.train_tickets,
        "tickets": args.tickets,
        "scored_for_auroc": shown,
        "sae": quality,
        "on_model": on_model.to_dict(),
        "labels": detected,
        "refusal": trimmed(refusal),
        "drivers": driving,
        "explained_tickets": args.explained,
        "latents": {"drives the refusal": refuse, "detects that a refund is asked for": refund},
        "prior": prior,
        "median_norm": norm,
        "own_decisions": own_decisions(lm, prompts["held_out"][:400], labels["held_out"][:400], outcome),
        "changes": summary(responses),
        "random_weights": control(lm, args, out) if args.random_weights else None,
        "seconds": round(time.perf_counter() - began),
        "steering_cpu_seconds": round(steering),
    }


def own_decisions(lm: Any, prompts: list[str], labels: np.ndarray, outcome: Any) -> dict[str, Any]:
    """How the unsteered model decides, and whether that has to do with who is due a refund."""
    values = outcome(lm, prompts)
    due = labels[:, LABELS.index("refund_asked")] & labels[:, LABELS.index("shipping_delay")]
    return {
        "tickets": len(prompts),
        "rates": {name: float(values[name].mean()) for name in CHOICES},
        "due": float(due.mean()),
        "auroc_approve_when_due": float(auroc(values["log p(approve)"], due)),
    }


def summary(responses: dict[str, DoseResponse]) -> list[dict[str, Any]]:
    """One row a latent, strength and outcome; p-values adjusted over all of them together."""
    controls = next(iter(responses.values()))
    tests = [
        (name, s, response.arms[0].changes[s][outcome], response.arms[0])
        for name, response in responses.items()
        for s in response.strengths
        for outcome in response.outcomes
    ]
    rows = []
    for (name, s, _, arm), change in zip(tests, adjusted([t[2] for t in tests]), strict=True):
        others = np.abs(controls.control_changes(change.outcome, s))
        at = {"latent": name, "strength": s, "outcome": change.outcome, "n": change.n}
        measured = {
            k: getattr(change, k)
            for k in ("before", "after", "change", "change_interval", "p", "p_holm", "p_bh")
        }
        beside = {
            "controls": controls.control_changes(change.outcome, s).tolist(),
            "p_against_controls": float((1 + (others >= abs(change.change)).sum()) / (1 + len(others))),
            "perplexity": arm.perplexity[s],
            "perplexity_unsteered": controls.perplexity,
            "kl": arm.kl[s],
            "kl_controls": [control.kl[s] for control in controls.arms[1:]],
        }
        rows.append(at | measured | beside)
    return rows


def trimmed(found: Explanation) -> dict[str, Any]:
    """An explanation without the latents that were not ablated, and with the three strongest places of
    each.
    """
    whole = found.to_dict()
    whole["effects"] = [
        e | {"places": e["places"][:3]} for e in whole["effects"] if e["ablation"] is not None
    ]
    return whole


def control(lm: Any, args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The same recipe on the model with random weights: what of this needs a model that has learned
    anything.
    """
    random = randomise(lm, seed=args.seed)
    sae, _, quality = sae_and_store(
        random, argparse.Namespace(**{**vars(args), "sae": None, "activations": None}), out / "random"
    )
    found = {
        "train": tickets(args.train_tickets, seed=0),
        "held_out": tickets(min(args.tickets, 400), seed=0, split="held_out"),
    }
    maxima = [
        ticket_maxima(random, [chat(lm, t.text) for t in v], sae, out / "random" / k)
        for k, v in found.items()
    ]
    return {"sae": quality, "labels": detectors(*maxima, list(found.values()))}


def write_figure(responses: dict[str, DoseResponse]) -> None:
    """The dose–response of the driving latent and its controls."""
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(FIGURE) as file:
        responses["drives the refusal"].plot().savefig(file, format="png", dpi=90)


def main() -> None:
    """Run the study, or write the page from its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="directory, GGUF file or id; by default SmolLM2-135M-Instruct")
    parser.add_argument(
        "--sae", help="an SAE trained before, such as `sparse-sae demo` leaves, instead of training one"
    )
    parser.add_argument("--activations", help="the store it was trained on, instead of capturing one")
    parser.add_argument("--tokens", type=int, default=150_000, help="tokens the SAE is trained on")
    parser.add_argument("--passes", type=int, default=4, help="passes over them")
    parser.add_argument("--latents", type=int, default=4608, help="size of the dictionary")
    parser.add_argument("--tickets", type=int, default=200, help="held-out tickets steered on")
    parser.add_argument("--train-tickets", type=int, default=300)
    parser.add_argument(
        "--explained", type=int, default=12, help="training tickets on which drivers are looked for"
    )
    parser.add_argument(
        "--controls", type=int, default=4, help="random directions, and as many random latents"
    )
    parser.add_argument(
        "--random-weights", action="store_true", help="also the same recipe on random weights"
    )
    parser.add_argument("--work", default="refunds-work", help="directory for activations and the SAE")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write-docs", action="store_true", help="only fill the pages from the result file")
    args = parser.parse_args()
    if not args.write_docs:
        write_json(args.json, run(args))
        print(f"wrote {args.json}")
    if args.write_docs or args.json == RESULT:
        result = json.loads(RESULT.read_text())
        for page in PAGES:
            fill(page, contents(result, blocks(page.read_text(encoding="utf-8"))))
            print(f"wrote {page}")


if __name__ == "__main__":
    main()
