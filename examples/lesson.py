"""Recover the 32 features of the lesson's data set, and save what found them as an SAE.

    python examples/lesson.py --seed 0 --out lesson-sae

Trains without looking at the truth (`sparse_sae.pursuit.learn`: several starts, seed stability, held-out
loss), saves an SAE whose codes come from pursuit, loads it again, and only then compares it with the true
features, beside chance.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import sparse_sae
from sparse_sae.architectures import Pursuit
from sparse_sae.match import match
from sparse_sae.pursuit import learn
from sparse_sae.synthetic import lesson


def train_sae(x: np.ndarray, d_sae: int, penalty: float, seed: int) -> tuple[sparse_sae.SAE, list[dict]]:
    """An SAE with pursuit codes, and what was tried for it. Its W_enc is W_dec, which pursuit does not
    read."""
    found = learn(x, d_sae, penalty=penalty, seed=seed)
    n, d = found.W_dec.shape
    params = {
        "W_enc": found.W_dec,
        "W_dec": found.W_dec,
        "b_enc": np.zeros(n, np.float32),
        "b_dec": np.zeros(d, np.float32),
    }
    metadata = {"data": "lesson", "seed": seed}
    return sparse_sae.SAE.from_rows(params, Pursuit(penalty=found.penalty), metadata=metadata), found.report


def run(seed: int, out: Path, data_seed: int = 42, d_sae: int = 48, penalty: float = 0.15) -> dict:
    """Train, save, load, match; returns what `main` prints."""
    data = lesson(data_seed)
    started = time.perf_counter()
    sae, tried = train_sae(data.x, d_sae, penalty, seed)
    seconds = time.perf_counter() - started
    sae.save(out)
    sae = sparse_sae.load(out)
    quality = sparse_sae.evaluate(sae, data.x)
    matching = match(sae, data, seed=seed)
    print(f"{'dictionary':14}{'latents':>8}{'L0':>8}{'FVU':>8}{'held-out nats':>15}")
    for row in tried:
        print(
            f"{row['name']:14}{row['d_sae']:8d}{row['l0']:8.2f}{row['fvu']:8.4f}{row['nats_per_sample']:15.3f}"
        )
    print(f"\nsaved in {out} after {seconds:.1f} s: {sae}")
    print(f"L0 {quality.l0:.2f}   FVU {quality.fvu:.4f}   dead {quality.dead_fraction:.3f}\n")
    print(f"Held against the {len(data.features)} true features:\n{matching}")
    return {
        "seed": seed, "data_seed": data_seed, "d_sae": d_sae, "penalty": penalty, "seconds": seconds,
        "latents": sae.d_sae, "l0": quality.l0, "fvu": quality.fvu,
        "tried": tried, "match": matching.summary(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of training; default 0")
    parser.add_argument("--out", type=Path, required=True, help="directory for the SAE")
    parser.add_argument("--data-seed", type=int, default=42, help="of the data; the lesson's is 42")
    parser.add_argument("--d-sae", type=int, default=48, help="latents of each start; default 48")
    parser.add_argument(
        "--penalty", type=float, default=0.15, help="as a part of the data's RMS norm; default 0.15"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    result = run(args.seed, args.out, args.data_seed, args.d_sae, args.penalty)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
