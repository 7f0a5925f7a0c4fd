"""Signals at random moments: SIGKILL, SIGTERM, SIGINT in training, saving and writing a store.

A run that is resumed until it is done ends with the bits of one that nothing disturbed; a saved SAE is the old one or
the new one; a store that is written on after its writer died holds the rows it would have held.
"""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from watch import Broken

import sparse_sae
from sparse_sae.data.store import ActivationStore

TRAIN = """
import sys, pathlib, numpy as np, sparse_sae
x = np.random.default_rng(0).standard_normal((4000, 24)).astype("float32")
out = pathlib.Path(sys.argv[1])
try:
    sparse_sae.train(x, sparse_sae.TopK(k=4), d_sae=128, n_tokens=60_000, batch_size=256, seed=5, dead_after=2000,
                     out=out, checkpoint_every=3, num_threads=1, progress=False,
                     resume=(out / sparse_sae.training.checkpoint.NAME).is_file())
except KeyboardInterrupt: sys.exit(0)
print("finished")
"""
SAVE = """
import sys, numpy as np, sparse_sae
for i in range(400):
    w = np.full((16, 16), 1.0 + i % 2, "float32")
    sae = sparse_sae.SAE({"W_enc": w, "W_dec": w, "b_enc": np.zeros(16, "f4"), "b_dec": np.zeros(16, "f4")},
                         sparse_sae.TopK(k=2))
    sae.save(sys.argv[1])
print("finished")
"""
STORE = """
import sys, numpy as np
from sparse_sae.data.store import StoreWriter
writer = StoreWriter(sys.argv[1], 8, "float32", model="m", hook="h", shard_bytes=3000)
if not writer.complete:
    for d in range(writer.progress, 150):
        rows = np.random.default_rng(d).standard_normal((20, 8)).astype("float32")
        writer.append(rows, np.arange(20), np.arange(20), [d] * 20, progress=d + 1)
    writer.finish()
print("finished")
"""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def start(script: str, path: Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(path)], stdout=pipe, stderr=pipe, text=True
    )


@functools.cache
def undisturbed(script: str) -> tuple[Path, float]:
    """Where the result of a run lies that was left alone, and how long that took."""
    path = Path(tempfile.mkdtemp(prefix="torture-whole-")) / "out"
    begun = time.monotonic()
    process = start(script, path)
    out, err = process.communicate(timeout=110)
    if out.strip() != "finished":
        raise Broken(f"the undisturbed run failed: {err[-500:]}")
    return path, time.monotonic() - begun


def case(rng: np.random.Generator, scratch: Path) -> str:
    script = (TRAIN, SAVE, STORE)[int(rng.integers(3))]
    name = {TRAIN: "train", SAVE: "save", STORE: "store"}[script]
    whole, seconds = undisturbed(script)
    path = scratch / "out"
    shutil.rmtree(path, ignore_errors=True)
    sent = []
    for life in range(40):
        process = start(script, path)
        if life < 3:
            number = SIGNALS[int(rng.integers(3))]
            try:
                process.wait(float(rng.uniform(0.3, 1.1)) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                sent.append(number.name)
        out, err = process.communicate(timeout=100)
        if name == "save" and path.exists():
            value = float(sparse_sae.load(path).params["W_enc"][0, 0])
            if value not in (1.0, 2.0):
                raise Broken(f"save after {sent}: W_enc is {value}")
        if out.strip() == "finished":
            break
        if process.returncode > 0 and "KeyboardInterrupt" not in err:
            raise Broken(f"{name} after {sent}: {err[-600:]}")
    else:
        raise Broken(f"{name} after {sent}: not finished within 40 lives")
    if name == "train":
        one, other = sparse_sae.load(whole / "sae").params, sparse_sae.load(path / "sae").params
        if any(one[key].tobytes() != other[key].tobytes() for key in one):
            raise Broken(f"train after {sent}: other weights than a run left alone")
    elif name == "store":
        one, other = ActivationStore(whole).rows(), ActivationStore(path).rows()
        if one.tobytes() != other.tobytes():
            raise Broken(f"store after {sent}: other rows than a run left alone")
    left = [
        p.name for p in (path.parent.iterdir() if name == "save" else path.rglob("*")) if ".tmp" in p.name
    ]
    if left:
        raise Broken(f"{name} after {sent}: {left} left behind")
    return f"{name}, {len(sent)} signals"
