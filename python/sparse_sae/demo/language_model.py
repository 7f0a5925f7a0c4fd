"""The main job, start to end, over the public API: capture, train, measure, find, steer.

Read it as a tutorial: each function is one thing a user does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae import SAE, TopK, evaluate, load, train
from sparse_sae._io.arrays import Array
from sparse_sae._io.atomic import write_json
from sparse_sae.data.store import ActivationStore
from sparse_sae.demo.tickets import Split, labels_of, tickets
from sparse_sae.lm import LanguageModel, capture, english_documents, generate, load_model, steer, why
from sparse_sae.probing import Detector, document_maxima, label_detectors, top_contexts, unit_views
from sparse_sae.training import checkpoint
from sparse_sae.training.progress import Bar

HOOK = "blocks.15.hook_resid_post"
SPLITS: tuple[Split, Split] = ("train", "held_out")
PROMPT = "My parcel is three weeks late and I want my money back. Can I get a refund?"
ANSWER = "Unfortunately, refunds are not available."


def run(
    *, tokens: int, features: int, k: int, out: Path, model: str | None = None, json_path: Path | None = None
) -> dict[str, Any]:
    """The demo on a real language model; returns what it prints, as JSON values."""
    print(f"1. Language model: {model or 'SmolLM2-135M-Instruct'}, hook point {HOOK}")
    lm = load_model(model)

    n_tickets = min(1000, max(150, tokens // 500))
    labelled = {split: tickets(n_tickets, seed=0, split=split) for split in SPLITS}
    print(
        f"2. Activations of {tokens:,} tokens, kept in {out}: {n_tickets} training and {n_tickets} held-out support "
        "tickets, then English prose from Python's own documentation"
    )
    texts = chain((t.text for split in SPLITS for t in labelled[split]), english_documents())
    store = _captured(lm, texts, out / f"activations-{tokens}", tokens)
    parts = _split(store, n_tickets)
    excluded = store.excluded
    print(f"   left out of training: {', '.join(f'{n} {kind}' for kind, n in excluded.items())}")

    print(f"3. TopK SAE, {features:,} latents, k = {k}, on {len(parts['training']):,} tokens")
    sae = _trained(parts["training"], out / f"sae-{tokens}-{features}-{k}", features, k, lm.name)
    metrics = evaluate(sae, parts["held out"])
    print(
        f"4. Quality on {len(parts['held out']):,} held-out tokens of prose and tickets\n{_indented(metrics)}"
    )

    print("5. The best single neuron, latent and random direction for each label, on tickets in unseen words")
    by_split = {split: parts[f"{split} tickets"] for split in SPLITS}
    labels = _detectors(sae, by_split, {split: labels_of(items) for split, items in labelled.items()})
    print(_label_table(labels))

    print("6. Where latents fire most")
    shown = [d["latent"].index for d in labels.values()]
    fired = np.flatnonzero(metrics.density > 0)
    others = np.random.default_rng(0).permutation(fired[~np.isin(fired, shown)])
    chosen = [*dict.fromkeys(shown), *others.tolist()][:12]
    contexts = {
        latent: [f"{context.value:7.1f}  {context.text(lm.tokenizer)}" for context in found]
        for latent, found in top_contexts(sae, parts["training"], chosen, n=4).items()
    }
    for latent, lines in contexts.items():
        print(f"   latent {latent}")
        for line in lines:
            print(f"      {line}")

    latent = labels["refund_asked"]["latent"].index
    print(f"7. Steering: latent {latent} added while the model answers «{PROMPT}»")
    steering = _steered(lm, sae, latent, by_split["train"])
    for example in steering:
        print(f"   {example['strength']:+8.1f}  {example['text']}")

    print(f"8. Why does it say «{ANSWER}»?")
    names = {}
    for name, found in labels.items():
        names[found["latent"].index] = f"detects {name}" if found["latent"].sign > 0 else f"detects no {name}"
    reason = why(lm, sae, [{"role": "user", "content": PROMPT}], ANSWER, store=parts["training"], names=names)
    print(f"   {reason.line()}")

    result = {
        "fvu": metrics.fvu,
        "l0": metrics.l0,
        "dead_fraction": metrics.dead_fraction,
        "tokens": len(parts["training"]),
        "excluded_tokens": sum(excluded.values()),
        "excluded": excluded,
        "labels": {
            name: {kind: detector.to_dict() for kind, detector in found.items()}
            for name, found in labels.items()
        },
        "contexts": {str(latent): lines for latent, lines in contexts.items()},
        "steering": {"latent": latent, "prompt": PROMPT, "examples": steering},
        "why": reason.to_dict(),
    }
    if json_path:
        write_json(json_path, result)
    where = f"{out / f'sae-{tokens}-{features}-{k}' / 'sae'} --store {out / f'activations-{tokens}'}"
    print(f"9. Look around in all latents: sparse-sae browse {where} --model{f' {model}' if model else ''}")
    return result


def _captured(lm: LanguageModel, texts: Iterator[str], path: Path, max_tokens: int) -> ActivationStore:
    """Activations of texts, each in a context of its own; what an earlier run captured is reused."""
    try:
        return ActivationStore(path)
    except (FileNotFoundError, ValueError):
        with Bar("capturing", max_tokens) as bar:
            return capture(
                lm,
                texts,
                HOOK,
                path,
                max_tokens=max_tokens,
                pack=False,
                parse_special=False,
                progress=lambda p: bar.update(p.tokens, f"{p.tokens_per_second:,.0f} tokens/s"),
            )


def _split(store: ActivationStore, n_tickets: int) -> dict[str, ActivationStore]:
    """By text: the first n_tickets are training tickets, as many held-out ones follow, then prose.

    Every tenth prose document is held out of training, and so are the held-out tickets.
    """
    texts = np.unique(store.documents)
    ticket = texts < 2 * n_tickets
    held_out = np.where(ticket, texts >= n_tickets, texts % 10 == 0)
    if not (~ticket & held_out).any():
        raise ValueError(
            f"tokens: {len(store):,} leave no prose beside {2 * n_tickets} tickets; ask for 40,000 or more"
        )
    chosen = {
        "training": ~held_out,
        "held out": held_out,
        "train tickets": ticket & ~held_out,
        "held_out tickets": ticket & held_out,
    }
    return {name: store.select(documents=texts[mask]) for name, mask in chosen.items()}


def _trained(rows: ActivationStore, path: Path, features: int, k: int, model_name: str) -> SAE:
    if (path / "sae").is_dir():
        return load(path / "sae")
    passes = max(2, min(4, 400_000 // len(rows)))
    metadata = {"model_name": model_name, "hook_name": HOOK}
    # A demo that was stopped while it trained goes on where it was.
    return train(
        rows,
        TopK(k=k),
        d_sae=features,
        n_tokens=passes * len(rows),
        out=path,
        metadata=metadata,
        resume=checkpoint.exists(path),
    ).sae


def _detectors(
    sae: SAE, stores: Mapping[Split, ActivationStore], labels: Mapping[Split, Mapping[str, Array]]
) -> dict[str, dict[str, Detector]]:
    """For each label the best neuron, latent and random direction by a ticket's highest value on any token."""
    pooled = {
        split: {kind: document_maxima(store, view) for kind, view in unit_views(sae).items()}
        for split, store in stores.items()
    }
    return label_detectors(pooled["train"], pooled["held_out"], labels["train"], labels["held_out"])


def _label_table(labels: dict[str, dict[str, Detector]]) -> str:
    lines = [f"   {'AUROC (average precision)':28}{'neuron':>16}{'latent':>16}{'random':>16}"]
    for name, found in labels.items():
        cells = "".join(
            f"{f'{found[kind].auroc:.3f} ({found[kind].average_precision:.3f})':>16}"
            for kind in ("neuron", "latent", "random")
        )
        lines.append(f"   {name:28}{cells}")
    return "\n".join(lines)


def _steered(lm: LanguageModel, sae: SAE, latent: int, store: ActivationStore) -> list[dict[str, Any]]:
    """Greedy answers with the latent added at multiples of its strongest activation on the tickets."""
    strongest = max(
        float(sae.encode(store.rows(slice(s, s + 8192)), latents=[latent]).max())
        for s in range(0, len(store), 8192)
    )
    examples = []
    for multiple in (-1.0, 0.0, 0.5, 1.0):
        strength = multiple * strongest
        with steer(lm, sae, {latent: strength}, hook=HOOK):
            text = generate(lm, [{"role": "user", "content": PROMPT}], max_new_tokens=32)
        examples.append({"strength": strength, "text": " ".join(text.split())})
    return examples


def _indented(text: Any) -> str:
    return "\n".join(f"   {line}" for line in str(text).splitlines())
