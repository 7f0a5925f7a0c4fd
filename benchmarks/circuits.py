"""Time and memory of attribution graphs and of TWERA at the size of SmolLM2-135M.

    python benchmarks/circuits.py [graph|long|longest|longest-default|twera ...]   # writes result and docs/circuits.md

The model and the transcoders have random weights of the right shapes (30 layers, 576 wide, 4,608 latents, k 32, a
skip), so nothing is fetched: neither time nor memory depends on what the weights say. Each part runs in a process of
its own, so that its peak memory is its own. A graph is held against the identity that its rows and biases add up to
what they explain, and against the bits of rows computed alone on one thread.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent / "results" / "circuits.json"
PAGE = Path(__file__).parents[1] / "docs" / "circuits.md"
LAYERS, D, M, K = 30, 576, 4608, 32


def model_and_set() -> tuple[Any, Any]:
    """A Llama of SmolLM2's shape, and a skip transcoder for each of its layers."""
    import torch
    import transformers

    import sparse_sae
    from sparse_sae.circuits import DictionarySet

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=D,
        intermediate_size=1536,
        num_hidden_layers=LAYERS,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    saes = {}
    for layer in range(LAYERS):
        params = {name: rng.standard_normal((M, D), np.float32) / D**0.5 for name in ("W_enc", "W_dec")}
        params |= {"b_enc": np.zeros(M, np.float32), "b_dec": np.zeros(D, np.float32)}
        params["W_skip"] = rng.standard_normal((D, D), np.float32) / D
        saes[f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.hook_mlp_out"] = sparse_sae.SAE.from_rows(
            params, sparse_sae.TopK(k=K), apply_b_dec_to_input=False
        )
    return model, DictionarySet(saes, model_name="llama")


def graph(tokens: int, nodes: int) -> dict[str, Any]:
    """One graph: the forward pass, then `nodes` rows, all layers."""
    import torch

    from sparse_sae.circuits import Logit, freeze, graph_of

    model, made = model_and_set()
    ids = np.random.default_rng(1).integers(3, 49152, tokens).tolist()
    before = _peak()
    seconds = {}
    with torch.no_grad():
        model(torch.tensor([ids]), use_cache=False)
        began = time.perf_counter()
        model(torch.tensor([ids]), use_cache=False)
        seconds["forward"] = time.perf_counter() - began
    began = time.perf_counter()
    frozen = freeze(model, made, ids)
    seconds["freeze"] = time.perf_counter() - began
    began = time.perf_counter()
    found = graph_of(frozen, Logit(ids[-1]), max_features=nodes)
    seconds["rows"] = time.perf_counter() - began
    began = time.perf_counter()
    pruned = found.prune()
    seconds["prune"] = time.perf_counter() - began
    peak = _peak()
    threads = torch.get_num_threads()
    if tokens <= 256:  # one thread takes minutes for a longer prompt
        torch.set_num_threads(1)
    one = graph_of(frozen, Logit(ids[-1]), max_features=1, max_edges=1 << 30)
    torch.set_num_threads(threads)
    for row in np.flatnonzero(one.expanded):
        alone, among = one.edges[[row]], found.edges[[row]]
        same = np.array_equal(alone[:, among.indices].toarray()[0], among.data)
        if (
            not same
            or not np.array_equal(one.heads_of(row), found.heads_of(row))
            or one.bias[row] != found.bias[row]
        ):
            raise AssertionError(f"row {row} has other bits alone on one thread than in the graph")
    total, value = one.edges[[len(one) - 1]].sum() + one.bias[-1], one.activation[-1]
    if abs(total - value) > 1e-3 * abs(value) + 1e-3:
        raise AssertionError(f"the target's row adds up to {total}, its value is {value}")
    return {
        "tokens": tokens,
        "rows": int(found.expanded.sum()),
        "nodes": len(found),
        "edges": int(found.edges.nnz),
        "pruned_nodes": len(pruned),
        "seconds": seconds,
        "beyond_forward": seconds["freeze"] + seconds["rows"] + seconds["prune"] - seconds["forward"],
        "peak_gb": peak,
        "peak_gb_before": before,
    }


def twera(tokens: int = 1_000_000) -> dict[str, Any]:
    """TWERA of two layers over a million tokens, latents by Zipf's law."""
    from scipy.sparse import csr_array

    from sparse_sae.circuits import twera as expected

    rng = np.random.default_rng(0)

    def codes(n: int) -> Any:
        # patterns of different latents by Zipf's law (Gumbel's way to draw without replacement), each shifted anew
        keys = np.log(_zipf()) + rng.gumbel(size=(n // 100, M))
        index = np.argpartition(-keys, K, axis=1)[:, :K]
        rows = np.repeat(index, 100, axis=0)[rng.permutation(n // 100 * 100)]
        columns = np.sort((rows + rng.integers(0, M, size=(len(rows), 1))) % M, axis=1).astype(np.int32)
        values = rng.random(columns.size, np.float32) + 0.1
        return csr_array((values, columns.ravel(), np.arange(len(rows) + 1) * K), shape=(len(rows), M))

    small = codes(1000), codes(1000)
    a, b = (c.toarray().astype(np.float64) for c in small)
    mean = b.mean(0)
    np.testing.assert_allclose(
        expected(*small),
        np.where(mean > 0, a.T @ b / len(a) / np.where(mean > 0, mean, 1), 0),
        rtol=1e-4,
        atol=1e-6,
    )
    source, target = codes(tokens), codes(tokens)
    began = time.perf_counter()
    expected(source, target)
    return {
        "tokens": tokens,
        "d_sae": M,
        "k": K,
        "active": [int(source.nnz), int(target.nnz)],
        "seconds": time.perf_counter() - began,
        "peak_gb": _peak(),
    }


def _zipf() -> Any:
    weight = 1 / np.arange(1, M + 1) ** 0.8
    return weight / weight.sum()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


PARTS = {
    "graph": lambda: graph(20, 1000),
    "long": lambda: graph(256, 1000),
    "longest": lambda: graph(2300, 128),
    "longest-default": lambda: graph(2300, 1000),  # about half an hour
    "twera": twera,
}
TARGETS = {
    "graph": "20 tokens, all layers, 1,000 nodes: 5 s beyond the forward pass",
    "long": "256 tokens, 1,000 nodes: 2 GB",
    "longest": "2,300 tokens, 128 nodes: 8 GB",
    "longest-default": "2,300 tokens, 1,000 nodes: 8 GB",
    "twera": "a million tokens, two layers, k 32: 60 s",
}


def contents(found: dict[str, Any], names: list[str]) -> dict[str, str]:
    """The table of docs/circuits.md."""
    from sparse_sae._io.documents import table

    rows = []
    for name in (name for name in PARTS if name in found):
        f = found[name]
        measured = (
            f"{f['seconds']:.1f} s, {f['peak_gb']:.1f} GB"
            if name == "twera"
            else f"{f['beyond_forward']:.1f} s beyond the forward pass of {f['seconds']['forward']:.2f} s; peak "
            f"{f['peak_gb']:.2f} GB, of which {f['peak_gb_before']:.2f} are the model and its set"
        )
        rows.append([f["target"], measured])
    return {"speed": table(["target, two cores", "measured"], rows)} if "speed" in names else {}


def main(chosen: list[str]) -> None:
    """Measure the chosen parts, or all, and merge them into the result."""
    if chosen[:1] == ["--here"]:
        print(json.dumps(PARTS[chosen[1]]()))
        return
    import os

    from sparse_sae._io.atomic import write_json
    from sparse_sae._io.documents import blocks, fill

    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in chosen or list(PARTS):
        out = subprocess.run(
            [sys.executable, __file__, "--here", name], check=True, capture_output=True, text=True
        )
        found[name] = {"target": TARGETS[name], **json.loads(out.stdout.splitlines()[-1])}
        print(name, json.dumps(found[name], indent=1))
    found["cores"] = len(os.sched_getaffinity(0))
    write_json(RESULT, found)
    fill(PAGE, contents(found, blocks(PAGE.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main(sys.argv[1:])
