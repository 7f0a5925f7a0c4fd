"""What a monitor costs: microseconds a token, and the share of a generation.

    python benchmarks/monitor.py        # about a minute; writes benchmarks/results/monitor.json

First asserts that the monitor's values are those of the full encoding and that it changes no logit by a bit.
"""

import json
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

import sparse_sae
from sparse_sae import SAE, JumpReLU
from sparse_sae.audit import Monitor, Watch, WatchList, monitor
from sparse_sae.lm import load_model

RESULT = Path(__file__).parent / "results" / "monitor.json"
HOOK, WATCHED, D_SAE = "blocks.15.hook_resid_post", 64, 9216


def random_sae(d):
    """Threshold 1 on unit-variance pre-activations: a latent is active on 16 % of the tokens, far more than usual."""
    rows = np.random.default_rng(0).standard_normal((D_SAE, d), dtype=np.float32) / np.float32(d**0.5)
    params = {"W_enc": rows, "W_dec": rows.copy(), "threshold": np.ones(D_SAE, np.float32)}
    params |= {"b_enc": np.zeros(D_SAE, np.float32), "b_dec": np.zeros(d, np.float32)}
    return SAE.from_rows(params, JumpReLU(), metadata={"hook_name": HOOK})


def watch_list(sae):
    return WatchList.of(
        sae, [Watch(f"latent {j}", 1e6, "benchmark", latent=j) for j in range(0, 7 * WATCHED, 7)]
    )


def per_token(d, pooling, tokens=4000):
    """Microseconds of `observe` for one token of a stream, each timed by itself."""
    sae = random_sae(d)
    rows = np.random.default_rng(1).standard_normal((tokens, 1, d), dtype=np.float32)
    m = Monitor(watch_list(sae), sae, pooling="last")
    m.observe(rows[:50, 0])
    expected = sae.encode(rows[49])[:, [w.latent for w in m.watches]].toarray()[0]
    assert (m.pooled[0].astype(np.float32) == expected).all()
    m = Monitor(watch_list(sae), sae, pooling=pooling)
    for row in rows[:100]:
        m.observe(row)
    times = []
    for row in rows:
        begin = time.perf_counter_ns()
        m.observe(row)
        times.append(time.perf_counter_ns() - begin)
    p50, p99 = np.percentile(times, [50, 99]) / 1000
    prompt = rows[:256, 0]
    begin = time.perf_counter()
    for i in range(5):
        m.observe(prompt, sequence=f"prompt {i}")
    return {
        "d_in": d,
        "latents": WATCHED,
        "pooling": pooling,
        "p50_us": float(p50),
        "p99_us": float(p99),
        "prompt_us_per_token": (time.perf_counter() - begin) / (5 * len(prompt)) * 1e6,
    }


def generation(new_tokens=32, repeats=12):
    """SmolLM2-135M generating greedily with and without 64 latents watched, in turns."""
    lm, sae = load_model(), random_sae(576)
    inputs = lm.tokenizer("A parcel that is three weeks late is", return_tensors="pt")
    settings = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}

    def timed(context):
        begin = time.perf_counter()
        with context:
            out = lm.model.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)
        return time.perf_counter() - begin, out

    m = monitor(lm, watch_list(sae), sae)
    inside = 0

    def clocked(fn):
        def run(*args):
            nonlocal inside
            begin = time.perf_counter()
            value = fn(*args)
            inside += time.perf_counter() - begin
            return value

        return run

    m._begin, m._read = clocked(m._begin), clocked(m._read)
    plain, watched = [], []
    for _ in range(repeats + 1):
        seconds, free = timed(nullcontext())
        plain.append(seconds)
        seconds, seen = timed(m)
        watched.append(seconds)
        assert torch.equal(free.sequences, seen.sequences)
        assert all(torch.equal(a, b) for a, b in zip(free.logits, seen.logits, strict=True))
    ratio = statistics.median(watched[1:]) / statistics.median(plain[1:])
    return {
        "model": lm.name,
        "new_tokens": new_tokens,
        "repeats": repeats,
        "ms_per_token": 1000 * statistics.median(plain[1:]) / new_tokens,
        "inside_us_per_token": 1e6 * inside / m.tokens,
        "share_inside": inside / sum(watched),
        "wall_ratio": ratio,
        "logits_equal_to_the_bit": True,
    }


def main():
    result = {
        "command": "python benchmarks/monitor.py",
        "kernels": {k: v for k, v in sparse_sae.kernels().items() if k in ("level", "threads", "version")},
        "observe": [per_token(d, pooling) for d in (576, 2304) for pooling in ("max", "mean", "ema", "last")],
        "generation": generation(),
    }
    for row in result["observe"]:
        print(
            f"d_in {row['d_in']:5}, {row['pooling']:4}: {row['p50_us']:5.1f} us a token (p99 {row['p99_us']:.1f}), "
            f"{row['prompt_us_per_token']:.1f} in a prompt"
        )
    print(result["generation"])
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
