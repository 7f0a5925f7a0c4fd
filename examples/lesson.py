"""Recover the 32 features of the lesson's data set, and save what found them as an SAE: seconds.

    python examples/lesson.py --out lesson-sae

Trains without looking at the truth (`sparse_sae.pursuit.learn`: several starts, seed stability, held-out loss), saves
an SAE whose codes come from pursuit, loads it again, and only then compares it with the true features, beside chance.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import sparse_sae
from sparse_sae.architectures import Pursuit
from sparse_sae.match import match
from sparse_sae.pursuit import learn
from sparse_sae.synthetic import lesson


def train_sae(x, d_sae, penalty, seed):
    """An SAE with pursuit codes, which do not read W_enc; and what was tried for it."""
    found = learn(x, d_sae, penalty=penalty, seed=seed)
    n, d = found.W_dec.shape
    biases = {"b_enc": np.zeros(n, np.float32), "b_dec": np.zeros(d, np.float32)}
    rows = {"W_enc": found.W_dec, "W_dec": found.W_dec, **biases}
    return sparse_sae.SAE.from_rows(rows, Pursuit(penalty=found.penalty)), found.report


def run(seed, out, data_seed=42, d_sae=48, penalty=0.15):
    """Train, save, load, match; returns what it prints as numbers."""
    data = lesson(data_seed)
    started = time.perf_counter()
    sae, tried = train_sae(data.x, d_sae, penalty, seed)
    seconds = time.perf_counter() - started
    sae.save(out)
    sae = sparse_sae.load(out)
    quality = sparse_sae.evaluate(sae, data.x)
    matching = match(sae, data, seed=seed)
    print(f"{'dictionary':14}{'latents':>8}{'L0':>8}{'FVU':>8}{'held-out nats':>15}")
    for r in tried:
        print(f"{r['name']:14}{r['d_sae']:8d}{r['l0']:8.2f}{r['fvu']:8.4f}{r['nats_per_sample']:15.3f}")
    print(f"\nsaved in {out} after {seconds:.1f} s: {sae}")
    print(f"Held against the {len(data.features)} true features:\n{matching}")
    settings = {"seed": seed, "data_seed": data_seed, "d_sae": d_sae, "penalty": penalty}
    found = {"latents": sae.d_sae, "l0": quality.l0, "fvu": quality.fvu, "tried": tried}
    return settings | found | {"match": matching.summary()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of training; default 0")
    parser.add_argument("--out", type=Path, default=Path("lesson-sae"), help="directory for the SAE")
    options = parser.parse_args()
    run(options.seed, options.out)
