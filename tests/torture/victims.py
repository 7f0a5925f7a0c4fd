"""What is killed: one row of `VICTIMS` for each piece of work that promises to survive it.

To add one: a function that does the work in a directory, or goes on with what an earlier life left
there; one that says what is wrong with what it left; a row below. `kills.py` does the rest.
"""

from __future__ import annotations

import functools
import json
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import sparse_sae
from sparse_sae.browser import build
from sparse_sae.data.store import ActivationStore, StoreWriter
from sparse_sae.training import checkpoint


class Victim(NamedTuple):
    """Work that may be killed.

    Attributes:
        work: does it in a directory that may not be there yet, or goes on after a death; uses one thread.
        whole: what is wrong with what lies in the directory after a death ("": nothing).
        same: what differs between the work done undisturbed (first) and through deaths ("": nothing).
        prepare: imports and builds what every life needs, once and before any life begins.
    """

    work: Callable[[Path], None]
    whole: Callable[[Path], str]
    same: Callable[[Path, Path], str]
    prepare: Callable[[], Any] = lambda: None


def _train(path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4000, 24)).astype(np.float32)
    sparse_sae.train(
        x,
        sparse_sae.TopK(k=4),
        d_sae=128,
        n_tokens=60_000,
        batch_size=256,
        seed=5,
        dead_after=2000,
        out=path,
        checkpoint_every=3,
        num_threads=1,
        progress=False,
        resume=checkpoint.exists(path),
    )


def _train_whole(path: Path) -> str:
    if checkpoint.exists(path):
        checkpoint.load(path)
    if (path / "sae").exists():
        sparse_sae.load(path / "sae")
    return ""


def _train_same(path: Path, other: Path) -> str:
    one, two = sparse_sae.load(path / "sae").params, sparse_sae.load(other / "sae").params
    if {name: value.tobytes() for name, value in one.items()} != {k: v.tobytes() for k, v in two.items()}:
        return "other weights"
    (groups, state), (groups2, state2) = checkpoint.load(path), checkpoint.load(other)
    if checkpoint.checksum(groups["m"], "") != checkpoint.checksum(groups2["m"], ""):
        return "other moments in the last checkpoint"
    if (state["tokens"], state["adam_step"]) != (state2["tokens"], state2["adam_step"]):
        return "other counts in the last checkpoint"
    return "" if _history(path) == _history(other) else "another history"


def _history(path: Path) -> list[dict[str, Any]]:
    lines = (path / checkpoint.HISTORY).read_text().splitlines()
    timed = ("seconds", "tokens_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


_ROUNDS = 40


def _save(path: Path) -> None:
    for i in range(_ROUNDS):
        w = np.full((16, 16), 1.0 + i % 2, np.float32)
        params = {"W_enc": w, "W_dec": w, "b_enc": w[0], "b_dec": w[0]}
        sparse_sae.SAE(params, sparse_sae.TopK(k=2)).save(path)


def _save_whole(path: Path) -> str:
    if not path.exists():  # killed before the first was there
        return ""
    found = {float(v) for value in sparse_sae.load(path).params.values() for v in np.unique(value)}
    return "" if found in ({1.0}, {2.0}) else f"weights of two versions: {sorted(found)}"


def _checkpoint(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for i in range(_ROUNDS):
        one = np.full((64, 64), i, np.float32)
        groups = {"param": {"W_enc": one}, "m": {"W_enc": one}, "v": {"W_enc": one}}
        counters = {"since_fired": np.full(64, i, np.int64)}
        state = {key: kind() for key, kind in checkpoint._STATE.items()} | {"tokens": i, "adam_step": i}
        checkpoint.save(path, {**groups, "counter": counters}, state)


def _checkpoint_whole(path: Path) -> str:
    if not checkpoint.exists(path):
        return ""
    groups, state = checkpoint.load(path)
    found = {float(v) for arrays in groups.values() for array in arrays.values() for v in np.unique(array)}
    return "" if found == {state["tokens"]} else f"values {sorted(found)} beside tokens {state['tokens']}"


def _file_same(path: Path, other: Path) -> str:
    """The files in both, byte for byte."""
    one, two = (
        {p.relative_to(d): p.read_bytes() for d in [d] for p in d.rglob("*") if p.is_file()}
        for d in (path, other)
    )
    return (
        "" if one == two else f"other files: {sorted(map(str, {*one.items()} ^ {*two.items()}))[:2]!r:.300}"
    )


def _store(path: Path) -> None:
    writer = StoreWriter(path, 8, "float16", model="m", hook="h", shard_bytes=3000)
    if writer.complete:
        return
    for d in range(writer.progress, 150):
        rows = np.random.default_rng(d).standard_normal((20, 8)).astype(np.float32)
        writer.append(rows, np.arange(20), np.arange(20), [d] * 20, progress=d + 1)
    writer.finish()


def _store_whole(path: Path) -> str:
    for manifest in path.rglob("manifest.json"):
        try:
            ActivationStore(manifest.parent).verify()
        except ValueError as error:
            if "is not finished" not in str(error):
                return str(error)
    return ""


HOOKS = ["blocks.0.hook_resid_post", "blocks.1.mlp.hook_post"]


@functools.cache
def _model() -> Any:
    import torch
    import transformers

    from sparse_sae.lm.model.loading import LanguageModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LanguageModel(transformers.LlamaForCausalLM(config).eval().requires_grad_(False), None, "tiny")


def _capture(path: Path) -> None:
    from sparse_sae.lm import capture

    rng = np.random.default_rng(3)
    texts = [rng.integers(3, 97, rng.integers(1, 60)).tolist() for _ in range(80)]
    options: dict[str, Any] = {"context": 32, "batch_tokens": 128, "shard_bytes": 12_000, "pack": False}
    capture(_model(), texts, HOOKS, path, dtype="int8", compute_dtype="float32", **options)


@functools.cache
def _sae_and_store() -> tuple[sparse_sae.SAE, Path]:
    path = Path(tempfile.mkdtemp(prefix="torture-browser-")) / "store"
    _store(path)
    rows = np.random.default_rng(0).standard_normal((32, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    params = {
        "W_enc": rows,
        "W_dec": rows,
        "b_enc": np.zeros(32, np.float32),
        "b_dec": np.zeros(8, np.float32),
    }
    return sparse_sae.SAE.from_rows(params, sparse_sae.TopK(k=3)), path


def _browser(path: Path) -> None:
    sae, store = _sae_and_store()
    build(sae, ActivationStore(store), path)


def _browser_whole(path: Path) -> str:
    return "" if not path.exists() or _dump(path) else "an empty file"


def _dump(path: Path) -> list[str]:
    """The SQL of everything in the file."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())


def _browser_same(path: Path, other: Path) -> str:
    return "" if _dump(path) == _dump(other) else "other content"


VICTIMS = {
    "train": Victim(_train, _train_whole, _train_same),
    "capture": Victim(_capture, _store_whole, _file_same, _model),
    "save": Victim(_save, _save_whole, _file_same),
    "checkpoint": Victim(_checkpoint, _checkpoint_whole, _file_same),
    "browser": Victim(_browser, _browser_whole, _browser_same, _sae_and_store),
    "store": Victim(_store, _store_whole, _file_same),
}
