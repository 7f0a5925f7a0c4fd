"""What the parts of this study share: architectures, planted data, one training run measured, the result file."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, vstack

import sparse_sae
from sparse_sae import L1, AbsTopK, BatchTopK, Gated, JumpReLU, Matryoshka, TopK
from sparse_sae._io.atomic import write_json
from sparse_sae.match import match
from sparse_sae.synthetic import superposition, zipf
from sparse_sae.training.optim import default_lr

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "docs/results/architectures.json"
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

PLANTED = {"d_sae": 512, "n_tokens": 200_000, "batch_size": 512}
RATE = default_lr(512, 200_000 // 512)


def results():
    """The result file's sections."""
    return json.loads(RESULT.read_text()) if RESULT.exists() else {}


def keep(section, value):
    """Replace a section of the result file, so that a part that is stopped has kept its rows."""
    write_json(RESULT, {**results(), section: value})
    print(section, json.dumps(value[-1] if isinstance(value, list) else value), flush=True)


def others(section, names, targets=TARGETS):
    """Rows of a section that are of other architectures or targets, to be kept."""
    return [
        r for r in results().get(section, []) if r["architecture"] not in names or r["target"] not in targets
    ]


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
    return world, x, np.concatenate([b.x for b in held]), csr_array(vstack([b.codes for b in held]))
