"""How fast activations are harvested and read back, and what each storage dtype costs.

    python benchmarks/harvest.py                # about five minutes on two cores; --tokens for a shorter run
    python benchmarks/harvest.py --write-only   # the tables again from the result on disk

Capture is set beside a plain float32 transformers forward stopped at the same layer, in the same run.
Writes benchmarks/results/harvest.json and its tables into docs/language-models.md.
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from sparse_sae._io.documents import fill, table
from sparse_sae.data.store import ActivationStore, StoreWriter
from sparse_sae.lm import english_documents, load_model
from sparse_sae.lm.harvest.recording import capture

LAYER = 15
HOOK = f"blocks.{LAYER}.hook_resid_post"
RESULT = Path(__file__).parent / "results" / "harvest.json"
PAGE = Path(__file__).parents[1] / "docs" / "language-models.md"


class Stop(Exception):
    """Ends the plain forward."""


def plain_forward(lm, ids):
    """(hidden states, tokens/s) of transformers in float32, stopped after the layer by a hook of three lines."""
    found = []

    def hook(_module, _args, out):
        found.append(out)
        raise Stop

    handle = lm.model.model.layers[LAYER].register_forward_hook(hook)
    begin = time.perf_counter()
    try:
        with torch.no_grad():
            lm.model(ids)
    except Stop:
        pass
    finally:
        handle.remove()
    return found[0], ids.numel() / (time.perf_counter() - begin)


def harvest(lm, tokens, scratch):
    texts = list(islice(english_documents(), max(20, tokens // 300)))
    store = capture(lm, texts[:5], HOOK, scratch / "warm", dtype="float32")
    speeds = []
    last = {}

    def note(progress):
        last["speed"] = progress.tokens_per_second

    everything = []
    for i in range(3):
        store = capture(
            lm, texts, HOOK, scratch / f"run{i}", max_tokens=tokens, dtype="float32", progress=note
        )
        speeds.append(last["speed"])
        ids = store.select(exclude=()).tokens[:2048].astype(np.int64).reshape(8, 256)
        hidden, plain = plain_forward(lm, torch.from_numpy(ids))
        everything.append(plain)
    rows = store.select(exclude=()).rows(slice(2048))
    error = np.abs(rows - hidden.reshape(2048, -1).numpy()).max() / np.abs(rows).max()
    assert error < (1e-4 if store.metadata["compute_dtype"] == "float32" else 0.05), error
    return store, {
        "compute_dtype": store.metadata["compute_dtype"],
        "tokens": int(store.manifest["count"]),
        "capture_tokens_per_second": statistics.median(speeds),
        "plain_float32_tokens_per_second": statistics.median(everything),
        "ratio": statistics.median(speeds) / statistics.median(everything),
        "excluded": store.excluded,
        "norm_percentiles": store.statistics["norm_percentiles"],
    }


def reading(store, scratch, repeats=10):
    """Rows/s of a shuffled epoch, and the share of variance lost, for each storage dtype."""
    rows = store.rows()
    out = {}
    for dtype in ("float32", "float16", "bfloat16", "int8"):
        writer = StoreWriter(scratch / dtype, store.d_in, dtype)
        for _ in range(repeats):
            columns = np.zeros(len(rows)), np.arange(len(rows)) + 1, np.zeros(len(rows))
            writer.append(rows, *columns)
        writer.finish()
        copy = ActivationStore(scratch / dtype)
        speeds = []
        for epoch in range(3):
            begin = time.perf_counter()
            count = sum(len(block) for block in copy.epoch(0, epoch))
            speeds.append(count / (time.perf_counter() - begin))
            assert count == len(copy) == repeats * len(rows)
        out[dtype] = {
            "rows_per_second": statistics.median(speeds),
            "megabytes_per_million_rows": sum(f.stat().st_size for f in (scratch / dtype).glob("shard*"))
            / len(copy),
            "storage_fvu": copy.statistics["storage_fvu"],
        }
    return out


def tables(result):
    """The result in Markdown."""
    c = result["capture"]
    excluded = ", ".join(f"{count} {kind}" for kind, count in c["excluded"].items())
    threads = f"{result['threads']} thread" + "s" * (result["threads"] != 1)
    rows = [
        [
            dtype,
            f"{r['rows_per_second']:,.0f}",
            f"{r['megabytes_per_million_rows']:,.0f}",
            f"{r['storage_fvu']:.1e}",
        ]
        for dtype, r in result["reading"].items()
    ]
    head = ["stored as", "rows/s, a shuffled epoch", "MB a million rows", "variance lost (FVU)"]
    return (
        f"`python benchmarks/harvest.py --tokens {result['asked']}` on {threads}, "
        f"{result['cpu_capability']}: capture at `{result['hook']}` reads {c['capture_tokens_per_second']:,.0f} "
        f"tokens/s (computing in {c['compute_dtype']}), the plain float32 forward "
        f"{c['plain_float32_tokens_per_second']:,.0f}, a ratio of {c['ratio']:.2f}. "
        f"{c['tokens']:,} tokens; left out of training: {excluded}.\n\n" + table(head, rows)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--model", default=None, help="a path; by default the demo's model")
    parser.add_argument("--write-only", action="store_true", help="only fill the page from the result")
    options = parser.parse_args()
    if options.write_only:
        return fill(PAGE, {"harvest": tables(json.loads(RESULT.read_text()))})
    lm = load_model(options.model)
    with tempfile.TemporaryDirectory() as scratch:
        store, captured = harvest(lm, options.tokens, Path(scratch))
        result = {
            "model": lm.name,
            "hook": HOOK,
            "asked": options.tokens,
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "capture": captured,
            "reading": reading(store, Path(scratch)),
        }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    fill(PAGE, {"harvest": tables(result)})
    return None


if __name__ == "__main__":
    main()
