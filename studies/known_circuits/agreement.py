"""Subject and verb on SmolLM2: a feature circuit found on some nouns and confirmed on others.

Pairs are "The key near the cabinets" and "The keys near the cabinets": one subject in two numbers, the attractor in
either, and the question is by how much the logit of the right one of " is" and " are" exceeds that of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sae.circuits import DictionarySet, Pair, feature_circuit, pair_margins, train_set
from sparse_sae.lm import english_documents

BETWEEN = ("near", "behind", "beside")
IRREGULAR = {"glass": "glasses", "box": "boxes", "coach": "coaches"}
# subjects and attractors to find the circuit on, then those to confirm it on: no noun is in both
NOUNS = (
    (
        "key",
        "picture",
        "book",
        "letter",
        "teacher",
        "student",
        "nurse",
        "farmer",
        "dog",
        "cat",
        "car",
        "boat",
        "lamp",
        "box",
        "coat",
        "ring",
        "map",
        "statue",
        "truck",
        "pilot",
        "singer",
        "lawyer",
        "friend",
        "brother",
    ),
    (
        "cabinet",
        "wall",
        "desk",
        "house",
        "door",
        "table",
        "river",
        "tree",
        "garden",
        "bridge",
        "road",
        "tower",
    ),
    (
        "horse",
        "ship",
        "sailor",
        "guest",
        "artist",
        "poet",
        "manager",
        "worker",
        "author",
        "editor",
        "boy",
        "girl",
        "player",
        "coach",
        "judge",
        "tool",
        "machine",
        "phone",
        "clock",
        "camera",
        "guitar",
        "drum",
        "soldier",
        "queen",
    ),
    (
        "window",
        "chair",
        "bird",
        "flower",
        "mirror",
        "bottle",
        "glass",
        "building",
        "wheel",
        "engine",
        "stone",
        "screen",
    ),
)
SEED = 0


def plural(noun: str) -> str:
    """Of one of the nouns here."""
    return IRREGULAR.get(noun, noun + "s")


def templates(subjects: Sequence[str], attractors: Sequence[str], n: int, seed: int) -> list[Pair]:
    """n pairs; every other one asks for the plural, every other two have a plural attractor."""
    rng = np.random.default_rng(seed)
    out = []
    for number in range(n):
        subject, near, between = (str(rng.choice(words)) for words in (subjects, attractors, BETWEEN))
        near = plural(near) if number // 2 % 2 else near
        one, many = (f"The {word} {between} the {near}" for word in (subject, plural(subject)))
        out.append(Pair(many, one, " are", " is") if number % 2 else Pair(one, many, " is", " are"))
    return out


def done_right(lm: Any, pairs: list[Pair]) -> tuple[list[Pair], Any]:
    """The pairs whose two prompts the model continues rightly, and the margins of all."""
    margins = pair_margins(lm, pairs)
    return [p for p, m in zip(pairs, margins, strict=True) if (m > 0).all()], margins


def residual_set(
    lm: Any, out: Path, layers: Sequence[int], *, d_sae: int, capture_tokens: int, tokens: int
) -> DictionarySet:
    """SAEs of the residual stream after those layers, from English text."""
    return train_set(
        lm,
        english_documents,
        out,
        layers=[],
        residual=layers,
        d_sae=d_sae,
        capture_tokens=capture_tokens,
        n_tokens=tokens,
    )


def study(
    lm: Any, made: DictionarySet, *, n_pairs: int, nodes: Sequence[int], shown: int, n_random: int
) -> dict[str, Any]:
    """Circuits of features, neurons and random directions of several sizes, on the nouns they come from and on others.

    Args:
        lm: the model.
        made: SAEs of the residual stream.
        n_pairs: templates on each side, before those that the model gets wrong are left out.
        nodes: sizes, rising.
        shown: one of them, whose nodes and edges are kept and which random circuits are held against.
        n_random: random circuits.
    """
    sides = {
        "train": templates(*NOUNS[:2], n_pairs, SEED),
        "held_out": templates(*NOUNS[2:], n_pairs, SEED + 1),
    }
    out: dict[str, Any] = {
        "model": lm.name,
        "hooks": list(made),
        "fvu": {hook: d.sae.metadata["held_out"]["fvu"] for hook, d in made.items()},
        "d_sae": next(iter(made.values())).sae.d_sae,
        "pairs": {},
        "kinds": {},
    }
    kept = {}
    for name, pairs in sides.items():
        kept[name], margins = done_right(lm, pairs)
        out["pairs"][name] = {
            "asked": len(pairs),
            "right": len(kept[name]),
            "prompts_right": float((margins > 0).mean()),
            "margin": float(margins[(margins > 0).all(1)].mean()),
        }
    for kind in ("features", "neurons", "random"):
        circuit = feature_circuit(
            lm,
            made,
            kept["train"],
            method="integrated",
            steps=5,
            units=kind,
            node_threshold=1e-9,
            max_nodes=shown,
            edge_threshold=None,
            batch_size=16,
            seed=SEED,
        )
        rows: dict[str, Any] = {"errors": sum(n.latent < 0 for n in circuit.nodes)}
        for name, pairs in kept.items():
            curve = circuit.curve(pairs, sizes=nodes)
            rows[name] = {
                "nodes": curve.sizes,
                "faithfulness": curve.faithfulness,
                "completeness": curve.completeness,
            }
        if kind == "features":
            random = circuit.random(kept["held_out"], n_random=n_random, seed=SEED)
            closer = np.abs(1 - random) <= abs(1 - rows["held_out"]["faithfulness"][list(nodes).index(shown)])
            out["chance"] = {
                "nodes": shown,
                "faithfulness": [float(x) for x in random],
                "p": float((1 + closer.sum()) / (1 + n_random)),
            }
        print(kind, rows, flush=True)
        out["kinds"][kind] = rows
    few = kept["train"][:8]
    circuit = feature_circuit(
        lm, made, few, method="integrated", steps=5, node_threshold=1e-9, max_nodes=shown, seed=SEED
    )
    strong = sorted(circuit.nodes, key=lambda n: -abs(n.effect))
    rows_, columns = circuit.edges.nonzero()
    edges = sorted(
        (
            (float(circuit.edges[t, s]), str(circuit.nodes[s]), str(circuit.nodes[t]))
            for t, s in zip(rows_, columns, strict=True)
        ),
        key=lambda e: -abs(e[0]),
    )
    out["shown"] = {
        "pairs": len(few),
        "nodes": [[str(n), n.effect] for n in strong[:12]],
        "edges": [list(e) for e in edges[:8]],
        "by_position": {
            str(p): [sum(n.hook == h and n.position == p for n in circuit.nodes) for h in circuit.hooks]
            for p in range(1, 5)
        },
    }
    return out
