"""Part of browser.py: a browser file of full size, how long it takes and how much memory."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import sparse_sae
from sparse_sae._io.atomic import write_json
from sparse_sae.browser import build, open_browser
from sparse_sae.data.store import ActivationStore, StoreWriter

LATENTS, TOKENS, K, D_IN, D_OUT = 32_768, 500_000, 32, 16, 768
RUNS = 3  # the slowest and the largest are kept
RESULT = Path(__file__).parent / "results" / "browser_build.json"


def anonymous_bytes() -> int:
    """Memory of this process that is not a mapped file."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


class Peak(threading.Thread):
    """The highest `anonymous_bytes` while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest, self.stop = 0, threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.02):
            self.highest = max(self.highest, anonymous_bytes())


def dictionary() -> sparse_sae.SAE:
    rng = np.random.default_rng(0)
    encoder = rng.standard_normal((LATENTS, D_IN), dtype=np.float32)
    decoder = rng.standard_normal((LATENTS, D_OUT), dtype=np.float32)
    for rows in (encoder, decoder):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    params = {
        "W_enc": encoder,
        "W_dec": decoder,
        "b_enc": np.zeros(LATENTS, np.float32),
        "b_dec": np.zeros(D_OUT, np.float32),
    }
    return sparse_sae.SAE.from_rows(
        params, sparse_sae.TopK(k=K), kind="transcoder", apply_b_dec_to_input=False
    )


def store(path: Path) -> ActivationStore:
    rng = np.random.default_rng(1)
    writer = StoreWriter(path, D_IN, "float16")
    shares = 1 / np.arange(10, 20_010)
    for start in range(0, TOKENS, 10_000):
        tokens = rng.choice(20_000, 10_000, p=shares / shares.sum())
        rows = rng.standard_normal((10_000, D_IN)) + np.sin(tokens[:, None] * np.arange(1, D_IN + 1))
        positions = np.arange(10_000) % 250
        writer.append(rows, tokens, positions, start // 250 + np.arange(10_000) // 250)
    writer.finish()
    return ActivationStore(path)


def once(out: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        sae, rows = dictionary(), store(Path(scratch) / "store")
        words = [f" word{i}" for i in range(20_000)]
        path = out or Path(scratch) / "large.db"
        before, peak = anonymous_bytes(), Peak()
        stages: dict[str, float] = {}
        clock = [time.perf_counter(), "preparing"]

        def progress(stage: str, done: int, total: int) -> None:
            now = time.perf_counter()
            stages[clock[1]] = stages.get(clock[1], 0.0) + now - clock[0]
            clock[:] = [now, stage]
            if stage == "encoding" and done == total:
                peak.start()

        build(sae, rows, path, vocabulary=words, progress=progress)
        progress("end", 0, 1)
        peak.stop.set()
        opened = open_browser(path)
        assert opened.meta["rows"] == len(rows) and opened.latent(7)["count"] == opened.brief([7])[7]["count"]
        assert abs(opened.meta["l0"] - K) < 0.1
        return {
            "latents": LATENTS,
            "tokens": len(rows),
            "k": K,
            "d_decoder": D_OUT,
            "threads": sparse_sae.kernels()["threads"],
            "level": sparse_sae.kernels()["level"],
            "seconds": {name: round(s, 2) for name, s in stages.items()},
            "seconds_besides_encoding": round(sum(stages.values()) - stages.get("encoding", 0.0), 1),
            "target_seconds": 60,
            "peak_megabytes_besides_codes": round((peak.highest - before) / 1e6),
            "target_megabytes": 100,
            "codes_megabytes": round(opened.meta["l0"] * len(rows) * 8 / 1e6),
            "file_megabytes": round(path.stat().st_size / 1e6),
        }


def measure_build(out: Path | None) -> None:
    """Builds in processes of their own: what the allocator keeps of one would hide what the next one takes."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        runs = pool.map(once, [out] * RUNS, chunksize=1)
    peaks = [run["peak_megabytes_besides_codes"] for run in runs]
    slowest = max(runs, key=lambda run: run["seconds_besides_encoding"])
    result = slowest | {"peak_megabytes_besides_codes": max(peaks), "peak_megabytes_of_runs": peaks}
    write_json(RESULT, result)
    print(json.dumps(result, indent=2))
