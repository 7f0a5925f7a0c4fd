"""The public functions with arguments nobody should pass: each works, or names the argument and changes nothing."""

from __future__ import annotations

import copy
import functools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st
from scipy import sparse
from watch import Broken

import sparse_sae

Draw = Callable[[st.SearchStrategy[Any]], Any]
EXAMPLES = 25  # of one case
ODD = [
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
# Numbers that may cost no more than a thousand steps or latents, and those that may be of any size.
NUMBERS = st.one_of(st.sampled_from(ODD), st.integers(-10, 1000), st.floats(max_value=1000, width=32))
ANY = NUMBERS | st.integers(-(2**70), 2**70) | st.floats()
TEXTS = st.sampled_from(["", "x", None, 3, b"sae", ["sae"], "sae ", "None"]) | st.text(max_size=5)
X = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
DATA: Any = st.sampled_from(
    [
        X[:0],
        X[:, :0],
        X[:1],
        X[0],
        X[None],
        X.astype(">f4"),
        X.astype(np.float16),
        X.astype(int),
        X > 0,
        X * np.nan,
        X.astype(complex),
        X.astype(object),
        X[::2, ::-1],
        X.T,
        X.tolist(),
        None,
        3,
        "nothing",
        np.ma.masked_array(X, X > 2),
        np.broadcast_to(X[:1], X.shape),
        X * 1e30,
        X * 1e-40,
        sparse.csr_array(X),
    ]
) | st.builds(lambda blocks: iter(blocks), st.sampled_from([[], [X, X[:, :3]], [X, X]]))
TRAIN: dict[str, Any] = {
    "d_sae": NUMBERS,
    "n_tokens": NUMBERS.filter(lambda v: v is not np.inf),
    "batch_size": NUMBERS,
    "seed": ANY,
    "coder": TEXTS,
    "lr": ANY,
    "schedule": TEXTS,
    "warmup": ANY,
    "decay": ANY,
    "eps": ANY,
    "betas": st.sampled_from([(2, 2), (-1, 0), 0.9, None, (0.9,), "ab"]) | st.tuples(ANY, ANY),
    "clip_norm": ANY,
    "normalize": TEXTS,
    "b_dec_init": TEXTS,
    "dead_after": ANY,
    "checkpoint_every": ANY,
    "log_every": ANY,
    "num_threads": ANY,
    "dtype": TEXTS | st.sampled_from([np.float32, "float16"]),
    "metadata": [{"a": np.nan}, {1: 2}, {"a": object()}, [], "x", {"a": np.int64(3)}],
    "data": DATA,
    "architecture": [None, "topk", sparse_sae.TopK, 3],
}


@functools.cache
def _trained() -> sparse_sae.SAE:
    return sparse_sae.train(
        X, sparse_sae.TopK(k=3), d_sae=10, n_tokens=600, batch_size=100, progress=False
    ).sae


def _sae() -> sparse_sae.SAE:
    return copy.deepcopy(_trained())


def _codes(draw: Draw) -> Any:
    dense = np.zeros((4, 10), np.float32)
    dense[0, 3] = 1
    return pick(
        draw,
        [
            dense,
            dense[:, :5],
            sparse.csr_array(dense),
            sparse.csr_array(dense.astype(complex)),
            sparse.csc_array(dense),
            sparse.csr_array((np.ones(1, "f4"), np.array([2**32 + 5]), np.array([0, 1])), shape=(1, 2**33)),
            dense * np.nan,
            dense.astype(object),
            None,
            "x",
            dense[0],
            sparse.csr_array(dense.astype(np.float64) * 1e300),
        ],
    )


def pick(draw: Draw, options: Any) -> Any:
    return draw(options if isinstance(options, st.SearchStrategy) else st.sampled_from(options))


def case(rng: np.random.Generator, scratch: Path) -> dict[str, int]:
    """Some examples from one seed; hypothesis makes the one that breaks something as small as it can."""
    outcomes: Counter[str] = Counter()

    @seed(int(rng.integers(2**62)))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.data())
    def examples(data: st.DataObject) -> None:
        outcomes[example(data.draw)] += 1

    examples()
    return dict(outcomes)


def example(draw: Draw) -> str:
    part = pick(draw, [train, train, encode, decode, evaluate, construct])
    sae = _sae()
    before = {name: value.tobytes() for name, value in sae.params.items()}
    call, names, what = part(draw, sae)
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


def train(draw: Draw, sae: Any) -> Part:
    arguments: dict[str, Any] = {
        "data": X,
        "architecture": sparse_sae.TopK(k=2),
        "d_sae": 12,
        "n_tokens": 600,
        "batch_size": 100,
        "progress": False,
        "num_threads": 1,
    }
    changed = draw(st.lists(st.sampled_from(list(TRAIN)), min_size=1, max_size=3, unique=True))
    for name in changed:
        arguments[name] = pick(draw, TRAIN[name])
    what = f"train({', '.join(f'{name}={arguments[name]!r:.80}' for name in changed)})"
    given = dict(arguments)
    data, architecture = given.pop("data"), given.pop("architecture")
    return (
        lambda: sparse_sae.train(data, architecture, **given),
        (
            *changed,
            *(("transform",) if "normalize" in changed else ()),
            *(("k",) if "d_sae" in changed else ()),
        ),
        what,
    )


def encode(draw: Draw, sae: Any) -> Part:
    x, threads = pick(draw, DATA), pick(draw, st.sampled_from([1, 2]) | ANY)
    latents = pick(
        draw,
        st.sampled_from([None, [], [0.5], "x", [2**32], np.array([True, False])])
        | st.lists(st.integers(-1, 10), max_size=4),
    )
    what = f"encode({x!r:.60}, latents={latents!r}, num_threads={threads!r})"
    return lambda: sae.encode(x, latents=latents, num_threads=threads), ("x:", "latents", "num_threads"), what


def decode(draw: Draw, sae: Any) -> Part:
    codes, threads = _codes(draw), pick(draw, st.sampled_from([1, 2]) | ANY)
    what = f"decode({codes!r:.90}, num_threads={threads!r})"
    return lambda: sae.decode(codes, num_threads=threads), ("codes", "num_threads"), what


def evaluate(draw: Draw, sae: Any) -> Part:
    x, threads = pick(draw, DATA), pick(draw, st.sampled_from([1, 2]) | ANY)
    what = f"evaluate(sae, {x!r:.60}, num_threads={threads!r})"
    return lambda: sparse_sae.evaluate(sae, x, num_threads=threads), ("x:", "data", "num_threads"), what


def construct(draw: Draw, sae: Any) -> Part:
    params: dict[str, Any] = {
        name: np.array(getattr(sae, name)) for name in ("W_enc", "W_dec", "b_enc", "b_dec")
    }
    name = pick(draw, list(params))
    old = params[name]
    value = pick(
        draw,
        [
            None,
            3,
            "x",
            old[:-1],
            old.astype(int),
            old * np.nan,
            old.tolist(),
            old.astype(np.float64),
            old.astype(">f4"),
            old.astype(complex),
        ],
    )
    params[name] = value
    k = pick(draw, ANY)
    what = f"SAE({{{name!r}: {value!r:.60}}}, TopK(k={k!r}))"

    def call() -> None:
        made = sparse_sae.SAE(params, sparse_sae.TopK(k=k))
        made.encode(X)
        json.dumps(made.activation.config())

    return call, (*params, "k:", "params", "d_sae"), what
