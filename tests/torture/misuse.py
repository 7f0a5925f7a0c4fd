"""The public functions with arguments nobody should pass: each works, or names the argument and changes nothing."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from watch import Broken

import sparse_sae

NUMBERS = [
    0,
    -1,
    1,
    2.5,
    np.nan,
    np.inf,
    -np.inf,
    "3",
    None,
    True,
    [1],
    np.int64(3),
    np.float32(0.5),
    {},
    b"x",
    1j,
]
TEXTS = ["", "x", None, 3, b"sae", ["sae"], "sae ", "None"]
X = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
DATA = [
    X[:0], X[:, :0], X[:1], X[0], X[None], X.astype(">f4"), X.astype(np.float16), X.astype(int), X > 0, X * np.nan,
    X.astype(complex), X.astype(object), X[::2, ::-1], X.T, X.tolist(), None, 3, "nothing", iter([]),
    iter([X, X[:, :3]]),
    np.ma.masked_array(X, X > 2), np.broadcast_to(X[:1], X.shape), X * 1e30, X * 1e-40, sparse.csr_array(X),
]  # fmt: skip
TRAIN: dict[str, Any] = {
    "d_sae": NUMBERS, "n_tokens": [v for v in NUMBERS if v != np.inf], "batch_size": NUMBERS, "seed": NUMBERS,
    "coder": TEXTS, "lr": NUMBERS, "schedule": TEXTS, "warmup": NUMBERS, "decay": NUMBERS, "eps": NUMBERS,
    "betas": [(0.9, 0.999), (2, 2), (-1, 0), (np.nan, 0.9), 0.9, None, (0.9,), "ab"], "clip_norm": NUMBERS,
    "normalize": TEXTS, "b_dec_init": TEXTS, "dead_after": NUMBERS, "checkpoint_every": NUMBERS,
    "log_every": NUMBERS, "num_threads": NUMBERS, "dtype": [*TEXTS, np.float32, "float16"],
    "metadata": [{"a": np.nan}, {1: 2}, {"a": object()}, [], "x", {"a": np.int64(3)}], "data": DATA,
    "architecture": [None, "topk", sparse_sae.TopK, 3],
}  # fmt: skip


@functools.cache
def _trained() -> sparse_sae.SAE:
    return sparse_sae.train(
        X, sparse_sae.TopK(k=3), d_sae=10, n_tokens=600, batch_size=100, progress=False
    ).sae


def _sae() -> sparse_sae.SAE:
    return copy.deepcopy(_trained())


def _codes(rng: Any) -> Any:
    dense = np.zeros((4, 10), np.float32)
    dense[0, 3] = 1
    return pick(rng, [
        dense, dense[:, :5], sparse.csr_array(dense), sparse.csr_array(dense.astype(complex)), sparse.csc_array(dense),
        sparse.csr_array((np.ones(1, "f4"), np.array([2**32 + 5]), np.array([0, 1])), shape=(1, 2**33)),
        dense * np.nan, dense.astype(object), None, "x", dense[0], sparse.csr_array(dense.astype(np.float64) * 1e300),
    ])  # fmt: skip


def pick(rng: Any, options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def case(rng: np.random.Generator, scratch: Path) -> str:
    part = pick(rng, [train, train, encode, decode, evaluate, construct])
    sae = _sae()
    before = {name: value.tobytes() for name, value in sae.params.items()}
    call, names, what = part(rng, sae)
    try:
        call()
        outcome = "works"
    except (ValueError, TypeError, NotImplementedError, FileNotFoundError) as error:
        text = str(error)
        if not any(name in text for name in names):
            raise Broken(
                f"{what}: the error does not name {names}: {type(error).__name__}: {text[:300]}"
            ) from None
        outcome = "refused by name"
    except sparse_sae.TrainingDiverged:
        outcome = "diverged, and said so"
    except BaseException as error:
        raise Broken(f"{what}: {type(error).__name__}: {str(error)[:300]}") from None
    if {name: value.tobytes() for name, value in sae.params.items()} != before:
        raise Broken(f"{what}: the SAE was changed")
    return f"{part.__name__} {outcome}"


Part = tuple[Callable[[], Any], tuple[str, ...], str]


def train(rng: Any, sae: Any) -> Part:
    arguments: dict[str, Any] = {
        "data": X, "architecture": sparse_sae.TopK(k=2), "d_sae": 12, "n_tokens": 600, "batch_size": 100,
        "progress": False, "num_threads": 1,
    }  # fmt: skip
    changed = [pick(rng, list(TRAIN)) for _ in range(int(rng.integers(1, 3)))]
    for name in changed:
        arguments[name] = pick(rng, TRAIN[name])
    what = f"train({', '.join(f'{name}={arguments[name]!r:.80}' for name in changed)})"
    given = dict(arguments)
    data, architecture = given.pop("data"), given.pop("architecture")
    return (
        lambda: sparse_sae.train(data, architecture, **given),
        tuple(dict.fromkeys([*arguments, *changed, *(("transform",) if "normalize" in changed else ())])),
        what,
    )


def encode(rng: Any, sae: Any) -> Part:
    x, threads = pick(rng, DATA), pick(rng, [1, 2, *NUMBERS])
    latents = pick(rng, [None, None, [0, 9], [10], [-1], [], [0.5], "x", [2**32], np.array([True, False])])
    what = f"encode({x!r:.60}, latents={latents!r}, num_threads={threads!r})"
    return lambda: sae.encode(x, latents=latents, num_threads=threads), ("x:", "latents", "num_threads"), what


def decode(rng: Any, sae: Any) -> Part:
    codes, threads = _codes(rng), pick(rng, [1, 2, *NUMBERS])
    what = f"decode({codes!r:.90}, num_threads={threads!r})"
    return lambda: sae.decode(codes, num_threads=threads), ("codes", "num_threads"), what


def evaluate(rng: Any, sae: Any) -> Part:
    x, threads = pick(rng, DATA), pick(rng, [1, 2, *NUMBERS])
    what = f"evaluate(sae, {x!r:.60}, num_threads={threads!r})"
    return lambda: sparse_sae.evaluate(sae, x, num_threads=threads), ("x:", "data", "num_threads"), what


def construct(rng: Any, sae: Any) -> Part:
    params: dict[str, Any] = {
        name: np.array(getattr(sae, name)) for name in ("W_enc", "W_dec", "b_enc", "b_dec")
    }
    name = pick(rng, list(params))
    old = params[name]
    value = pick(rng, [
        None, 3, "x", old[:-1], old.astype(int), old * np.nan, old.tolist(), old.astype(np.float64),
        old.astype(">f4"), old.astype(complex),
    ])  # fmt: skip
    params[name] = value
    k = pick(rng, [2, 0, -1, 11, 2.5, None, "3", np.int64(2), True, np.nan, 2**62])
    what = f"SAE({{{name!r}: {value!r:.60}}}, TopK(k={k!r}))"

    def call() -> None:
        made = sparse_sae.SAE(params, sparse_sae.TopK(k=k))
        made.encode(X)
        json.dumps(made.architecture.config())

    return call, (*params, "k:", "params", "d_sae"), what
